from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from optbench.training import cross_entropy
from optbench.training.cross_entropy import CHUNK, LEAST_LOG_PROB, head_cross_entropy


def problem(
    positions: int, d_model: int = 8, vocab_size: int = 13, *, scale: float = 1.0, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, head and targets, the first two with gradients."""
    generator = torch.Generator().manual_seed(seed)
    hidden = scale * torch.randn(positions, d_model, generator=generator)
    weight = torch.randn(vocab_size, d_model, generator=generator)
    targets = torch.randint(0, vocab_size, (positions,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def reference(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients of torch's own cross-entropy, in float64."""
    hidden, weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    loss = F.cross_entropy(hidden @ weight.T, targets)
    grad_hidden, grad_weight = torch.autograd.grad(loss, (hidden, weight))
    return loss.detach(), grad_hidden, grad_weight


@pytest.mark.parametrize("positions", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7])
@pytest.mark.parametrize(("d_model", "vocab_size"), [(8, 13), (1, 2), (5, 1)])
def test_value_and_gradients_are_those_of_cross_entropy(
    positions: int, d_model: int, vocab_size: int
) -> None:
    hidden, weight, targets = problem(positions, d_model, vocab_size)
    loss = head_cross_entropy(hidden, weight, targets)
    got = torch.autograd.grad(loss, (hidden, weight))
    want_loss, *want = reference(hidden, weight, targets)
    assert (loss.dtype, loss.shape) == (torch.float32, ())
    torch.testing.assert_close(loss.double(), want_loss, rtol=1e-6, atol=1e-6)
    for gradient, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-6)


def test_no_probability_is_subnormal_because_those_are_slow() -> None:
    hidden = torch.ones(4, 1, requires_grad=True)
    weight = torch.tensor([[0.0], [-95.0]], requires_grad=True)  # exp(−95) is subnormal
    loss = head_cross_entropy(hidden, weight, torch.zeros(4, dtype=torch.int64))
    (grad_weight,) = torch.autograd.grad(loss, [weight])
    assert grad_weight[1].item() == pytest.approx(math.exp(LEAST_LOG_PROB), rel=1e-5, abs=0)


def test_logits_that_underflow_do_not_change_the_gradients() -> None:
    hidden, weight, targets = problem(40, 8, 64, scale=200.0)
    log_probs = F.log_softmax((hidden @ weight.T).detach(), dim=-1)
    assert (log_probs.exp() < torch.finfo(torch.float32).tiny).double().mean() > 0.5
    loss = head_cross_entropy(hidden, weight, targets)
    got = torch.autograd.grad(loss, (hidden, weight))
    _, *want = reference(hidden, weight, targets)
    for gradient, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-3)


@given(positions=st.integers(1, 40), vocab_size=st.integers(1, 9), chunk=st.integers(1, 41))
def test_the_size_of_a_chunk_does_not_matter(positions: int, vocab_size: int, chunk: int) -> None:
    hidden, weight, targets = problem(positions, 4, vocab_size)
    whole = head_cross_entropy(hidden, weight, targets)
    whole_gradients = torch.autograd.grad(whole, (hidden, weight))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cross_entropy, "CHUNK", chunk)
        pieces = head_cross_entropy(hidden, weight, targets)
        gradients = torch.autograd.grad(pieces, (hidden, weight))
    torch.testing.assert_close(pieces, whole, rtol=1e-6, atol=1e-6)
    for gradient, wanted in zip(gradients, whole_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_gradients_are_the_slopes_of_the_loss() -> None:
    hidden, weight, targets = (
        t.double() if t.is_floating_point() else t for t in problem(20, 3, 5)
    )
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    gradients = torch.autograd.grad(head_cross_entropy(hidden, weight, targets), (hidden, weight))
    generator = torch.Generator().manual_seed(1)
    for tensor, gradient in zip((hidden, weight), gradients, strict=True):
        direction = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        direction *= 0.01 / direction.norm()
        with torch.no_grad():
            losses = []
            for sign in (1, -1):
                moved = [t + sign * direction if t is tensor else t for t in (hidden, weight)]
                losses.append(F.cross_entropy(moved[0] @ moved[1].T, targets))
        slope = (losses[0] - losses[1]) / 2
        torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-8)


def test_an_upstream_gradient_scales_the_gradients() -> None:
    hidden, weight, targets = problem(CHUNK + 3)
    once = torch.autograd.grad(head_cross_entropy(hidden, weight, targets), (hidden, weight))
    loss = -4 * head_cross_entropy(hidden, weight, targets) + 1
    for scaled, gradient in zip(torch.autograd.grad(loss, (hidden, weight)), once, strict=True):
        assert torch.equal(scaled, -4 * gradient)


def test_gradients_go_on_to_what_the_hidden_states_came_from() -> None:
    _, weight, targets = problem(30, 4, 7)
    first = torch.randn(30, 6, generator=torch.Generator().manual_seed(2))
    mixing = torch.randn(6, 4, generator=torch.Generator().manual_seed(3)).requires_grad_()
    head_cross_entropy(first @ mixing, weight, targets).backward()
    got, mixing.grad = mixing.grad, None
    F.cross_entropy(first @ mixing @ weight.T, targets).backward()
    assert got is not None
    assert mixing.grad is not None
    torch.testing.assert_close(got, mixing.grad, rtol=1e-5, atol=1e-6)


