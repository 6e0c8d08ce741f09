"""What an optimizer can step, and what it refuses."""

from __future__ import annotations

from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from optbench.config import Role


def tensor_of(param: Tensor | tuple[str, Tensor]) -> Tensor:
    """The tensor of a plain or of a named parameter."""
    return param[1] if isinstance(param, tuple) else param


def check_param(param: Tensor, role: str | None) -> None:
    """Refuse a parameter that no rule is made for.

    Raises:
        TypeError: it is complex, not of floating point, or a shard of a tensor.
        ValueError: its role is that of a matrix, and it is none.
    """
    if not isinstance(param, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]
        return  # torch's own message is clearer
    shape = tuple(param.shape)
    if not param.is_floating_point():
        raise TypeError(
            f"Parameters must be real floating-point tensors, but one of shape {shape} has dtype "
            f"{param.dtype}. Optimize torch.view_as_real of a complex tensor."
        )
    if role == Role.MATRIX and param.ndim < 2:
        raise ValueError(
            f"A parameter with role 'matrix' must have two dimensions or more, but got shape "
            f"{shape}. Give it the role 'norm' or 'bias', or pass it in a group without a role."
        )
    if is_traceable_wrapper_subclass(param):
        raise TypeError(
            f"Parameters must be whole tensors, but one of shape {shape} is a "
            f"{type(param).__name__}; a rule applied to a shard of a matrix is another method. "
            f"Shard the optimizer's work by parameter instead (ZeroRedundancyOptimizer)."
        )
