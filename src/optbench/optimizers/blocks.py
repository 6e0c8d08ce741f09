"""Blocks: parameters of any shape as stacks of matrices, and matrices cut into equal blocks."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad


def matrix_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of a parameter as a matrix: a vector is a column, a kernel (out, rest)."""
    rows = shape[0] if shape else 1
    columns = 1
    for side in shape[1:]:
        columns *= side
    return rows, columns


@dataclass(frozen=True, slots=True)
class Blocks:
    """How a matrix (rows, columns) is cut into blocks (height, width).

    Blocks at the lower and right edges are filled up with zeros.
    """

    rows: int
    columns: int
    height: int
    width: int

    @property
    def down(self) -> int:
        """Blocks above each other."""
        return -(-self.rows // max(1, self.height))

    @property
    def across(self) -> int:
        """Blocks beside each other."""
        return -(-self.columns // max(1, self.width))

    @property
    def count(self) -> int:
        """Blocks of one matrix; an empty one counts as one."""
        return max(1, self.down * self.across)

    def lead(self, batch: int) -> tuple[int, ...]:
        """The leading axes of what B matrices keep block by block: (B,), or (B, count) if cut."""
        return (batch, self.count) if self.count > 1 else (batch,)

    def split(self, stack: Tensor) -> Tensor:
        """(B, …) with B·rows·columns elements → (B·count, height, width), row by row of blocks."""
        matrices = stack.reshape(stack.shape[0], self.rows, self.columns)
        if self.count == 1:
            return matrices
        height, width = self.down * self.height, self.across * self.width
        if (height, width) != (self.rows, self.columns):
            matrices = pad(matrices, (0, width - self.columns, 0, height - self.rows))
        tiles = matrices.reshape(-1, self.down, self.height, self.across, self.width)
        return tiles.transpose(2, 3).reshape(-1, self.height, self.width)

    def join(self, blocks: Tensor) -> Tensor:
        """(B·count, height, width) → (B, rows, columns), what was filled up left out."""
        if self.count == 1:
            return blocks
        tiles = blocks.reshape(-1, self.down, self.across, self.height, self.width)
        height, width = self.down * self.height, self.across * self.width
        matrices = tiles.transpose(2, 3).reshape(-1, height, width)
        return matrices[:, : self.rows, : self.columns]


def cut(shape: tuple[int, ...], size: int, *, rows: bool = False, columns: bool = False) -> Blocks:
    """Blocks of at most ``size`` on the sides named, whole on the others; size 0 cuts nothing."""
    height, width = matrix_shape(shape)
    return Blocks(
        height,
        width,
        min(height, size) if size and rows else height,
        min(width, size) if size and columns else width,
    )
