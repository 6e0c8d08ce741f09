"""Cross-entropy of a linear head without the logits of a whole batch ever being stored.

The logits of a chunk of positions are made, turned into probabilities in place and used at once for
the gradients of the hidden states and of the head, while they are still in the cache. Memory is
O(chunk · V) instead of O(B·S · V), and each logit is written three times instead of about eight.
The gradients are those of the mean loss; :meth:`backward` only scales them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

# No probability below exp(−60) ≈ 9e-27 is told from that: results below float32's normal range make
# the exponential and the products after it 20 times slower on a CPU, and weigh nothing.
LEAST_LOG_PROB = -60.0
CHUNK = 256  # positions; 256 · 1,024 float32 logits are 1 MB and stay in a core's own cache


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, targets: Tensor
    ) -> Tensor:
        num_positions = len(targets)
        needs_grad = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_weight = torch.zeros_like(weight) if needs_grad else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, num_positions, CHUNK):
            piece = slice(start, start + CHUNK)
            log_probs = F.log_softmax((hidden[piece] @ weight.T).float(), dim=-1)
            target = targets[piece, None]
            target_log_probs = log_probs.gather(1, target)
            total -= target_log_probs.sum()
            if grad_hidden is None or grad_weight is None:
                continue
            probabilities = log_probs.clamp_(min=LEAST_LOG_PROB).exp_()
            probabilities.scatter_(1, target, target_log_probs.expm1())
            error = probabilities.mul_(1 / num_positions).to(hidden.dtype)
            torch.mm(error, weight, out=grad_hidden[piece])
            grad_weight.addmm_(error.T, hidden[piece])
        if grad_hidden is not None and grad_weight is not None:
            ctx.save_for_backward(grad_hidden, grad_weight)
        return (total / num_positions).float()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_loss: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        grad_hidden, grad_weight = ctx.saved_tensors  # type: ignore[attr-defined]
        scale = grad_loss.to(grad_hidden.dtype)
        return grad_hidden * scale, grad_weight * scale, None


def head_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of −log softmax(hidden · weightᵀ)[target], in nats, as a float32 scalar.

    Args:
        hidden: (positions, D).
        weight: (V, D).
        targets: (positions,) int64 token ids.
    """
    if not torch.is_grad_enabled():
        # Inside the function, parameters look as if they needed gradients even under no_grad.
        hidden, weight = hidden.detach(), weight.detach()
    return _HeadCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-any-return]
