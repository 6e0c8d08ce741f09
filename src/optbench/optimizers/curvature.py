"""CurvatureOptimizer: a method that needs an estimate of the loss's curvature every few steps.

The optimizer knows when, the caller knows how: it alone has the model and the batch. After each
step it asks, and where the answer is yes it lets a second backward pass fill ``p.grad``::

    optimizer.step()
    optimizer.zero_grad()
    if optimizer.curvature_due():
        ...  # what optimizer.curvature_source names, into every p.grad
        optimizer.update_curvature(batch_tokens=tokens.numel())
        optimizer.zero_grad()
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, final

import torch
from torch import Tensor

from optbench.optimizers.base import BaseOptimizer
from optbench.optimizers.engine.buckets import Bucket, Group, State


class CurvatureSource(enum.StrEnum):
    """What ``p.grad`` must hold when :meth:`CurvatureOptimizer.update_curvature` is called."""

    # The gradient of the mean cross-entropy on labels drawn from the model's own predictions.
    SAMPLED_LABELS = "sampled_labels"
    # z ⊙ Hz with z standard normal and H the Hessian of the mean loss.
    HESSIAN_PRODUCT = "hessian_product"


class CurvatureOptimizer(BaseOptimizer):
    """A method whose state is also fed by :meth:`update_curvature`, every so many steps.

    The number of steps between two estimates is the hyperparameter ``curvature_interval``.
    ``state[p]["curvature_step"]`` is the step count of p at its last estimate, so what is due
    survives a checkpoint. A step is refused while an estimate is due: without it the method would
    go on as another one.
    """

    @property
    @abstractmethod
    def curvature_source(self) -> CurvatureSource:
        """What the caller has to put into the gradients."""

    @staticmethod
    @abstractmethod
    def update_curvature_state(
        estimate: Tensor, state: State, batch_tokens: int, group: Group
    ) -> None:
        """Change the state of one parameter by an estimate.

        Args:
            estimate: what :attr:`curvature_source` names, in the state's dtype: read only.
            state: the parameter's state tensors, in the shape of ``estimate``.
            batch_tokens: tokens that the estimate is a mean over.
            group: the hyperparameters.
        """

    @final
    def curvature_due(self) -> bool:
        """Whether an estimate must be given before the next step."""
        return any(
            entry["step"] - entry.get("curvature_step", 0) >= group["curvature_interval"]
            for group, _, entry in self._stepped()
        )

    @final
    @torch.no_grad()
    def update_curvature(self, batch_tokens: int) -> None:
        """Take the estimate in ``p.grad`` into the state of every parameter stepped so far.

        A parameter without gradient keeps its state.

        Args:
            batch_tokens: tokens over which the loss behind the estimate was averaged.

        Raises:
            ValueError: ``batch_tokens`` < 1, or no stepped parameter has a gradient.
        """
        if batch_tokens < 1:
            raise ValueError(f"`batch_tokens` must be at least 1, but got {batch_tokens}.")
        stepped = list(self._stepped())
        if all(param.grad is None for _, param, _ in stepped):
            raise ValueError(
                f"A curvature estimate is read from the gradients, but none of the {len(stepped)} "
                f"parameters stepped so far has one. Call backward() before update_curvature()."
            )
        for group, param, entry in stepped:
            if param.grad is not None:
                state = {name: v for name, v in entry.items() if isinstance(v, Tensor)}
                dtype = torch.promote_types(param.dtype, torch.float32)
                self.update_curvature_state(param.grad.to(dtype), state, batch_tokens, group)
            entry["curvature_step"] = entry["step"]

    def prepare_step(self, buckets: Sequence[Bucket]) -> Sequence[Group]:
        """Refuse to go on without an estimate that is due.

        Raises:
            RuntimeError: :meth:`curvature_due` was true and no estimate came.
        """
        if self.curvature_due():
            raise RuntimeError(
                f"{type(self).__name__} needs a curvature estimate before its next step: after "
                f"each step, where curvature_due() is true, leave '{self.curvature_source}' in the "
                f"gradients and call update_curvature()."
            )
        new = (bucket for bucket in buckets if not bucket.step)
        for member in chain.from_iterable(bucket.members for bucket in new):
            # From the start, since a checkpoint is read into the entries that there are.
            member.entry["curvature_step"] = 0
        return super().prepare_step(buckets)

    def _stepped(self) -> Iterator[tuple[Group, Tensor, dict[str, Any]]]:
        """Every parameter that has been stepped, with its group and its entry of the state."""
        for group in self.param_groups:
            for param in group["params"]:
                entry = self.state.get(param)
                if entry:
                    yield group, param, entry
