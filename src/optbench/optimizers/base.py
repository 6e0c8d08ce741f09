"""BaseOptimizer: the step shared by all methods; a method adds only its mathematics.

Every method is p ← (1 − lr·weight_decay)·p − lr·u, where the method gives the direction u from the
gradient and its state. Everything else is here: which parameters are stepped together, weight
decay, learning rates, checks, and what torch expects of an optimizer.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeAlias, cast, final

import torch
from torch import Tensor

from optbench.config import Role
from optbench.optimizers.buckets import (
    Bucket,
    FlatBucket,
    FusedStep,
    Group,
    Member,
    Plan,
    Rate,
    StackedBucket,
    State,
)
from optbench.optimizers.compiled import Kernel, compile_forms, compiled_step
from optbench.optimizers.hyperparameters import SHARED_BOUNDS, Constraint, hyperparameter_problem
from optbench.optimizers.loading import AsSaved, check_split_groups, protect
from optbench.optimizers.parameter_checks import check_param, tensor_of
from optbench.optimizers.work import CountedWork
from optbench.space import SearchSpace, Value, did_you_mean

Params: TypeAlias = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[Group]

# Keys a parameter group may hold besides hyperparameters.
GROUP_TAGS = ("params", "param_names", "role", "name", "initial_lr")
# Defaults that `update` does not read, so groups that differ in them may share a bucket; torch adds
# `differentiable` when it loads.
NOT_FOR_UPDATE = ("lr", "weight_decay", "aux_lr_ratio", "differentiable")


class BaseOptimizer(torch.optim.Optimizer, CountedWork, ABC):
    """A drop-in ``torch.optim.Optimizer`` whose method is two pure functions.

    A method declares its hyperparameters as keyword-only arguments of ``__init__``, hands them to
    this class, and implements :meth:`init_state` and :meth:`update`. Each parameter group holds
    every hyperparameter and may override it; ``lr`` may change at any time.

    A group may carry a ``role`` (see :class:`optbench.config.Role` and
    :func:`optbench.optimizers.parameter_groups`). Roles outside :attr:`roles` are stepped by
    :attr:`auxiliary` at learning rate ``aux_lr_ratio · lr``. In a group without a role, a method
    that has an auxiliary takes the matrices itself and leaves the other parameters to it; the group
    stays one group.

    State is float32 (float64 for float64 parameters) whatever the parameters' dtype, also after
    ``load_state_dict``. ``state[p]["step"]`` counts the updates of p. A NaN or infinity in a
    gradient reaches the state and the parameter, as in torch.

    Attributes:
        space: candidates of the sweep, by constructor keyword.
        roles: the roles that the method's own rule handles.
        auxiliary: the method that handles the others.
        elementwise: ``update`` treats elements independently and reads neither role nor rates nor
            shapes; it is then called with flat vectors instead of ``(B, *shape)`` stacks.
        fused: the whole step by torch's kernels; equal to `update` but for rounding.
        second_moment: the direction is divided by the root of an average with ``beta2``.
        bounds: ranges and choices, by hyperparameter; a method with names of its own extends the
            shared ones.
        paper: the options, by constructor keyword, with which a method is the study's variant of it
            (arXiv 2509.02046) instead of its authors'; empty where the two are the same.
        earlier: hyperparameters that came after the first records, with the values under which
            those runs were made (:data:`optbench.config.EARLIER_HYPERPARAMETERS`).
        batched: False steps each parameter by itself, the plain form of the same algorithm.
        compiled: take compiled steps where there are some; set by :meth:`compile`.
        sum_over_owners: adds up, over the processes that step parameters of one model, a tensor
            that each computed from its own; None where one process steps all.

    Args:
        params: tensors, ``(name, tensor)`` pairs or groups, as for every torch optimizer.
        hyperparameters: the value of each keyword argument of the method's constructor.

    Raises:
        ValueError: no parameters, or a hyperparameter out of bounds.
        TypeError: a parameter that is not a real floating-point tensor, or an unknown group key.
    """

    space: ClassVar[SearchSpace]
    roles: ClassVar[frozenset[Role]] = frozenset(Role)
    auxiliary: ClassVar[type[BaseOptimizer] | None] = None
    elementwise: ClassVar[bool] = False
    second_moment: ClassVar[bool] = False
    fused: ClassVar[FusedStep | None] = None
    bounds: ClassVar[Mapping[str, Constraint]] = SHARED_BOUNDS
    paper: ClassVar[Mapping[str, Value]] = MappingProxyType({})
    earlier: ClassVar[Mapping[str, Value]] = MappingProxyType({})
    batched: bool = True
    compiled: bool = False
    sum_over_owners: Callable[[Tensor], Tensor] | None = None
    _plan: Plan | None = None

    def __init__(self, params: Params, hyperparameters: Mapping[str, Value]) -> None:
        super().__init__(cast(Any, params), dict(hyperparameters))

    # The method -------------------------------------------------------------------------------

    @staticmethod
    @abstractmethod
    def init_state(like: Tensor, group: Group) -> State:
        """State before the first update.

        Args:
            like: shape, dtype and device of the gradients: ``(B, *shape)``, or flat ``(N,)`` for an
                elementwise method; its values are undefined.
            group: the hyperparameters.

        Returns:
            Tensors whose leading axis is that of ``like``.
        """

    @staticmethod
    @abstractmethod
    def update(grad: Tensor, state: State, step: int, group: Group) -> Tensor:
        """The direction u in the shape of ``grad``, without learning rate and weight decay.

        Args:
            grad: gradients in the state's dtype; they may be views of ``p.grad``: read only.
            state: what :meth:`init_state` made, changed in place.
            step: the number of this update, from 1.
            group: the hyperparameters.
        """

    @staticmethod
    def kernel(group: Group) -> Kernel | None:
        """The equations of `update` for :meth:`compile`; None where there are none for a group."""
        return None

    # Hyperparameters --------------------------------------------------------------------------

    @classmethod
    def default_hyperparameters(cls) -> dict[str, Value]:
        """The constructor's keyword-only arguments and their defaults, the start of a search."""
        parameters = inspect.signature(cls).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @classmethod
    def invalid_reason(cls, hyperparameters: Mapping[str, Value]) -> str | None:
        """Why a sweep should not try these values (others at their default), or None.

        Stricter than the constructor: beta1 > √beta2 is refused where a second moment divides,
        because the step of an element whose gradient stays zero, such as a rare token's embedding,
        then grows as (beta1/√beta2)^steps.
        """
        defaults = cls.default_hyperparameters()
        for name in hyperparameters:
            if name not in defaults:
                return did_you_mean(name, defaults, what="hyperparameter")
        if problem := hyperparameter_problem(hyperparameters, defaults, cls.bounds):
            return problem
        values = {**defaults, **hyperparameters}
        divides = cls.second_moment or (cls.auxiliary is not None and cls.auxiliary.second_moment)
        if divides and float(values["beta1"]) ** 2 > float(values["beta2"]):
            return (
                f"`beta1 <= sqrt(beta2)` must hold, but got beta1={values['beta1']}, "
                f"beta2={values['beta2']}. Lower beta1 or raise beta2."
            )
        return None

    # Parameter groups -------------------------------------------------------------------------

    def rule_of(self, group: Group, shape: Sequence[int]) -> type[BaseOptimizer]:
        """The method that steps a parameter of a group: this one, or its auxiliary."""
        if self.auxiliary is None:
            return type(self)
        role = group["role"]
        own = len(shape) == 2 if role is None else role in self.roles
        return type(self) if own else self.auxiliary

    def lr_of(self, group: Group, shape: Sequence[int]) -> float:
        """The learning rate of a parameter: ``lr``, times ``aux_lr_ratio`` if auxiliary."""
        return self._lr(group, self.rule_of(group, shape))

    def _lr(self, group: Group, rule: type[BaseOptimizer]) -> float:
        return float(group["lr"]) * (1.0 if rule is type(self) else group["aux_lr_ratio"])

    def add_param_group(self, param_group: Group) -> None:
        """Add a group.

        Raises:
            ValueError: as for the constructor.
            TypeError: as for the constructor.
        """
        group: Group = {"role": None, **param_group}
        if not isinstance(group["params"], Tensor | set):  # torch says why it refuses sets
            group["params"] = list(group["params"])
        self._check_group(group)
        super().add_param_group(group)
        self._plan = None

    def _check_group(self, group: Group) -> None:
        for name in group:
            if name not in self.defaults and name not in GROUP_TAGS:
                known = [*self.defaults, *GROUP_TAGS]
                raise TypeError(did_you_mean(name, known, what="key of a parameter group"))
        types = self.default_hyperparameters()
        if problem := hyperparameter_problem({**self.defaults, **group}, types, self.bounds):
            raise ValueError(problem)
        role = group["role"]
        if role is not None and role not in frozenset(Role):
            raise ValueError(did_you_mean(str(role), Role, what="role"))
        params = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
        for param in params:
            check_param(tensor_of(param), role)

    # The step ---------------------------------------------------------------------------------

    @final
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's overloads
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the loss and its gradients again; its result is returned.

        Raises:
            ValueError: a gradient that is not a dense tensor.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        buckets = self._buckets()
        groups = self.prepare_step(buckets)
        for bucket in buckets:
            rule = self._rule_of(bucket)
            rates = [
                Rate(self._lr(group, rule), float(group["weight_decay"]))
                for group in self.param_groups
            ]
            bucket.advance(groups, rates, self._compiled_step(bucket, bucket.group_of(groups)))
        return loss

    def compile(self) -> None:
        """Take steps by code that torch.compile makes of a method's equations, from now on.

        It is made here, in some seconds, once per process for all optimizers of a method, and kept
        on disk by torch. Neither other learning rates, hyperparameters and shapes nor a loaded
        checkpoint compile again; parameters of another dtype and another number of threads do, at
        the next step. The results differ from those of the plain step by rounding, the state and
        its checkpoints not at all.

        Compiled are NAdamW, Lion, Sophia, Cautious, Adam-mini and, unless `clip_scope` is
        "global", Mars, for parameters on the CPU whose elements lie in order in memory. Everything
        else is stepped as before: accelerators, other methods, and AdamW, which torch's own kernel
        steps at the speed of memory.

        Raises:
            RuntimeError: there is no C++ compiler that works; nothing has been changed.
        """
        for group in self.param_groups:
            by_rule: dict[type[BaseOptimizer], list[Tensor]] = {}
            for param in filter(_can_compile, group["params"]):
                by_rule.setdefault(self.rule_of(group, param.shape), []).append(param)
            for rule, params in by_rule.items():
                kernel = rule.kernel(group)
                if kernel is not None:
                    compile_forms(kernel, rule.init_state, group, params)
        self.compiled = True

    def _compiled_step(self, bucket: Bucket, group: Group) -> FusedStep | None:
        can = all(_can_compile(member.param) for member in bucket.members)
        if not self.compiled or not can or torch.compiler.is_compiling():
            return None
        kernel = self._rule_of(bucket).kernel(group)
        return None if kernel is None else compiled_step(kernel)

    def _rule_of(self, bucket: Bucket) -> type[BaseOptimizer]:
        first = bucket.members[0]
        return self.rule_of(self.param_groups[first.group_index], first.param.shape)

    def prepare_step(self, buckets: Sequence[Bucket]) -> Sequence[Group]:
        """The groups as `update` sees them in the coming step, one for each of ``param_groups``.

        A method whose update of one parameter depends on all of them, such as by a common norm,
        computes that here (:meth:`Bucket.measure`, :attr:`sum_over_owners`) and returns copies of
        the groups that hold it besides the hyperparameters. Nothing has been changed when it is
        called.
        """
        return self.param_groups

    def _buckets(self) -> list[Bucket]:
        """The buckets of the parameters that have gradients now, made anew only if need be."""
        active, pointers = self._active()
        partition = self._partition()
        plan = self._plan
        if plan is None or not plan.fits(pointers, partition, self.batched, self.state):
            # Released first, so that the old plan's state tensors are freed as they are replaced.
            self._plan = plan = None
            buckets = self._new_buckets(active, partition)
            self._plan = plan = Plan(pointers, partition, self.batched, buckets)
        return plan.buckets

    def _active(self) -> tuple[list[tuple[int, Tensor]], list[int]]:
        """Parameters with a gradient, each with its group's index; and where their data lie."""
        active: list[tuple[int, Tensor]] = []
        pointers: list[int] = []
        for index, group in enumerate(self.param_groups):
            for param in group["params"]:
                grad = param.grad
                if grad is None:
                    continue
                if grad.layout is not torch.strided:
                    raise ValueError(
                        f"Gradients must be dense, but a parameter of shape {tuple(param.shape)} "
                        f"has one of layout {grad.layout}. Build the embedding with sparse=False."
                    )
                active.append((index, param))
                pointers.append(param.data_ptr())
            pointers.append(-1 - index)
        return active, pointers

    def _partition(self) -> list[int]:
        """For each group the first group with the same arguments of `update`."""
        names = [name for name in self.defaults if name not in NOT_FOR_UPDATE]
        keys = [tuple(group[name] for name in names) for group in self.param_groups]
        return [keys.index(key) for key in keys]

    def _new_buckets(self, active: list[tuple[int, Tensor]], partition: list[int]) -> list[Bucket]:
        cohorts: dict[tuple[Any, ...], list[Member]] = {}
        for group_index, param in active:
            rule = self.rule_of(self.param_groups[group_index], param.shape)
            entry = self.state[param]
            step = int(entry.get("step", 0))
            where = (
                ("flat", partition[group_index])
                if self._is_flat(rule, param)
                else ("stacked", group_index, param.shape, None if self.batched else id(param))
            )
            key = (rule, param.dtype, param.device, step, *where)
            cohorts.setdefault(key, []).append(Member(param, group_index, entry))
        self._release_idle(active)
        return [self._new_bucket(key[0], members) for key, members in cohorts.items()]

    def _is_flat(self, rule: type[BaseOptimizer], param: Tensor) -> bool:
        return self.batched and rule.elementwise and param.is_contiguous()

    def _new_bucket(self, rule: type[BaseOptimizer], members: list[Member]) -> Bucket:
        first = members[0]
        group = self.param_groups[first.group_index]
        kind = FlatBucket if self._is_flat(rule, first.param) else StackedBucket
        if kind is FlatBucket:
            # Large tensors first within a group, so that pieces of them start at round offsets.
            members = sorted(members, key=lambda m: (m.group_index, -m.param.numel()))
        step = int(first.entry.get("step", 0))
        return kind(rule, members, step, group)

    def _release_idle(self, active: list[tuple[int, Tensor]]) -> None:
        """Give parameters that now lack a gradient their own state, lest views pin old buffers."""
        current = {id(param) for _, param in active}
        for param, entry in self.state.items():
            if id(param) not in current:
                for name, value in entry.items():
                    if isinstance(value, Tensor) and value._base is not None:
                        entry[name] = value.clone()

    # Checkpoints ------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave, with its dtypes; nothing is shared with the argument.

        Raises:
            KeyError: a group lacks a hyperparameter of this method.
            ValueError: other groups, or groups of other sizes.
        """
        check_split_groups(self.param_groups, state_dict["param_groups"])
        handle = self.register_load_state_dict_pre_hook(protect)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Torch's hook for loading, copying and unpickling.

        Raises:
            KeyError: a group lacks a hyperparameter of this method.
        """
        for group in state["param_groups"]:
            for name, value in self.earlier.items():
                group.setdefault(name, value)
            missing = sorted({*self.default_hyperparameters(), "role"} - group.keys())
            if missing:
                raise KeyError(
                    f"A loaded parameter group lacks {', '.join(missing)}, but has "
                    f"{', '.join(sorted(group.keys() - {'params'}))}. Was the checkpoint written "
                    f"by another optimizer than {type(self).__name__}?"
                )
        for param, entry in state["state"].items():
            for name, value in entry.items():
                if isinstance(value, AsSaved):
                    entry[name] = value.tensor.to(param.device, copy=True)
        super().__setstate__(state)
        self._plan = None


def _can_compile(param: Tensor) -> bool:
    return param.device.type == "cpu" and param.is_contiguous()
