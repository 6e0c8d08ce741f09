from __future__ import annotations

import pytest
import torch

from optbench.optimizers.blocks import cut, matrix_shape


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((), (1, 1)), ((5,), (5, 1)), ((5, 3), (5, 3)), ((5, 3, 2), (5, 6)), ((0, 3), (0, 3))],
)
def test_every_parameter_is_a_matrix(shape: tuple[int, ...], expected: tuple[int, int]):
    assert matrix_shape(shape) == expected


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(6, 4), (5, 7), (3, 2, 2), (5,), ()])
def test_joined_blocks_are_the_stack(shape: tuple[int, ...], size: int):
    stack = torch.arange(1, 1 + 3 * torch.Size(shape).numel()).reshape(3, *shape)
    blocks = cut(shape, size, rows=True, columns=True)
    parts = blocks.split(stack)
    assert parts.shape == (3 * blocks.count, blocks.height, blocks.width)
    assert torch.equal(blocks.join(parts).reshape(stack.shape), stack)
    assert parts.sum() == stack.sum()  # filled up with zeros


def test_blocks_go_row_by_row():
    stack = torch.arange(24).reshape(1, 4, 6)
    parts = cut((4, 6), 3, rows=True, columns=True).split(stack)
    assert torch.equal(parts[0], stack[0, :3, :3])
    assert torch.equal(parts[1], stack[0, :3, 3:])
    assert torch.equal(parts[2, 0], stack[0, 3, :3])
    assert not parts[2, 1:].any()


def test_a_side_that_is_not_to_be_cut_stays_whole():
    blocks = cut((6, 4), 2, rows=False, columns=True)
    assert (blocks.height, blocks.width, blocks.count) == (6, 2, 2)


def test_an_empty_parameter_is_one_block():
    blocks = cut((0, 3), 2, rows=True, columns=False)
    assert blocks.count == 1
    assert blocks.split(torch.zeros(2, 0, 3)).shape == (2, 0, 3)