def test_only_one_of_the_two_may_need_gradients() -> None:
    hidden, weight, targets = problem(9)
    want = reference(hidden, weight, targets)
    head_cross_entropy(hidden, weight.detach(), targets).backward()
    head_cross_entropy(hidden.detach(), weight, targets).backward()
    for tensor, wanted in ((hidden, want[1]), (weight, want[2])):
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad.double(), wanted, rtol=1e-5, atol=1e-6)


def test_extreme_logits_neither_overflow_nor_lose_the_gradient() -> None:
    hidden, weight, targets = problem(50, scale=300.0)
    loss = head_cross_entropy(hidden, weight, targets)
    got = torch.autograd.grad(loss, (hidden, weight))
    want_loss, *want = reference(hidden, weight, targets)
    torch.testing.assert_close(loss.double(), want_loss, rtol=1e-5, atol=1e-5)
    for gradient, wanted in zip(got, want, strict=True):
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=1e-3)


def test_the_inputs_are_left_as_they_were() -> None:
    inputs = problem(20)
    before = [t.detach().clone() for t in inputs]
    head_cross_entropy(*inputs).backward()
    assert all(torch.equal(t, b) for t, b in zip(inputs, before, strict=True))


def test_without_gradients_the_value_is_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = problem(CHUNK + 5)
    with_gradients = head_cross_entropy(*inputs).detach()

    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a gradient was computed although nobody can ask for it")

    monkeypatch.setattr(torch, "mm", refuse)
    monkeypatch.setattr(torch.Tensor, "addmm_", refuse)
    with torch.no_grad():
        loss = head_cross_entropy(*inputs)
    assert not loss.requires_grad
    assert torch.equal(loss, with_gradients)
    with torch.inference_mode():
        assert torch.equal(head_cross_entropy(*inputs), with_gradients)
    assert torch.equal(head_cross_entropy(*(t.detach() for t in inputs)), with_gradients)


def test_a_target_outside_of_the_vocabulary_is_refused() -> None:
    hidden, weight, targets = problem(4)
    targets[2] = len(weight)
    with pytest.raises(RuntimeError, match="out of bounds"):
        head_cross_entropy(hidden, weight, targets)


class LargestTensor(TorchDispatchMode):
    """The most elements that any tensor has which an operation makes."""

    numel = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_true_vocabulary_never_has_the_logits_of_all_positions(dtype: torch.dtype) -> None:
    positions, vocab_size = 4 * CHUNK, 128_256
    hidden, weight, targets = problem(positions, 2, vocab_size)
    with LargestTensor() as largest:
        head_cross_entropy(hidden.to(dtype), weight, targets).backward()
    assert largest.numel == CHUNK * vocab_size == positions * vocab_size / 4


@pytest.mark.parametrize("weight_dtype", [torch.float32, torch.bfloat16])
def test_products_in_bfloat16_are_summed_in_float32(weight_dtype: torch.dtype) -> None:
    """So the errors are those of rounded inputs, however many chunks there are."""
    hidden, weight, targets = problem(40 * CHUNK, 8, 13)
    low = hidden.detach().bfloat16().requires_grad_()
    head = weight.detach().to(weight_dtype).requires_grad_()
    loss = head_cross_entropy(low, head, targets)
    got = torch.autograd.grad(loss, (low, head))
    assert (loss.dtype, got[0].dtype, got[1].dtype) == (torch.float32, torch.bfloat16, weight_dtype)
    want_loss, *want = reference(low, head.bfloat16(), targets)
    torch.testing.assert_close(loss.double(), want_loss, rtol=2e-3, atol=0)
    for gradient, wanted in zip(got, want, strict=True):
        error = (gradient.double() - wanted).norm() / wanted.norm()
        assert error < 6e-3  # a number of bfloat16 is off by up to 2⁻⁹ = 2e-3


def test_doubles_are_not_rounded_to_float32() -> None:
    hidden, weight, targets = problem(CHUNK + 9)
    hidden, weight = (t.detach().double().requires_grad_() for t in (hidden, weight))
    loss = head_cross_entropy(hidden, weight, targets)
    want = reference(hidden, weight, targets)
    for mine, wanted in zip(
        (loss, *torch.autograd.grad(loss, (hidden, weight))), want, strict=True
    ):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-15)


def test_a_share_that_bfloat16_lacks_scales_the_gradient_exactly() -> None:
    hidden, weight, targets = problem(30)
    low = hidden.detach().bfloat16().requires_grad_()
    (whole,) = torch.autograd.grad(head_cross_entropy(low, weight, targets), [low])
    (third,) = torch.autograd.grad(head_cross_entropy(low, weight, targets) * (1 / 3), [low])
    assert torch.equal(third, (whole.float() * (1 / 3)).bfloat16())
