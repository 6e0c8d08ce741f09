"""Gradients and curvature from micro-batches: those of the whole, also without room."""

from collections.abc import Callable

import pytest
import torch

from optbench.config import ModelConfig
from optbench.optimizers import Sophia, parameter_groups
from optbench.training import cross_entropy
from optbench.training.accumulation import Accumulation
from optbench.training.micro_batches import Batch
from optbench.training.model import Llama

CONFIG = ModelConfig(num_layers=2, d_model=8, d_ff=16, num_heads=2, vocab_size=17, seq_len=6)
ROWS = 7


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(0, CONFIG.vocab_size, (ROWS, CONFIG.seq_len + 1), generator=generator)
    return Batch(tokens, torch.randint(0, 2, (ROWS, CONFIG.seq_len), generator=generator))


def model_of(dtype: torch.dtype = torch.float64) -> Llama:
    return Llama(CONFIG, seed=0).to(dtype)


def gradients(model: Llama) -> list[torch.Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_pieces_have_all_rows_once_and_shares_that_add_up(batch: Batch) -> None:
    for size in (1, 2, 3, 6, 7, 100):
        pieces = batch.split(size)
        assert torch.equal(torch.cat([piece.tokens for piece, _ in pieces]), batch.tokens)
        assert [share for _, share in pieces] == [len(p.tokens) / ROWS for p, _ in pieces]
        assert max(len(piece.tokens) for piece, _ in pieces) == min(size, ROWS)
        documents = [piece.doc_ids for piece, _ in pieces if piece.doc_ids is not None]
        assert batch.doc_ids is not None
        assert torch.equal(torch.cat(documents), batch.doc_ids)
    ((piece, share),) = Batch(batch.tokens).split(None)
    assert share == 1.0
    assert piece.doc_ids is None
    assert piece.predictions == ROWS * CONFIG.seq_len


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 20])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_micro_batches_give_the_gradient_of_the_batch(
    batch: Batch, size: int, dtype: torch.dtype, rtol: float
) -> None:
    whole, parts = model_of(dtype), model_of(dtype)
    loss = whole.loss(batch.tokens, batch.doc_ids)
    loss.backward()
    found = Accumulation(parts, size).accumulate_gradients(batch)
    assert not found.requires_grad
    torch.testing.assert_close(found, loss.detach(), rtol=rtol, atol=0)
    for mine, wanted in zip(gradients(parts), gradients(whole), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=rtol, atol=rtol * wanted.abs().max().item())


def test_a_whole_batch_gives_the_bits_that_it_gave_without_micro_batches(batch: Batch) -> None:
    whole, other = model_of(torch.float32), model_of(torch.float32)
    loss = whole.loss(batch.tokens)
    loss.backward()
    assert Accumulation(other).accumulate_gradients(Batch(batch.tokens)) == loss
    assert all(map(torch.equal, gradients(other), gradients(whole)))


def estimates(batch: Batch, estimator: str, size: int | None) -> list[torch.Tensor]:
    """Sophia's curvature after the first estimate."""
    model = model_of()
    groups = parameter_groups(model, model.roles())
    # A step divides by 1e-12, and what is rounded of a gradient that is zero would move a weight.
    optimizer = Sophia(groups, lr=0.0, estimator=estimator, curvature_interval=1)
    accumulation = Accumulation(model, size)
    accumulation.accumulate_gradients(batch)
    optimizer.step()
    optimizer.zero_grad()
    accumulation.update_curvature(optimizer, batch, noise_seed=3)
    assert gradients(model) == []
    return [state["hessian"] for state in optimizer.state.values()]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("estimator", ["gnb", "hutchinson"])
def test_the_curvature_of_micro_batches_is_that_of_the_batch(
    batch: Batch, estimator: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of one sequence, so that the same labels are sampled whatever comes together."""
    monkeypatch.setattr(cross_entropy, "CHUNK", CONFIG.seq_len)
    whole = estimates(batch, estimator, None)
    for mine, wanted in zip(estimates(batch, estimator, size), whole, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-10, atol=1e-12 * wanted.abs().max().item())


def test_sampled_labels_follow_from_the_seed_alone(batch: Batch) -> None:
    assert all(map(torch.equal, estimates(batch, "gnb", 2), estimates(batch, "gnb", 2)))


def short_of_memory(loss: Callable[..., torch.Tensor], rows: int) -> Callable[..., torch.Tensor]:
    """A loss for which a device has memory for so many rows only; it says so in the backward."""

    class Explodes(torch.autograd.Function):
        @staticmethod
        def forward(_: object, value: torch.Tensor) -> torch.Tensor:
            return value.clone()

        @staticmethod
        def backward(_: object, grad: torch.Tensor) -> torch.Tensor:
            raise torch.OutOfMemoryError(f"no room for {grad.shape}")

    def limited(tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        found = loss(tokens, *rest)
        return Explodes.apply(found) if len(tokens) > rows else found  # type: ignore[return-value]

    return limited


def test_memory_that_runs_out_halves_the_micro_batch_and_changes_nothing_else(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, short = model_of(), model_of()
    loss = Accumulation(whole).accumulate_gradients(batch)
    monkeypatch.setattr(short, "loss", short_of_memory(short.loss, 2))
    accumulation = Accumulation(short)
    torch.testing.assert_close(accumulation.accumulate_gradients(batch), loss, rtol=1e-12, atol=0)
    assert accumulation.size == 2  # 7, 4, 2
    for mine, wanted in zip(gradients(short), gradients(whole), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-14)


def test_a_late_micro_batch_without_room_leaves_nothing_of_the_earlier_ones(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, short = model_of(), model_of()
    Accumulation(whole).accumulate_gradients(batch)
    calls = 0
    plain = short.loss

    def third_fails(*given: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise torch.OutOfMemoryError("fragmented")
        return plain(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(short, "loss", third_fails)
    accumulation = Accumulation(short, 2)
    accumulation.accumulate_gradients(batch)
    assert (accumulation.size, calls) == (1, 3 + ROWS)
    for mine, wanted in zip(gradients(short), gradients(whole), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-14)


def test_an_estimate_without_room_is_made_again_with_the_same_labels(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK", CONFIG.seq_len)
    wanted = estimates(batch, "gnb", 4)
    plain = Llama.sampled_label_loss

    def limited(self: Llama, tokens: torch.Tensor, *rest: object) -> torch.Tensor:
        loss = plain(self, tokens, *rest)  # type: ignore[arg-type]
        if len(tokens) > 2:
            raise torch.OutOfMemoryError("labels were drawn already")
        return loss

    monkeypatch.setattr(Llama, "sampled_label_loss", limited)
    for mine, other in zip(estimates(batch, "gnb", 4), wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12 * other.abs().max().item())


def test_a_sequence_that_does_not_fit_by_itself_is_an_error_with_a_remedy(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of()
    monkeypatch.setattr(model, "loss", short_of_memory(model.loss, 0))
    with pytest.raises(torch.OutOfMemoryError) as caught:
        Accumulation(model).accumulate_gradients(batch)
    assert caught.value.__notes__ == [
        "A single sequence of 6 tokens does not fit. Checkpoint activations "
        "(--activation-checkpointing), or take a larger device."
    ]
