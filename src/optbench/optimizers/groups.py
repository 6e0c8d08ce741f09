"""Parameter groups: from the role of each parameter to the groups an optimizer is built with."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd  # pyright: ignore[reportPrivateUsage]
from torch.optim import Optimizer

from optbench.config import Role
from optbench.optimizers.base import BaseOptimizer
from optbench.optimizers.engine.buckets import Group
from optbench.space import did_you_mean

# The study decays linear maps only: a decayed norm gain or embedding row would be pulled to zero
# whether or not it is used.
DECAYED_ROLES = frozenset({Role.MATRIX, Role.HEAD})
HEAD_NAMES = frozenset({"head", "lm_head", "output"})
# What DistributedDataParallel and torch.compile put into the names of what they wrap. The first is
# a word that a model may use too, so it counts as such only at the start.
WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+|\._orig_mod(?=\.|$)")

Given = TypeVar("Given")


def parameter_groups(
    model: nn.Module | Iterable[tuple[str, Tensor]],
    roles: Mapping[str, Role] | None = None,
    *,
    decayed_roles: frozenset[Role] = DECAYED_ROLES,
    heads: Mapping[str, int] | None = None,
) -> list[Group]:
    """One group per role that occurs, for the constructor of any torch optimizer.

    Each group holds ``params`` and ``role``; those of roles outside ``decayed_roles`` also hold
    ``weight_decay = 0``. A parameter shared under several names is taken once, under its first.
    Filters of convolutions have groups of their own with ``matrix_layout`` = "filters".
    Parameters that do not require gradients are left out. Names may be those from before or from
    after the model was wrapped by ``DistributedDataParallel`` or ``torch.compile``.

    Args:
        model: the module, wrapped or not, or its named parameters.
        roles: role of each parameter by name; None infers them (:func:`infer_roles`), for which a
            module is needed.
        decayed_roles: roles on which weight decay acts.
        heads: rows per attention head of the weights of query and key, by name: these go into
            groups of their own that hold ``head_dim``, for methods that have such a
            hyperparameter.

    Raises:
        ValueError: a parameter without a role, a role or a head for an unknown name, two that
            differ for one parameter, heads that do not divide the rows, or nothing to infer roles
            from.
    """
    if roles is None:
        if not isinstance(model, nn.Module):
            raise ValueError("Roles can be inferred from a module only. Pass `roles` as well.")
        roles = infer_roles(model)
    named = model.named_parameters() if isinstance(model, nn.Module) else model
    filters = {id(layer.weight) for layer in _convolutions(model)}
    sorted_params = _sort_by_role(list(named), roles, heads or {}, filters)
    return [
        {"params": params, "role": role.value}
        | ({} if role in decayed_roles else {"weight_decay": 0.0})
        | ({} if head_dim is None else {"head_dim": head_dim})
        | ({"matrix_layout": "filters"} if is_filters else {})
        for (role, head_dim, is_filters), params in sorted_params.items()
        if params
    ]


def _convolutions(model: object) -> list[_ConvNd]:
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [layer for layer in modules if isinstance(layer, _ConvNd)]


def _sort_by_role(
    named: list[tuple[str, Tensor]],
    roles: Mapping[str, Role],
    heads: Mapping[str, int],
    filters: Collection[int],
) -> dict[tuple[Role, int | None, bool], list[Tensor]]:
    names = [name for name, _ in named]
    roles, heads = _by_own_name(roles, names, "roles"), _by_own_name(heads, names, "heads")
    by_role: dict[tuple[Role, int | None, bool], list[Tensor]] = {
        (role, None, False): [] for role in Role
    }
    seen: set[int] = set()
    for name, param in named:
        if id(param) in seen or not param.requires_grad:
            continue
        if name not in roles:
            raise ValueError(
                f"Parameter '{name}' (shape {tuple(param.shape)}) has no role; add it to the roles "
                f"as one of: {', '.join(Role)}."
            )
        seen.add(id(param))
        head_dim = heads.get(name)
        if head_dim is not None:
            _check_heads(name, param, head_dim)
        by_role.setdefault((Role(roles[name]), head_dim, id(param) in filters), []).append(param)
    return by_role


def _by_own_name(given: Mapping[str, Given], names: Iterable[str], place: str) -> dict[str, Given]:
    """What is given by name, by the names that the parameters have; wrappers are looked through.

    Where prefixes alone distinguish two parameters, names must be exact.
    """
    names = dict.fromkeys(names)
    unwrapped = {WRAPPERS.sub("", name): name for name in names}
    if len(unwrapped) < len(names):
        unwrapped = {}
    found: dict[str, Given] = {}
    for name, value in given.items():
        own = name if name in names else unwrapped.get(WRAPPERS.sub("", name))
        if own is None:
            raise ValueError(did_you_mean(name, names, what=f"parameter in the {place}"))
        if found.setdefault(own, value) != value:
            raise ValueError(
                f"'{name}' in the {place} is the parameter '{own}', for which they hold both "
                f"{found[own]!s} and {value!s}. Give each parameter once."
            )
    return found


def _check_heads(name: str, param: Tensor, head_dim: int) -> None:
    if param.ndim != 2 or head_dim < 1 or param.shape[0] % head_dim:
        raise ValueError(
            f"Heads must divide the rows of a matrix, but '{name}' has shape {tuple(param.shape)} "
            f"and got heads of {head_dim} rows."
        )


def infer_roles(module: nn.Module, overrides: Mapping[str, Role] | None = None) -> dict[str, Role]:
    """Roles for a module that does not state them.

    - Weights of ``nn.Embedding`` are embeddings, also when tied to a linear layer.
    - The head is the last ``nn.Linear`` with as many outputs as an embedding has rows, those named
      head, lm_head or output first; without one of that size, the last of such a name.
    - Weights of every other ``nn.Linear`` are matrices, and so are those of convolutions, which
      :func:`parameter_groups` puts into a group of their own with ``matrix_layout`` = "filters".
    - What has "bias" in its own name, as ``weight`` is one, is a bias: of linear layers,
      convolutions, attention and norms.
    - All else is norm: gains, and also fused attention weights, which are not one linear map each,
      and stacked experts; give those the role of a matrix by ``overrides``.

    Args:
        module: any model.
        overrides: roles by parameter name that replace the inferred ones; the names may be those
            of the module before it was wrapped.

    Raises:
        ValueError: an override for a name the module lacks.
    """
    names = (name for name, _ in module.named_parameters())
    overrides = _by_own_name(overrides or {}, names, "overrides")
    embeddings = [m for m in module.modules() if isinstance(m, nn.Embedding)]
    by_id: dict[int, Role] = {}
    for layer in module.modules():
        if isinstance(layer, nn.Linear | _ConvNd):
            by_id[id(layer.weight)] = Role.MATRIX
    head = _find_head(module, {e.num_embeddings for e in embeddings})
    if head is not None:
        by_id[id(head.weight)] = Role.HEAD
    by_id |= {id(e.weight): Role.EMBEDDING for e in embeddings}
    inferred = {
        name: by_id.get(id(p)) or (Role.BIAS if "bias" in name.rpartition(".")[2] else Role.NORM)
        for name, p in module.named_parameters()
    }
    return inferred | overrides


def _find_head(module: nn.Module, vocabularies: set[int]) -> nn.Linear | None:
    modules = [(WRAPPERS.sub("", name), m) for name, m in module.named_modules()]
    layers = [(name, m) for name, m in modules if isinstance(m, nn.Linear)]
    named = [layer for name, layer in layers if name.rpartition(".")[2] in HEAD_NAMES]
    sized = [layer for _, layer in layers if layer.out_features in vocabularies]
    candidates = [layer for layer in named if layer in sized] or sized or named
    return candidates[-1] if candidates else None


def describe_groups(optimizer: Optimizer) -> str:
    """A table of the groups: role, rule, tensors, elements, learning rate and weight decay.

    A group of which several rules step a part has a line for each.
    """
    rows = [("role", "rule", "tensors", "elements", "lr", "weight_decay")]
    rows += [row for group in optimizer.param_groups for row in _rows(optimizer, group)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _rows(optimizer: Optimizer, group: dict[str, Any]) -> list[tuple[str, ...]]:
    own = isinstance(optimizer, BaseOptimizer)
    parts: dict[tuple[str, float], list[Tensor]] = {}
    for param in group["params"]:
        rule = optimizer.rule_of(group, param.shape) if own else type(optimizer)
        lr = optimizer.lr_of(group, param.shape) if own else float(group["lr"])
        parts.setdefault((rule.__name__, lr), []).append(param)
    if not parts:
        parts[type(optimizer).__name__, float(group["lr"])] = []
    return [
        (
            str(group.get("role") or "-"),
            rule,
            str(len(params)),
            f"{sum(p.numel() for p in params):,}",
            f"{lr:g}",
            f"{group.get('weight_decay', 0.0):g}",
        )
        for (rule, lr), params in parts.items()
    ]
