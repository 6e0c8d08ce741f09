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
from typing import Any, ClassVar, Self, TypeAlias, cast, final

import torch
from torch import Tensor

from optbench.config import Role
from optbench.optimizers.blocks import MATRIX_LAYOUTS
from optbench.optimizers.engine.bucket_plan import (
    BucketPlan,
    Division,
    active_parameters,
    partition_of,
)
from optbench.optimizers.engine.buckets import (
    Bucket,
    FusedStep,
    Group,
    State,
    StepSize,
)
from optbench.optimizers.engine.compiled import Kernel, compile_forms, compiled_step
from optbench.optimizers.engine.flop_count import CountsFlops
from optbench.optimizers.engine.keywords import check_call, keyword_remedy
from optbench.optimizers.engine.loading import (
    NoCast,
    check_groups,
    check_split_groups,
    check_tensors,
    wrap_state,
)
from optbench.optimizers.engine.parameter_checks import check_param, tensor_of
from optbench.optimizers.engine.parameter_group import GROUP_TAGS, HELD_BY_TORCH, ParameterGroup
from optbench.optimizers.hyperparameters import SHARED_BOUNDS, Constraint, hyperparameter_problem
from optbench.space import SearchSpace, Value, did_you_mean

Params: TypeAlias = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[Group]

# Defaults that `update` does not read, so groups that differ in them may share a bucket; torch adds
# `differentiable` when it loads.
NOT_FOR_UPDATE = ("lr", "weight_decay", "aux_lr_ratio", "differentiable")
# Switches of an instance that a copy of it has too.
COPIED = ("compiled", "batched")


