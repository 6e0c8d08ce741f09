"""Recommendations for programs: JSON, a part of a study file, a script with the optimizer."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from typing import Any

from optbench.optimizers import OPTIMIZERS, CurvatureOptimizer
from optbench.recommend.differences import compare
from optbench.recommend.recommendation import OptimizerRecommendation, Recommendation, RunPlan
from optbench.recommend.target import RecommendationError
from optbench.report.wording import remark_text
from optbench.run_axes import share_of
from optbench.space import Value
from optbench.units import format_count

_WIDTH = 100


def as_dict(own: Recommendation, published: Recommendation | str | None) -> dict[str, Any]:
    """Plain data: the recommendation, and with a study of one's own the published one beside it.

    Args:
        own: the first answer.
        published: to compare with; a text is the reason why there is none, None that none was asked
            for.
    """
    found = _recommendation(own)
    if isinstance(published, str):
        return {**found, "published": None, "why_not_published": published, "differences": []}
    if published is None:
        return found
    differences = [_plain(dataclasses.asdict(d)) for d in compare(own, published)]
    return {**found, "published": _recommendation(published), "differences": differences}


def _recommendation(found: Recommendation) -> dict[str, Any]:
    content: dict[str, Any] = _plain(dataclasses.asdict(found))
    content["remarks"] = [remark_text(remark) for remark in found.remarks]
    content["place"]["ratio"] = found.place.ratio
    content["extrapolation"]["flag"] = found.extrapolation.flag
    content["flag"] = found.flag
    for entry, optimizer in zip(content["optimizers"], found.optimizers, strict=True):
        entry["extrapolation"]["flag"] = optimizer.extrapolation.flag
        entry["speedup_extrapolation"]["flag"] = optimizer.speedup_extrapolation.flag
        entry["plan"]["batch_tokens"] = optimizer.plan.batch_tokens
        entry["plan"]["warmup_share"] = optimizer.plan.warmup_share
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_toml(found: Recommendation) -> str:
    """A table [optimizers.X] for each optimizer, to be pasted into a study file."""
    head = _comment(f"{found.place.label}, from {found.source}: {found.flag}.")
    return "\n\n".join([head, *(_toml_table(one) for one in found.optimizers)])


def _comment(text: str) -> str:
    return "\n".join(f"# {line}" for line in textwrap.wrap(text, _WIDTH - 2))


def _toml_table(one: OptimizerRecommendation) -> str:
    plan = one.plan
    run: dict[str, Value] = {
        "batch_size": plan.batch_size,
        "clip_norm": plan.clip_norm,
        "clip_scope": plan.clip_scope,
        "warmup_steps": plan.warmup_steps,
        # Without this, a warm-up of 0 steps would be the study's share of the steps.
        "warmup_frac": share_of(plan.warmup_steps, plan.num_steps),
        "decay_frac": share_of(plan.decay_steps, plan.num_steps),
        "decay_shape": plan.decay_shape,
    }
    notes = [
        f"{one.optimizer}: {one.flag}.",
        f"Batches of {format_count(plan.batch_tokens)} tokens: {_batch(plan)}.",
        *one.remarks,
    ]
    return (
        "\n".join(map(_comment, notes)) + "\n"
        f"[optimizers.{one.optimizer}]\n"
        f"run = {_inline_table(run)}\n"
        f"start = {_inline_table(_constructor_settings(one))}"
    )


def _batch(plan: RunPlan) -> str:
    return f"{plan.batch_size} sequences of {plan.seq_len} tokens"


def _inline_table(values: dict[str, Value]) -> str:
    return "{ " + ", ".join(f"{name} = {_toml(value)}" for name, value in values.items()) + " }"


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _constructor_settings(one: OptimizerRecommendation) -> dict[str, Value]:
    """The settings, with the types that the constructor asks for."""
    if one.optimizer not in OPTIMIZERS:
        return one.settings
    defaults = OPTIMIZERS[one.optimizer].default_hyperparameters()
    return {
        name: float(value) if isinstance(defaults[name], float) else value
        for name, value in one.settings.items()
        if name in defaults
    }


def as_python(found: Recommendation) -> str:
    """A script that trains a small model with the first optimizer; it prints nothing.

    Raises:
        RecommendationError: the optimizer is not of this package.
    """
    one = found.optimizers[0]
    if one.optimizer not in OPTIMIZERS:
        raise RecommendationError(
            f"{one.optimizer} is no optimizer of this package, so there is no script for it. Use "
            f"--format json."
        )
    cls, plan = OPTIMIZERS[one.optimizer], one.plan
    settings = "".join(
        f"    {name}={value!r},\n" for name, value in _constructor_settings(one).items()
    )
    groups = "parameter_groups(model, model.roles())"
    if "head_dim" in cls.default_hyperparameters():
        groups = "parameter_groups(model, model.roles(), heads=model.heads())"
    needs_curvature = issubclass(cls, CurvatureOptimizer)
    clip = (_CLIP_ALL if plan.clip_scope == "all" else _CLIP_SCOPE) if plan.clip_norm else ""
    order = map(remark_text, found.remarks) if len(found.optimizers) > 1 else ()
    return _SCRIPT.format(
        title=f"{cls.__name__} for {found.place.label}.",
        origin="\n".join(
            textwrap.fill(text, _WIDTH)
            for text in (f"From {found.source}: {one.flag}.", *order, *one.remarks)
        ),
        batch=f"{_batch(plan)}, {format_count(plan.batch_tokens)} tokens",
        name=cls.__name__,
        settings=settings,
        groups=groups,
        num_steps=plan.num_steps,
        warmup_steps=plan.warmup_steps,
        decay_steps=plan.decay_steps,
        shape=plan.decay_shape,
        clip=clip.format(clip_norm=plan.clip_norm),
        clip_setup=_CLIP_SETUP.format(scope=plan.clip_scope) if clip == _CLIP_SCOPE else "",
        config_names="CLIPPED_ROLES, ModelConfig" if clip == _CLIP_SCOPE else "ModelConfig",
        curvature_setup=_CURVATURE_SETUP if needs_curvature else "",
        curvature_import=_CURVATURE_IMPORT if needs_curvature else "",
        curvature=_CURVATURE if needs_curvature else "",
    ).rstrip("\n")


_CLIP_ALL = "    torch.nn.utils.clip_grad_norm_(model.parameters(), {clip_norm})\n"
_CLIP_SCOPE = "    torch.nn.utils.clip_grad_norm_(clipped, {clip_norm})\n"
_CLIP_SETUP = """\
roles = model.roles()
clipped = [p for name, p in model.named_parameters() if roles[name] in CLIPPED_ROLES["{scope}"]]
"""
_CURVATURE_IMPORT = "from optbench.training.curvature_estimates import update_curvature\n"
_CURVATURE_SETUP = "directions = torch.Generator().manual_seed(0)  # of the curvature estimates\n"
_CURVATURE = """\
    if optimizer.curvature_due():
        update_curvature(optimizer, model, tokens, directions)
"""
_SCRIPT = '''\
"""{title}

{origin}
"""

import torch

from optbench.config import {config_names}
{curvature_import}from optbench.training.model import Llama
from optbench.optimizers import {name}, parameter_groups
from optbench.schedule import lr_factor

# Put your model and your data here; with a torch.nn.Module of your own, parameter_groups(model).
model = Llama(
    ModelConfig(num_layers=1, d_model=32, d_ff=128, num_heads=2, vocab_size=64, seq_len=16), seed=0
)
optimizer = {name}(
    {groups},
{settings})
NUM_STEPS = {num_steps}  # batches of {batch}
scheduler = torch.optim.lr_scheduler.LambdaLR(
    optimizer,
    lambda step: lr_factor(
        step,
        num_steps=NUM_STEPS,
        warmup_steps={warmup_steps},
        decay_steps={decay_steps},
        shape="{shape}",
    ),
)
{clip_setup}{curvature_setup}
for _ in range(2):  # of NUM_STEPS
    tokens = torch.randint(0, 64, (2, 17))
    model.loss(tokens).backward()
{clip}    optimizer.step()
    optimizer.zero_grad()
{curvature}    scheduler.step()
'''
