"""Keywords of torch's optimizers that ours do not have, and what takes their place."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from optbench.space import did_you_mean

_CHOSEN = "the fastest kernels are chosen for each parameter. Leave it out"
_REMEDIES: Mapping[str, str] = {
    "fused": _CHOSEN,
    "foreach": _CHOSEN,
    "capturable": "steps cannot be part of a CUDA graph. Leave it out",
    "differentiable": "the step is not differentiable. Leave it out",
    "maximize": "negate the loss to maximize it",
    "amsgrad": "AMSGrad is another method, which torch.optim.AdamW has. Leave it out",
    "decoupled_weight_decay": "weight decay is always decoupled. Leave it out",
    "momentum": "the momentum is `beta1`",
    "momentum_decay": "the momentum is `beta1` from the first step on. Leave it out",
    "dampening": "the momentum is an average of gradients. Leave it out",
    "ns_coefficients": "the coefficients are those of the authors. Leave it out",
    "adjust_lr_fn": 'the factor is that of "original". Leave it out',
}


def keyword_remedy(name: str, value: Any, own: Collection[str]) -> str | None:
    """What takes the place of a keyword that other optimizers have; None for an unknown one.

    Args:
        name: the keyword.
        value: what was given.
        own: the hyperparameters of the method.
    """
    if name == "betas":
        return _betas_remedy(value, own)
    if name == "lr_1d" and "aux_lr_ratio" in own:
        return "the rate of vectors is `aux_lr_ratio` times `lr`."
    if name in _REMEDIES:
        return f"{_REMEDIES[name]}."
    if name in ("eps", "beta2", "nesterov"):
        return "the method has none. Leave it out."
    return None


def _betas_remedy(value: Any, own: Collection[str]) -> str:
    names = [name for name in ("beta1", "beta2") if name in own]
    if not names:
        return "the method has none. Leave it out."
    values: Sequence[Any] = value if isinstance(value, tuple | list) else ()
    if len(values) < len(names):
        return f"give {' and '.join(f'`{name}`' for name in names)}."
    pairs = ", ".join(f"{name}={one}" for name, one in zip(names, values, strict=False))
    missing = "" if len(names) == len(values) else "; the method has no second"
    return f"betas={value} is {pairs} here{missing}."


def check_call(
    method: str,
    init: Callable[..., None],
    args: Sequence[Any],
    keywords: Mapping[str, Any],
) -> None:
    """Refuse a call of a constructor that Python would refuse, with what to write instead.

    Args:
        method: name of the class.
        init: its ``__init__``.
        args: without ``self``.
        keywords: of the call.

    Raises:
        TypeError: unknown keywords, all of them named, or hyperparameters without their names.
    """
    parameters = list(inspect.signature(init).parameters.values())[1:]
    kinds = [parameter.kind for parameter in parameters]
    own = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    known = {p.name for p in parameters}
    problems: list[str] = []
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for name in (name for name in keywords if name not in known):
            remedy = keyword_remedy(name, keywords[name], own)
            reason = remedy or did_you_mean(name, own, what="hyperparameter")
            problems.append(f"{method} got an unexpected keyword argument '{name}': {reason}")
    places = sum(kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)
    if len(args) > places and inspect.Parameter.VAR_POSITIONAL not in kinds:
        extra = ", ".join(repr(arg) for arg in args[places:])
        problems.append(
            f"{method} takes its hyperparameters by name, but got {extra} without one. Write "
            f"{method}(params, lr=…)."
        )
    if problems:
        raise TypeError(" ".join(problems))
