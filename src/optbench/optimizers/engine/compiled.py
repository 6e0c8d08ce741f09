"""Compiled steps: a method's equations, fused by torch.compile with decay and learning rate.

The plain `update` works in several passes over pieces of cache size. A method that also gives a
:class:`Kernel`, its equations without side effects, can have them fused into as few passes over
memory as they allow. Every number that may change between steps enters as a tensor without axes,
and every other as a vector or as rows of symbolic length, so that neither a schedule nor another
shape compiles again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
from torch import Tensor

from optbench.optimizers.engine.buckets import FusedStep, Group, State, StepSize

Scalars: TypeAlias = Mapping[str, Tensor]

# Compiled forms of one kernel differ in dtypes, axes of length one, sums of few or many elements,
# and number of threads: more than anyone has.
MAX_FORMS = 64
# PyTorch 2.13 sums this many elements or fewer in another way than more.
FEW = 4096
# Lengths that stand for many elements and for several rows. They differ from each other and from
# FEW because equal lengths are taken for one length, and are large because it is decided by them
# whether the loops of a form are divided among threads.
MANY = 2**16
ROWS = 32


@dataclass(frozen=True, slots=True)
class Kernel:
    """The equations of a method's `update`, for torch.compile.

    Args:
        update: from gradient, state and scalars to the direction u and to what the step makes of
            the state; nothing is changed in place. All are in the state's dtype; gradient and state
            are those of one parameter, flattened, or matrices of one row per block.
        scalars: from step and group to the numbers that ``update`` reads.
        blocks: the state tensor that has one element per block of the parameter, if one does.
    """

    update: Callable[[Tensor, State, Scalars], tuple[Tensor, State]]
    scalars: Callable[[int, Group], dict[str, float]]
    blocks: str | None = None


@cache  # once per process
def compiled_step(kernel: Kernel) -> FusedStep:
    """The whole step by a kernel; compiled when it is first taken."""
    update = kernel.update

    def step_one(param: Tensor, grad: Tensor, state: State, scalars: Scalars) -> None:
        dtype = scalars["lr"].dtype
        direction, after = update(grad.to(dtype), state, scalars)
        # Rounded once, as by the plain step.
        param.copy_(param.to(dtype) * scalars["decay"] - scalars["lr"] * direction)
        for name, value in after.items():
            state[name].copy_(value)

    # Kernels share the code of `step_one`, by which torch counts forms unless they are isolated.
    compiled = torch.compile(  # pyright: ignore[reportCallIssue]  # torch's overloads lack limits
        step_one,
        dynamic=True,
        fullgraph=True,
        recompile_limit=MAX_FORMS,
        isolate_recompiles=True,
    )

    def step_all(
        params: list[Tensor],
        grads: list[Tensor],
        state: dict[str, list[Tensor]],
        step: int,
        group: Group,
        step_size: StepSize,
    ) -> None:
        numbers = {**kernel.scalars(step, group), "lr": step_size.lr, "decay": step_size.decay}
        dtype = next(iter(state.values()))[0].dtype
        scalars = {name: torch.tensor(number, dtype=dtype) for name, number in numbers.items()}
        for index, param in enumerate(params):
            if param.numel():
                entry = {name: tensors[index] for name, tensors in state.items()}
                rows = () if kernel.blocks is None else (entry[kernel.blocks].numel(),)
                shaped = {name: _shaped(tensor, rows) for name, tensor in entry.items()}
                compiled(_shaped(param, rows), _shaped(grads[index], rows), shaped, scalars)

    return step_all


def _shaped(tensor: Tensor, rows: tuple[int, ...]) -> Tensor:
    """The same memory as a vector, or in rows; not known as a view, which would be another form."""
    return tensor.view(*rows, -1).detach()


@torch.no_grad()
def compile_forms(
    kernel: Kernel,
    init_state: Callable[[Tensor, Group], State],
    group: Group,
    params: Iterable[Tensor],
) -> None:
    """Compile all that steps of these parameters need, by steps of tensors made for it.

    Args:
        kernel: the method's.
        init_state: the method's.
        group: the hyperparameters.
        params: some of the group's.

    Raises:
        RuntimeError: compilation fails, such as for want of a C++ compiler.
    """
    forms = {_form(kernel, init_state, group, param) for param in params if param.numel()}
    for form in sorted(forms, key=lambda form: -form.numel):
        param, grad, state = form.tensors()
        try:
            compiled_step(kernel)([param], [grad], state, 1, group, StepSize(0.0, 0.0))
        except RuntimeError as error:
            raise RuntimeError(
                f"Compiled steps need a C++ compiler that works, but compiling one failed: "
                f"{_reason(error)} Install g++ or clang++, or name one in the environment variable "
                f"CXX, or leave out `compile()`: the plain step needs none."
            ) from error


@dataclass(frozen=True, slots=True)
class _Form:
    """What is compiled at once, by lengths that stand for all others of their kind.

    Args:
        dtype: of the parameter.
        numel: of the parameter.
        states: the number of elements of each state tensor.
    """

    dtype: torch.dtype
    numel: int
    states: tuple[tuple[str, int], ...]

    def tensors(self) -> tuple[Tensor, Tensor, dict[str, list[Tensor]]]:
        """A parameter, its gradient and its state, all zero."""
        param, grad = (torch.zeros(self.numel, dtype=self.dtype) for _ in range(2))
        wide = torch.promote_types(self.dtype, torch.float32)
        return param, grad, {name: [torch.zeros(n, dtype=wide)] for name, n in self.states}


def _form(
    kernel: Kernel, init_state: Callable[[Tensor, Group], State], group: Group, param: Tensor
) -> _Form:
    state = init_state(torch.empty((1, *param.shape), device="meta"), group)
    rows = 1 if kernel.blocks is None else state[kernel.blocks].numel()
    columns = param.numel() // rows
    some_rows = 1 if rows == 1 else ROWS
    length = some_rows * (columns if columns == 1 else FEW if columns <= FEW else MANY)
    if columns == 1 < rows:
        some_rows = length = MANY
    states = [(k, length if v.numel() > rows else some_rows) for k, v in state.items()]
    return _Form(param.dtype, length, tuple(states))


def _reason(error: BaseException) -> str:
    """The first paragraph of torch's message; the others explain how to debug torch."""
    paragraph = str(error).strip().partition("\n\n")[0]
    return " ".join(paragraph.split()).rstrip(".") + "."
