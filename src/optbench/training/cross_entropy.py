"""Cross-entropy of a linear head without the logits of a whole batch ever being stored.

The logits of a chunk of positions are made, turned into probabilities in place and used at once for
the gradients of the hidden states and of the head, while they are still in the cache. Memory is
O(chunk · V) instead of O(B·S · V), and each logit is written three times instead of about eight.
The gradients are those of the mean loss; :meth:`backward` only scales them.

Hidden states of lower precision give products of that precision. Probabilities, the sum over
positions and the head's gradient over chunks are float32 all the same.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

# No probability below exp(−60) ≈ 9e-27 is distinguished from that: results below float32's normal
# range make the exponential and the products after it 20 times slower on a CPU, and weigh nothing.
LEAST_LOG_PROB = -60.0
CHUNK = 256  # positions; 256 · 1,024 float32 logits are 1 MB and stay in a core's own cache
# An accelerator reads and writes the head's float32 gradient once per chunk, which at 256 positions
# takes about as long as the products; 2,048 · 128,256 float32 logits are 1.05 GB.
CHUNK_ACCELERATOR = 2048


def chunk_size(device_type: str) -> int:
    """Positions whose logits are held at once."""
    return CHUNK if device_type == "cpu" else CHUNK_ACCELERATOR


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, targets: Tensor
    ) -> Tensor:
        num_positions, chunk = len(targets), chunk_size(hidden.device.type)
        wide = torch.promote_types(hidden.dtype, torch.float32)
        head = weight.to(hidden.dtype)
        needs_grad = any(ctx.needs_input_grad)  # type: ignore[attr-defined]
        grad_hidden = torch.empty_like(hidden) if needs_grad else None
        grad_head = torch.zeros_like(weight, dtype=wide) if needs_grad else None
        total = torch.zeros((), dtype=torch.float64, device=hidden.device)
        for start in range(0, num_positions, chunk):
            piece = slice(start, start + chunk)
            log_probs = F.log_softmax(hidden[piece] @ head.T, dim=-1, dtype=wide)
            target = targets[piece, None]
            target_log_probs = log_probs.gather(1, target)
            total -= target_log_probs.sum()
            if grad_hidden is not None and grad_head is not None:
                probabilities = log_probs.clamp_(min=LEAST_LOG_PROB).exp_()
                probabilities.scatter_(1, target, target_log_probs.expm1())
                error = probabilities.mul_(1 / num_positions).to(hidden.dtype)
                torch.mm(error, head, out=grad_hidden[piece])
                _add_product(grad_head, error.T, hidden[piece])
                del probabilities, error
            del log_probs  # before the next chunk's are made
        if grad_hidden is not None and grad_head is not None:
            ctx.save_for_backward(grad_hidden, grad_head.to(weight.dtype))
        return (total / num_positions).to(wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_loss: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        grad_hidden, grad_weight = ctx.saved_tensors  # type: ignore[attr-defined]
        return _scaled(grad_hidden, grad_loss), _scaled(grad_weight, grad_loss), None


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """Rounded once: a factor such as 1/3 would be off by itself in bfloat16."""
    return (gradient.to(factor.dtype) * factor).to(gradient.dtype)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` to ``total``, which may be wider than they are."""
    if total.dtype == right.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def head_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Mean of −log softmax(hidden · weightᵀ)[target], in nats, a scalar of float32 or wider.

    Args:
        hidden: (positions, D); its dtype is that of the products.
        weight: (V, D), of the same dtype or a wider one.
        targets: (positions,) int64 token ids.
    """
    if not torch.is_grad_enabled():
        # Inside the function, parameters look as if they needed gradients even under no_grad.
        hidden, weight = hidden.detach(), weight.detach()
    return _HeadCrossEntropy.apply(hidden, weight, targets)  # type: ignore[no-any-return]
