"""Permutations of huge ranges that are computed one index at a time.

A Feistel network over the next even power of two, walked along its cycle until it falls into the
range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002): no table, no state, and
every index comes exactly once whatever the range. It is a shuffle, not a cipher.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ROUNDS = 6
# Odd constants of the finaliser of MurmurHash3 (Appleby): full avalanche on 64 bits.
_FIRST = np.uint64(0xFF51AFD7ED558CCD)
_SECOND = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)


@dataclass(frozen=True, slots=True)
class Permutation:
    """A permutation of ``range(size)``, another one for every name.

    Args:
        size: numbers permuted, at least 1 and below 2⁶².
        name: what the permutation is for, such as corpus, source, seed and epoch.
    """

    size: int
    name: str

    def __post_init__(self) -> None:
        assert 1 <= self.size < 2**62

    def __call__(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Images of ``positions``, each in [0, size); (n,) to (n,)."""
        half = max(1, -(-(self.size - 1).bit_length() // 2))
        keys = self._keys()
        values = _feistel(positions.astype(np.uint64), np.uint64(half), keys)
        outside = np.flatnonzero(values >= self.size)
        while outside.size:
            values[outside] = _feistel(values[outside], np.uint64(half), keys)
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _keys(self) -> npt.NDArray[np.uint64]:
        digest = hashlib.sha512(self.name.encode()).digest()
        return np.frombuffer(digest, "<u8")[:ROUNDS]


def _feistel(
    values: npt.NDArray[np.uint64], half: np.uint64, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    values = (values ^ (values >> _SHIFT)) * _FIRST
    values = (values ^ (values >> _SHIFT)) * _SECOND
    return values ^ (values >> _SHIFT)