class BaseOptimizer(torch.optim.Optimizer, CountsFlops, ABC):
    """A drop-in ``torch.optim.Optimizer`` whose method is two pure functions.

    A method declares its hyperparameters as keyword-only arguments of ``__init__``, hands them to
    this class, and implements :meth:`init_state` and :meth:`update`. Each parameter group holds
    every hyperparameter and may override it; all but those in :attr:`structural` may change at any
    time.

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
        structural: hyperparameters on which the layout or the meaning of the state depends; fixed
            from the first state on.
        takes_tensors: in a group without a role, tensors of more than two dimensions count as
            matrices.
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
    structural: ClassVar[frozenset[str]] = frozenset()
    takes_tensors: ClassVar[bool] = False
    batched: bool = True
    compiled: bool = False
    sum_over_owners: Callable[[Tensor], Tensor] | None = None
    _plan: BucketPlan | None = None

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        """Refuse what the constructor does not take, with what to write instead.

        Raises:
            TypeError: unknown keywords, or hyperparameters without their names.
        """
        check_call(cls.__name__, cls.__init__, args, keywords)
        return super().__new__(cls)

    def __init__(self, params: Params, hyperparameters: Mapping[str, Value]) -> None:
        super().__init__(cast(Any, params), ParameterGroup(hyperparameters))

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

    @classmethod
    def state_bytes(cls, shape: tuple[int, ...], group: Group) -> int:
        """Bytes of the state of one parameter that the method's own rule steps."""
        state = cls.init_state(torch.empty((1, *shape), device="meta"), group)
        return sum(tensor.numel() * tensor.element_size() for tensor in state.values())

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
        if role is None:
            own = len(shape) == 2 or (len(shape) > 2 and self.takes_tensors)
        else:
            own = role in self.roles
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
        group = ParameterGroup({"role": None, **param_group, "method": type(self).__name__})
        if not isinstance(
            group["params"], Tensor | set
        ):  # torch's message explains why it refuses sets
            group["params"] = list(group["params"])
        self._check_group(group)
        super().add_param_group(group)
        group.fix(self._fixed(), self.state)
        self._plan = None

    def _check_group(self, group: Group) -> None:
        for name in group.keys() - self.defaults.keys() - HELD_BY_TORCH - {*GROUP_TAGS}:
            if remedy := keyword_remedy(name, group[name], self.defaults.keys()):
                raise TypeError(f"Unknown key of a parameter group '{name}': {remedy}")
            known = [*self.defaults, *GROUP_TAGS]
            raise TypeError(did_you_mean(name, known, what="key of a parameter group"))
        types = self.default_hyperparameters()
        if problem := hyperparameter_problem({**self.defaults, **group}, types, self.bounds):
            raise ValueError(problem)
        role = group["role"]
        if role is not None and role not in frozenset(Role):
            raise ValueError(did_you_mean(str(role), Role, what="role"))
        layout = group.get("matrix_layout")
        if layout is not None and layout not in MATRIX_LAYOUTS:
            raise ValueError(did_you_mean(str(layout), MATRIX_LAYOUTS, what="matrix_layout"))
        params = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
        for param in params:
            check_param(tensor_of(param), role)

    # The step ---------------------------------------------------------------------------------

    # torch.compile knows neither the fused kernels nor groups that are no plain dictionaries
    # (internal errors in PyTorch 2.13), so code that it compiles calls the step as it is.
    @final
    @torch._disable_dynamo  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch's overloads
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the loss and its gradients again; its result is returned.

        Raises:
            ValueError: a gradient that is not a dense tensor, or a structural hyperparameter that
                was changed after the state had been made.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        rehearsal = self._is_rehearsal()
        buckets = self._buckets()
        groups = self.prepare_step(buckets)
        for bucket in () if rehearsal else buckets:
            rule = self._rule_of(bucket)
            step_sizes = [
                StepSize(self._lr(group, rule), float(group["weight_decay"]))
                for group in self.param_groups
            ]
            bucket.advance(groups, step_sizes, self._compiled_step(bucket, bucket.group_of(groups)))
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

    def _is_rehearsal(self) -> bool:
        """Whether this step is to make the state and nothing else.

        :mod:`torch.distributed.checkpoint` asks for the state of an optimizer that has none by a
        step of rate 0 on gradients of 0. It must not count, or what is trained after it would be
        another run.
        """
        if self.state or any(float(group["lr"]) for group in self.param_groups):
            return False
        gradients = [p.grad for group in self.param_groups for p in group["params"]]
        return not any(bool(grad.any()) for grad in gradients if grad is not None)

    def _compiled_step(self, bucket: Bucket, group: Group) -> FusedStep | None:
        can = all(_can_compile(member.param) for member in bucket.members)
        if not self.compiled or not can:
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
        for group in self.param_groups:
            if isinstance(group, ParameterGroup):
                group.fix(self._fixed(), self.state)
        active, pointers = active_parameters(self.param_groups)
        names = [name for name in self.defaults if name not in NOT_FOR_UPDATE]
        partition = partition_of(self.param_groups, names)
        plan = self._plan
        if plan is None or not plan.fits(pointers, partition, self.batched, self.state):
            # Released first, so that the old plan's state tensors are freed as they are replaced.
            self._plan = plan = None
            division = Division(self.param_groups, self.rule_of, partition, self.batched)
            buckets = division.buckets(active, self.state)
            self._plan = plan = BucketPlan(pointers, partition, self.batched, buckets)
        return plan.buckets

    def _fixed(self) -> list[str]:
        return ["role", "matrix_layout", *sorted(self.structural)]

    # Checkpoints ------------------------------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what ``state_dict`` gave, with its dtypes; nothing is shared with the argument.

        Raises:
            KeyError: a group lacks a hyperparameter of this method.
            ValueError: other groups, or groups of other sizes.
        """
        check_split_groups(self.param_groups, state_dict["param_groups"])
        handle = self.register_load_state_dict_pre_hook(wrap_state)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickled optimizers are made of: torch's part and our switches."""
        own = {name: value for name, value in vars(self).items() if name in COPIED}
        return {**super().__getstate__(), **own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Torch's hook for loading, copying and unpickling.

        Raises:
            KeyError: a group lacks a hyperparameter of this method.
            ValueError: another method made the state.
        """
        # A copy's groups know already what their state was made with.
        groups = [
            g if isinstance(g, ParameterGroup) else ParameterGroup({**self.earlier, **g})
            for g in state["param_groups"]
        ]
        state = {**state, "param_groups": groups}
        if "defaults" in state:
            state["defaults"] = ParameterGroup(state["defaults"])
        check_groups(type(self).__name__, self.default_hyperparameters(), groups)
        for param, entry in state["state"].items():
            for name, value in entry.items():
                if isinstance(value, NoCast):
                    entry[name] = value.tensor.to(param.device, copy=True)
        for group in groups:
            if "method" not in group:
                check_tensors(type(self).__name__, group, state["state"], self.rule_of)
            group["method"] = type(self).__name__
            if group.fixed is None:
                group.fix(self._fixed(), state["state"])
        super().__setstate__(state)
        self._plan = None


def _can_compile(param: Tensor) -> bool:
    return param.device.type == "cpu" and param.is_contiguous()
