"""Labels drawn from predictions: those of torch, however the batch is split."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from optbench.training import cross_entropy
from optbench.training.label_sampler import LabelSampler

CHUNK, VOCAB = 8, 11


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", CHUNK)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def predictions(positions: int) -> torch.Tensor:
    noise = torch.randn(positions, VOCAB, generator=torch.Generator().manual_seed(positions))
    return noise.softmax(-1)


def drawn(noise: LabelSampler, probabilities: torch.Tensor) -> torch.Tensor:
    return torch.cat([noise.sample(piece) for piece in noise.split(probabilities)])


def multinomial(positions: int) -> torch.Tensor:
    """torch's own draws, a chunk at a time."""
    source = generator()
    chunks = predictions(positions).split(CHUNK)
    return torch.cat([torch.multinomial(p, 1, generator=source) for p in chunks]).flatten()


@pytest.mark.parametrize("positions", [1, 7, 8, 9, 16, 30])
def test_labels_of_a_whole_batch_are_those_of_torch_multinomial(positions: int) -> None:
    found = drawn(LabelSampler(generator(), positions), predictions(positions))
    assert torch.equal(found, multinomial(positions))


@given(st.integers(1, 40), st.lists(st.integers(1, 12), max_size=10), st.integers(0, 39))
def test_labels_depend_on_their_place_in_the_batch_alone(
    positions: int, sizes: list[int], start: int
) -> None:
    start = min(start, positions - 1)
    cross_entropy.CHUNK = CHUNK
    noise, place, found = LabelSampler(generator(), positions, start=start), start, []
    for size in [*sizes, positions]:
        piece = predictions(positions)[place : min(place + size, positions)]
        if len(piece):
            found.append(drawn(noise, piece))
            place += len(piece)
    assert torch.equal(torch.cat(found), multinomial(positions)[start:])
