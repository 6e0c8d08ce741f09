"""Curvature estimates against exact second derivatives of a tiny model."""

import pytest
import torch

from optbench.config import ModelConfig
from optbench.optimizers import Sophia, parameter_groups
from optbench.training.curvature_estimates import accumulate_hessian_product, update_curvature
from optbench.training.label_sampler import LabelSampler
from optbench.training.model import Llama

TINY = ModelConfig(num_layers=1, d_model=4, d_ff=4, num_heads=1, vocab_size=5, seq_len=4)


@pytest.fixture
def model() -> Llama:
    return Llama(TINY, seed=0)


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.tensor([[0, 1, 2, 3, 4], [4, 2, 0, 1, 3], [1, 1, 3, 0, 2]])


def test_the_twice_differentiable_loss_is_the_loss(model: Llama, tokens: torch.Tensor) -> None:
    torch.testing.assert_close(model.twice_differentiable_loss(tokens), model.loss(tokens))


def loss_gradients(model: Llama, tokens: torch.Tensor) -> tuple[torch.Tensor, ...]:
    logits = model(tokens[:, :-1]).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten())
    return torch.autograd.grad(loss, list(model.parameters()))


def test_the_hessian_product_is_that_of_finite_differences(
    model: Llama, tokens: torch.Tensor
) -> None:
    accumulate_hessian_product(model, tokens, torch.Generator().manual_seed(3))
    found = [p.grad.double() for p in model.parameters() if p.grad is not None]
    generator = torch.Generator().manual_seed(3)
    z = [torch.randn(p.shape, generator=generator) for p in model.parameters()]

    def shifted(by: float) -> tuple[torch.Tensor, ...]:
        copy = Llama(TINY, seed=0).double()
        with torch.no_grad():
            for p, direction in zip(copy.parameters(), z, strict=True):
                p.add_(direction, alpha=by)
        return loss_gradients(copy, tokens)

    for own, up, down, direction in zip(found, shifted(1e-5), shifted(-1e-5), z, strict=True):
        expected = direction * (up - down) / 2e-5
        torch.testing.assert_close(own, expected, rtol=1e-3, atol=1e-4)


def test_sampled_labels_follow_the_predictions(model: Llama, tokens: torch.Tensor) -> None:
    """Their mean loss is the mean entropy of the predictions."""
    generator = torch.Generator().manual_seed(0)
    fifty = tokens.repeat(50, 1)
    with torch.no_grad():
        losses = torch.stack(
            [model.sampled_label_loss(fifty, LabelSampler(generator, 600)) for _ in range(40)]
        )
        log_probs = model(tokens[:, :-1]).log_softmax(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1).mean()
    standard_error = losses.std() / len(losses) ** 0.5
    assert abs(losses.mean() - entropy) < 4 * standard_error


@pytest.mark.parametrize("estimator", ["gnb", "hutchinson"])
def test_an_estimate_moves_the_state_and_leaves_no_gradients(
    model: Llama, tokens: torch.Tensor, estimator: str
) -> None:
    optimizer = Sophia(
        parameter_groups(model, model.roles()), estimator=estimator, curvature_interval=1
    )
    model.loss(tokens).backward()
    optimizer.step()
    optimizer.zero_grad()
    assert optimizer.curvature_due()
    weights = [p.detach().clone() for p in model.parameters()]
    update_curvature(optimizer, model, tokens, torch.Generator().manual_seed(0))
    assert not optimizer.curvature_due()
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
    hessians = [state["hessian"] for state in optimizer.state.values()]
    assert any(h.abs().max() > 0 for h in hessians)
