"""Which optimizer for a model size and a budget, with which hyperparameters, and how sure.

`recommend` reads a :class:`RecommendationSource`, the published results or a study of one's own
(see `sources`), and puts together what `speedup_transfer`, `hyperparameter_transfer` and
`state_memory` give for a target (N, D). It states how far outside of the source the target lies,
and refuses one that is too far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from optbench.analysis.notices import FitNotice
from optbench.config import ClipScope
from optbench.ladder import TOKENS_PER_PARAM
from optbench.recommend.hyperparameter_transfer import Transferred, extrapolation_factor, transfer
from optbench.recommend.speedup_transfer import Interval, SpeedupModel
from optbench.recommend.state_memory import state_bytes_per_param
from optbench.recommend.target import ExtrapolationFactors, RecommendationError, Target
from optbench.recommend.tuned_cells import TunedCell
from optbench.run_axes import RUN_AXES, decay_steps_of, warmup_steps_of
from optbench.schedule import DecayShape
from optbench.space import Value, did_you_mean
from optbench.units import format_count

# Sizes left out test a factor of 2.25 in N, 4 at most (see `accuracy`). This is as
# far again, in ln N, as the factor that all optimizers were tested over.
MAX_SIZE_FACTOR = 6.0
MAX_RATIO_FACTOR = 4.0  # in ln r half of the published range
_ROUNDED = 1.005  # limits are printed with three digits; what is printed is allowed
MAX_WARMUP_SHARE = 0.8  # the longest that won anywhere: 4000 of 5120 steps


@dataclass(frozen=True, slots=True, kw_only=True)
class RecommendationSource:
    """What a recommendation is learnt from.

    Args:
        name: for the reader.
        baseline: whose speed-up is 1.
        cells: tuned ones of all optimizers.
        sizes: the smallest and the largest N with losses.
        ratios: the smallest and the largest r with losses.
        speedups: over the baseline.
        seq_len: tokens in a sequence, which batch sizes count.
        decay_shapes: by optimizer.
        losses: by optimizer, N and r of the cells with losses; of one that is absent, the tuned.
        clip_scopes: by optimizer; of one that is absent, all parameters.
        remarks: what limits all of it.
        remarks_from: a ratio from which on a further sentence holds.
    """

    name: str
    baseline: str
    cells: tuple[TunedCell, ...]
    sizes: tuple[float, float]
    ratios: tuple[float, float]
    speedups: SpeedupModel
    seq_len: int
    decay_shapes: Mapping[str, DecayShape]
    losses: Mapping[str, Sequence[tuple[float, float]]] = field(
        default_factory=dict[str, Sequence[tuple[float, float]]]
    )
    clip_scopes: Mapping[str, ClipScope] = field(default_factory=dict[str, ClipScope])
    remarks: tuple[str | FitNotice, ...] = ()
    remarks_from: tuple[tuple[float, str], ...] = ()

    def nearest(self, place: Target) -> Target:
        """The place, moved into the sizes and ratios with losses."""
        params = min(max(place.params, self.sizes[0]), self.sizes[1])
        ratio = min(max(place.ratio, self.ratios[0]), self.ratios[1])
        return Target(params=params, tokens=TOKENS_PER_PARAM * ratio * params)

    @property
    def optimizers(self) -> tuple[str, ...]:
        """That were tuned, the baseline first."""
        found = dict.fromkeys(cell.optimizer for cell in self.cells)
        return tuple(sorted(found, key=lambda name: name != self.baseline))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """Batch and schedule in the units of a training script.

    Args:
        batch_size: sequences.
        seq_len: tokens in each.
        num_steps: of the budget.
        warmup_steps: from rate 0.
        decay_steps: at the end, down to rate 0.
        decay_shape: of the decay.
        clip_norm: limit of the gradient's norm; 0 for none.
        clip_scope: the parameters that it covers.
    """

    batch_size: int
    seq_len: int
    num_steps: int
    warmup_steps: int
    decay_steps: int
    decay_shape: DecayShape
    clip_norm: float
    clip_scope: ClipScope

    @property
    def batch_tokens(self) -> int:
        """Tokens in a batch."""
        return self.batch_size * self.seq_len

    @property
    def warmup_share(self) -> float:
        """Of all steps."""
        return self.warmup_steps / self.num_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRecommendation:
    """One optimizer at a place.

    Args:
        speedup: over the baseline, in tokens; None where the source has no losses.
        loss_difference: loss minus the baseline's after the same tokens, nats.
        state_bytes_per_param: of the hidden matrices; None for an optimizer not known.
        state_bytes: of all of them.
        hyperparameters: in the order of the configuration.
        extrapolation: of the place outside of this optimizer's own tuned cells.
        speedup_extrapolation: of the place outside of its own losses.
        plan: batch and schedule.
        remarks: in sentences.
    """

    optimizer: str
    speedup: Interval | None
    loss_difference: Interval | None
    state_bytes_per_param: float | None
    state_bytes: float | None
    hyperparameters: tuple[Transferred, ...]
    extrapolation: ExtrapolationFactors
    speedup_extrapolation: ExtrapolationFactors
    plan: RunPlan
    remarks: tuple[str, ...]

    @property
    def flag(self) -> str:
        """Of both, such as ``hyperparameters extrapolated 2x in size, speed-up interpolated``."""
        return (
            f"hyperparameters {self.extrapolation.flag}, speed-up {self.speedup_extrapolation.flag}"
        )

    @property
    def settings(self) -> dict[str, Value]:
        """What the optimizer's constructor takes."""
        return {h.axis: h.value for h in self.hyperparameters if h.axis not in RUN_AXES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """All optimizers at a place, the fastest first; those without a speed-up last.

    Args:
        source: its name.
        baseline: whose speed-up is 1.
        place: that was asked for.
        extrapolation: of the place outside of all losses of the source.
        optimizers: in this order.
        remarks: what limits the source, and the order.
    """

    source: str
    baseline: str
    place: Target
    extrapolation: ExtrapolationFactors
    optimizers: tuple[OptimizerRecommendation, ...]
    remarks: tuple[str | FitNotice, ...]

    @property
    def flag(self) -> str:
        """The farthest of all optimizers, for hyperparameters and for speed-ups."""
        own = ExtrapolationFactors.worst([one.extrapolation for one in self.optimizers])
        speed = ExtrapolationFactors.worst([one.speedup_extrapolation for one in self.optimizers])
        if len(self.optimizers) == 1:
            return self.optimizers[0].flag
        return f"hyperparameters at worst {own.flag}, speed-ups at worst {speed.flag}".replace(
            "at worst interpolated", "interpolated"
        )

    @property
    def rivals(self) -> tuple[str, ...]:
        """Those that the interval of the first does not exclude."""
        first = self.optimizers[0].speedup
        if first is None or first.low is None:
            return ()
        found = ((o.optimizer, o.speedup) for o in self.optimizers[1:])
        return tuple(name for name, s in found if s is not None and s.value >= first.low)

    def find(self, optimizer: str) -> OptimizerRecommendation | None:
        """The one of that name, if it is there."""
        return next((o for o in self.optimizers if o.optimizer == optimizer), None)


def recommend(
    source: RecommendationSource, place: Target, optimizers: Sequence[str] = ()
) -> Recommendation:
    """The recommendation of a source for a target.

    Args:
        source: to learn from.
        place: size and budget.
        optimizers: only these; empty = all of the source.

    Raises:
        RecommendationError: an optimizer that the source does not have, or a place too far outside.
    """
    for name in optimizers:
        if name not in source.optimizers:
            raise RecommendationError(did_you_mean(name, source.optimizers, what="optimizer"))
    check_extrapolation(source, place)
    asked = dict.fromkeys(optimizers or source.optimizers)
    found = [_optimizer(source, name, place) for name in asked]
    ordered = Recommendation(
        source=source.name,
        baseline=source.baseline,
        place=place,
        extrapolation=ExtrapolationFactors.of(
            place, list(zip(source.sizes, source.ratios, strict=True))
        ),
        optimizers=tuple(sorted(found, key=lambda o: -(o.speedup.value if o.speedup else -1.0))),
        remarks=source.remarks,
    )
    return replace(ordered, remarks=(*source.remarks, *_on_order(source, ordered)))


def _on_order(source: RecommendationSource, found: Recommendation) -> list[str]:
    """How sure the order is, where there is one."""
    if len(found.optimizers) < 2:
        return []
    late = [text for ratio, text in source.remarks_from if found.place.ratio >= ratio]
    if not found.rivals:
        return late
    first = found.optimizers[0].optimizer
    lead = f"{first} is not distinguishable from {', '.join(found.rivals)}: their speed-ups lie"
    return [f"{lead} within its interval.", *late]


def check_extrapolation(source: RecommendationSource, place: Target) -> None:
    """Refuse what is too far away.

    Raises:
        RecommendationError: with how far it is, and how far is allowed.
    """
    size, ratio = (
        extrapolation_factor(place.params, source.sizes),
        extrapolation_factor(place.ratio, source.ratios),
    )
    if size > MAX_SIZE_FACTOR * _ROUNDED:
        low, high = source.sizes
        raise RecommendationError(
            f"{format_count(place.params)} parameters are {format_count(size)} times outside of "
            f"the sizes of {source.name} ({_span(low, high)}), and a recommendation goes "
            f"{MAX_SIZE_FACTOR:g} times outside at most. Ask for "
            f"{_span(low / MAX_SIZE_FACTOR, high * MAX_SIZE_FACTOR)}."
        )
    if ratio > MAX_RATIO_FACTOR * _ROUNDED:
        low, high = (TOKENS_PER_PARAM * r * place.params for r in source.ratios)
        raise RecommendationError(
            f"{format_count(place.tokens)} tokens for {format_count(place.params)} parameters are "
            f"{format_count(place.ratio)} times Chinchilla's 20 a parameter, "
            f"{format_count(ratio)} times outside of the ratios of {source.name} "
            f"({source.ratios[0]:g} to {source.ratios[1]:g}), and a recommendation goes "
            f"{MAX_RATIO_FACTOR:g} times outside at most. Ask for "
            f"{_span(low / MAX_RATIO_FACTOR, high * MAX_RATIO_FACTOR)} tokens."
        )


def _span(low: float, high: float) -> str:
    return f"{format_count(low)} to {format_count(high)}" if high > low else format_count(low)


def _optimizer(source: RecommendationSource, name: str, place: Target) -> OptimizerRecommendation:
    found = transfer(source.cells, name, place.params, place.ratio)
    own = [cell for cell in source.cells if cell.optimizer == name]
    values = {h.axis: h.value for h in found}
    plan, cut = _plan(source, name, values, place)
    speedup, difference = _speed(source, name, place)
    tuned = [(cell.num_params, cell.ratio) for cell in own]
    per_param = state_bytes_per_param(name, values)
    return OptimizerRecommendation(
        optimizer=name,
        speedup=speedup,
        loss_difference=difference,
        state_bytes_per_param=per_param,
        state_bytes=None if per_param is None else per_param * place.params,
        hyperparameters=tuple(_cut_warmup(h, plan) for h in found),
        extrapolation=ExtrapolationFactors.of(place, tuned),
        speedup_extrapolation=ExtrapolationFactors.of(place, source.losses.get(name, tuned)),
        plan=plan,
        remarks=(*cut, *_remarks(name, own, speedup)),
    )


def _cut_warmup(found: Transferred, plan: RunPlan) -> Transferred:
    """A warm-up in steps, and its range, no longer than the plan's."""
    if found.axis != "warmup_steps":
        return found
    longest = plan.warmup_steps
    if longest >= int(found.value):
        return found
    low, high = (None if end is None else min(int(end), longest) for end in (found.low, found.high))
    return replace(found, value=longest, low=low, high=high)


def _remarks(name: str, own: Sequence[TunedCell], speedup: Interval | None) -> list[str]:
    set_here = {axis: why for cell in own for axis, why in cell.set_here.items()}
    remarks = [f"{name}: {axis} is set here: {why}" for axis, why in set_here.items()]
    if speedup is not None and speedup.low is None:
        remarks.append(
            f"{name}: the speed-up has no interval, since nothing is known of its error at this "
            f"size."
        )
    return remarks


def _speed(
    source: RecommendationSource, name: str, place: Target
) -> tuple[Interval | None, Interval | None]:
    if name == source.baseline:
        return Interval(value=1.0, low=1.0, high=1.0), Interval(value=0.0, low=0.0, high=0.0)
    near = source.nearest(place)
    found = source.speedups.at(name, place.params, place.tokens, nearest=(near.params, near.tokens))
    return found or (None, None)


def _plan(
    source: RecommendationSource, name: str, values: Mapping[str, Value], place: Target
) -> tuple[RunPlan, tuple[str, ...]]:
    batch_size = int(values.get("batch_size", 1))
    steps = int(place.tokens // (batch_size * source.seq_len))
    if steps < 1:
        raise RecommendationError(
            f"{format_count(place.tokens)} tokens are less than one batch of {batch_size} "
            f"sequences of {source.seq_len} tokens."
        )
    wanted = warmup_steps_of(values, steps)
    warmup = min(wanted, int(MAX_WARMUP_SHARE * steps))
    remarks = ()
    if warmup < wanted:
        remarks = (
            f"{name}: the warm-up of {wanted} steps is cut to {warmup}, {MAX_WARMUP_SHARE:.0%} of "
            f"the {steps} steps of this budget.",
        )
    return RunPlan(
        batch_size=batch_size,
        seq_len=source.seq_len,
        num_steps=steps,
        warmup_steps=warmup,
        decay_steps=decay_steps_of(values, steps, warmup),
        decay_shape=source.decay_shapes.get(name, "linear"),
        clip_norm=float(values.get("clip_norm", 0.0)),
        clip_scope=source.clip_scopes.get(name, "all"),
    ), remarks
