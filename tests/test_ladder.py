from __future__ import annotations

import pytest
import torch

from optbench.config import Role
from optbench.ladder import NANO_SIZES, PAPER_SIZES, SIZES, Cell
from optbench.training.model import Llama


@pytest.mark.parametrize(
    ("size", "heads", "millions", "embedding_millions", "billion_tokens"),
    [
        ("130m", 8, 134.2, 131.3, 2.68),
        ("300m", 12, 302.0, 197.0, 6.04),
        ("520m", 16, 536.9, 262.7, 10.74),
        ("1.2b", 24, 1208.0, 394.0, 24.16),
    ],
)
def test_the_papers_sizes_are_those_of_its_table(
    size: str, heads: int, millions: float, embedding_millions: float, billion_tokens: float
) -> None:
    model = PAPER_SIZES[size]
    gains = (2 * model.num_layers + 1) * model.d_model
    embeddings = model.num_params - model.num_nonembedding_params - gains
    assert round(model.num_nonembedding_params / 1e6, 1) == millions
    assert round(embeddings / 1e6, 1) == embedding_millions
    assert (model.num_heads, model.head_dim) == (heads, 64)
    assert round(Cell(size, model, 1.0).num_tokens / 1e9, 2) == billion_tokens


@pytest.mark.parametrize(
    ("size", "batch_size", "petaflops"),
    [("130m", 128, 0.84), ("300m", 128, 1.58), ("520m", 128, 2.52), ("1.2b", 256, 10.1)],
)
def test_a_step_of_a_papers_size_takes_the_flops_of_its_table(
    size: str, batch_size: int, petaflops: float
) -> None:
    model = PAPER_SIZES[size]
    flops = batch_size * model.seq_len * model.train_flops_per_token
    assert flops / 1e15 == pytest.approx(petaflops, rel=0.007)


def test_a_paper_size_is_thirty_two_layers_of_sixteen_squares() -> None:
    for model in PAPER_SIZES.values():
        assert model.num_nonembedding_params == 32 * 16 * model.d_model**2


def test_the_nano_ladder_keeps_the_papers_proportions() -> None:
    def proportions(sizes: dict[str, int]) -> list[float]:
        smallest = min(sizes.values())
        return [n / smallest for n in sizes.values()]

    nano = proportions({k: m.num_nonembedding_params for k, m in NANO_SIZES.items()})
    paper = proportions({k: m.num_nonembedding_params for k, m in PAPER_SIZES.items()})
    assert nano == paper == [1, 2.25, 4, 9]


@pytest.mark.parametrize("size", SIZES)
def test_every_size_can_be_built(size: str) -> None:
    assert list(SIZES[size].problems()) == []


@pytest.mark.parametrize("size", SIZES)
def test_parameter_counts_are_those_of_the_module(size: str) -> None:
    config = SIZES[size]
    with torch.device("meta"):  # shapes without memory
        model = Llama(config, seed=0)
    counts = {name: p.numel() for name, p in model.named_parameters()}
    roles = model.roles()
    assert sum(counts.values()) == config.num_params
    matrices = sum(n for name, n in counts.items() if roles[name] is Role.MATRIX)
    assert matrices == config.num_nonembedding_params


def test_a_cell_has_twenty_tokens_per_parameter_times_its_ratio() -> None:
    cell = Cell("d32", NANO_SIZES["d32"], 0.5)
    assert NANO_SIZES["d32"].num_nonembedding_params == 2 * 16 * 32**2
    assert cell.num_tokens == 10 * 2 * 16 * 32**2
    assert cell.label == "d32 0.5x"
    assert Cell("d32", NANO_SIZES["d32"], 8.0).label == "d32 8x"
