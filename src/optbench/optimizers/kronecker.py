"""Kronecker factors: stacks of matrices between a left and a right factor, and their fitting."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from optbench.optimizers.linalg import spectral_norm_lower_bound

# Products with triangular matrices go by panels of rows that leave their zeros out. Narrower ones
# leave out more, but are slower per operation.
NARROWEST_PANEL = 128
MOST_PANELS = 8


@dataclass(frozen=True, slots=True)
class Factors:
    """Q₁ and Q₂ for a stack of N matrices (h, w).

    Args:
        rows: Q₁, (N, h, h) upper triangular or (N, h) diagonal.
        columns: Q₂, (N, w, w) upper triangular or (N, w) diagonal; None for vectors, w = 1.
    """

    rows: Tensor
    columns: Tensor | None

    def transform(self, x: Tensor) -> Tensor:
        """Q₁·X·Q₂ᵀ."""
        if self.columns is not None:
            x = _times(self.columns, x.mT).mT
        return _times(self.rows, x)

    def solve(self, v: Tensor) -> Tensor:
        """Q₁⁻ᵀ·V·Q₂⁻¹."""
        if self.columns is not None:
            v = _solve(self.columns, v.mT).mT
        return _solve(self.rows, v)

    def precondition(self, x: Tensor) -> Tensor:
        """Q₁ᵀ·Q₁·X·Q₂ᵀ·Q₂."""
        if self.columns is not None:
            if self.columns.ndim == 3 and 4 * x.shape[2] <= x.shape[1]:
                # One full product of a tall X costs less than two halves, once Q₂ᵀ·Q₂ is cheap.
                x = x @ _transpose_times(self.columns, self.columns)
            else:
                x = _squared_times(self.columns, x.mT).mT
        return _squared_times(self.rows, x)

    def balance(self) -> None:
        """Scale Q₁ and Q₂ to equal largest elements; their product stays what it is."""
        if self.columns is None:
            return
        factors = (self.rows, self.columns)
        largest = [factor.abs().flatten(1).amax(1) for factor in factors]
        mean = (largest[0] * largest[1]).sqrt()
        for factor, norm in zip(factors, largest, strict=True):
            factor.mul_((mean / norm).view(-1, *[1] * (factor.ndim - 1)))

    def fit(self, a: Tensor, b: Tensor, rate: Tensor) -> None:
        """Move both factors, in place, until A·Aᵀ = B·Bᵀ and Aᵀ·A = Bᵀ·B on average.

        Args:
            a: transformed gradients, (N, h, w).
            b: solved noise, (N, h, w).
            rate: relative size of the step, (N,).
        """
        _move(self.rows, a, b, rate)
        if self.columns is not None:
            _move(self.columns, a.mT, b.mT, rate)


def update_noise(like: Tensor, seed: int, count: int) -> Tensor:
    """V of the update number ``count``, in the shape, dtype and on the device of ``like``.

    It is drawn in float32 for every dtype, so that it is the same noise.
    """
    generator = torch.Generator(like.device).manual_seed(zlib.crc32(f"{seed} {count}".encode()))
    noise = torch.randn(like.shape, dtype=torch.float32, device=like.device, generator=generator)
    return noise.to(like.dtype)


def _panels(size: int) -> Iterator[slice]:
    width = max(NARROWEST_PANEL, -(-size // MOST_PANELS))
    return (slice(start, min(start + width, size)) for start in range(0, size, width))


def _times(factor: Tensor, x: Tensor) -> Tensor:
    """Q·X."""
    if factor.ndim == 2:
        return factor.unsqueeze(-1) * x
    parts = [factor[:, rows, rows.start :] @ x[:, rows.start :] for rows in _panels(x.shape[1])]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _transpose_times(factor: Tensor, x: Tensor) -> Tensor:
    """Qᵀ·X for a triangular Q."""
    parts = [factor[:, : rows.stop, rows].mT @ x[:, : rows.stop] for rows in _panels(x.shape[1])]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _squared_times(factor: Tensor, x: Tensor) -> Tensor:
    """Qᵀ·Q·X."""
    if factor.ndim == 2:
        return factor.square().unsqueeze(-1) * x
    return _transpose_times(factor, _times(factor, x))


def _solve(factor: Tensor, v: Tensor) -> Tensor:
    """Q⁻ᵀ·V."""
    if factor.ndim == 2:
        return v / factor.unsqueeze(-1)
    return torch.linalg.solve_triangular(factor.mT, v, upper=False)


def _move(factor: Tensor, a: Tensor, b: Tensor, rate: Tensor) -> None:
    """Q ← Q − ℓ/‖A·Aᵀ + B·Bᵀ‖·triu(A·Aᵀ − B·Bᵀ)·Q."""
    tiny = torch.finfo(a.dtype).tiny
    if factor.ndim == 2:
        up, down = a.square().sum(-1), b.square().sum(-1)
        rate = rate / (up + down).amax(-1).clamp(min=tiny)
        factor.sub_((up - down).mul_(rate.unsqueeze(-1)).mul_(factor))
        return
    up, down = a @ a.mT, b @ b.mT
    rate = rate / spectral_norm_lower_bound(up + down).clamp(min=tiny)
    difference = up.sub_(down)
    for rows in _panels(factor.shape[1]):
        # From the top: a panel reads rows below itself, which are still the old ones.
        rest = slice(rows.start, None)
        panel = difference[:, rows, rest].triu()
        factor[:, rows, rest].sub_((panel @ factor[:, rest, rest]).mul_(rate[:, None, None]))
