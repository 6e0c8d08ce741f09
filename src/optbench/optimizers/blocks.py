"""Blocks: parameters of any shape as stacks of matrices, and matrices cut into equal blocks.

A tensor of more than two dimensions is one of two things, which its group decides by
`matrix_layout`: "filters" of a convolution, (out, in, *kernel), are one matrix (out, in·kernel);
"experts", matrices along further axes, (experts, m, n), are that many.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

MATRIX_LAYOUTS = ("filters", "experts")


def is_stacked(
    shape: Sequence[int], group: Mapping[str, Any], *, three_axes: str = "filters"
) -> bool:
    """Whether a parameter is a stack of matrices.

    Args:
        shape: of the parameter.
        group: that may hold `matrix_layout`.
        three_axes: what a tensor of three dimensions is where the group has no `matrix_layout`.
    """
    default = three_axes if len(shape) == 3 else "filters"
    return len(shape) > 2 and (group.get("matrix_layout") or default) == "experts"


def matrix_shape(shape: Sequence[int], *, stacked: bool = False) -> tuple[int, int]:
    """Rows and columns of a parameter as a matrix: a vector is a column, filters (out, rest).

    Args:
        shape: of the parameter.
        stacked: it is a stack, and this is about each of its matrices.
    """
    if stacked:
        return shape[-2], shape[-1]
    return shape[0] if shape else 1, math.prod(shape[1:])


def as_matrices(stack: Tensor, *, stacked: bool) -> Tensor:
    """(B, *shape) → (B, …, m, n)."""
    return stack if stacked or stack.ndim == 3 else stack.flatten(2)


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the matrices (rows, columns) of a parameter are cut into blocks (height, width).

    Blocks at the lower and right edges are filled up with zeros.
    """

    rows: int
    columns: int
    height: int
    width: int
    matrices: int = 1

    @property
    def down(self) -> int:
        """Blocks above each other."""
        return -(-self.rows // max(1, self.height))

    @property
    def across(self) -> int:
        """Blocks beside each other."""
        return -(-self.columns // max(1, self.width))

    @property
    def per_matrix(self) -> int:
        """Blocks of one matrix; an empty one counts as one."""
        return max(1, self.down * self.across)

    @property
    def count(self) -> int:
        """Blocks of the parameter."""
        return max(1, self.matrices) * self.per_matrix

    def lead(self, batch: int) -> tuple[int, ...]:
        """The leading axes of what B parameters keep by block: (B,), or (B, count) if several."""
        return (batch, self.count) if self.count > 1 else (batch,)

    def apart(self, stack: Tensor) -> Tensor:
        """(B, *shape) → (B·matrices, rows, columns)."""
        return stack.reshape(stack.shape[0] * self.matrices, self.rows, self.columns)

    def split(self, stack: Tensor) -> Tensor:
        """(B, *shape) → (B·count, height, width), row by row of blocks, matrix by matrix."""
        return self.tiles(self.apart(stack))

    def tiles(self, matrices: Tensor) -> Tensor:
        """(N, rows, columns) → (N·per_matrix, height, width)."""
        if self.per_matrix == 1:
            return matrices
        height, width = self.down * self.height, self.across * self.width
        if (height, width) != (self.rows, self.columns):
            matrices = pad(matrices, (0, width - self.columns, 0, height - self.rows))
        tiles = matrices.reshape(-1, self.down, self.height, self.across, self.width)
        return tiles.transpose(2, 3).reshape(-1, self.height, self.width)

    def join(self, blocks: Tensor) -> Tensor:
        """(B·count, height, width) → (B·matrices, rows, columns), what was filled up left out."""
        if self.per_matrix == 1:
            return blocks
        tiles = blocks.reshape(-1, self.down, self.across, self.height, self.width)
        height, width = self.down * self.height, self.across * self.width
        matrices = tiles.transpose(2, 3).reshape(-1, height, width)
        return matrices[:, : self.rows, : self.columns]


def cut(
    shape: tuple[int, ...],
    size: int,
    *,
    rows: bool = False,
    columns: bool = False,
    stacked: bool = False,
) -> Blocks:
    """Blocks of at most ``size`` on the sides named, whole on the others; size 0 cuts nothing."""
    height, width = matrix_shape(shape, stacked=stacked)
    return Blocks(
        height,
        width,
        min(height, size) if size and rows else height,
        min(width, size) if size and columns else width,
        math.prod(shape[:-2]) if stacked else 1,
    )
