"""The states of the process's random number generators, for a run that is to go on later.

Nothing of this package draws from them: its noise is a function of seed and step. An optimizer of
one's own may.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class RandomState:
    """States of torch's generators (CPU, and the current GPU if there is one), Python's, NumPy's.

    Args:
        torch: bytes, by the kind of device.
        python: as ``random.getstate`` gives it.
        numpy: as ``numpy.random.get_state`` gives it, with a tuple for the array.
    """

    torch: Mapping[str, Tensor]
    python: tuple[Any, ...]
    numpy: tuple[Any, ...]

    @classmethod
    def current(cls) -> RandomState:
        """As they are now."""
        states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            states["cuda"] = torch.cuda.get_rng_state()
        name, keys, *rest = np.random.get_state()  # noqa: NPY002  # the one that others draw from
        return cls(states, random.getstate(), (name, tuple(map(int, keys)), *rest))

    def check(self) -> None:
        """Try the states on generators that nobody uses.

        Raises:
            RuntimeError: not a state of torch's.
            TypeError, ValueError, LookupError, ArithmeticError: not one of Python's or NumPy's.
        """
        torch.Generator().set_state(self.torch["cpu"])
        if "cuda" in self.torch and torch.cuda.is_available():
            torch.Generator("cuda").set_state(self.torch["cuda"])
        random.Random().setstate(self.python)
        np.random.RandomState().set_state(self._numpy())

    def restore(self) -> None:
        """Set them; a GPU that was not there before, or is not there now, is left out."""
        torch.set_rng_state(self.torch["cpu"])
        if "cuda" in self.torch and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.torch["cuda"])
        random.setstate(self.python)
        np.random.set_state(self._numpy())  # noqa: NPY002

    def _numpy(self) -> tuple[Any, ...]:
        name, keys, *rest = self.numpy
        return (name, np.array(keys, dtype=np.uint32), *rest)
