"""The result of each optimizer against the baseline, with the runs behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from statistics import median

from optbench.analysis.baseline import Reference
from optbench.analysis.confirmation import Replicates
from optbench.analysis.notices import (
    AllDiverged,
    RowNotice,
    RunsAbsent,
    Stage,
    TimedElsewhere,
    Unconfirmed,
)
from optbench.analysis.spending import Spent
from optbench.analysis.tuning import Tuning
from optbench.statistics.contrasts import difference_by_seed
from optbench.statistics.joint_fit import JointFit
from optbench.statistics.noise import Difference, MeanLoss, mean_loss
from optbench.statistics.speedup import (
    MIN_BUDGETS,
    REPLICATES,
    CurveEstimator,
    OptimizerLoss,
    Speedup,
    Timing,
    speedup,
)
from optbench.store.journal_entries import PredictionEntry


class RowVerdict(Enum):
    """An optimizer against the baseline, in tokens, or why there is nothing to compare.

    ``INCONCLUSIVE`` is an interval that contains 1, ``NO_INTERVAL`` a value of a single seed.
    """

    BASELINE = auto()
    FASTER = auto()
    SLOWER = auto()
    INCONCLUSIVE = auto()
    NO_INTERVAL = auto()
    NO_SPEEDUP = auto()
    ALL_DIVERGED = auto()
    NO_RESULT = auto()

    @property
    def excludes_one(self) -> bool:
        """The interval of the speed-up does not contain 1."""
        return self in (RowVerdict.FASTER, RowVerdict.SLOWER)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRow:
    """One optimizer in a cell; what is not known yet is None.

    Args:
        test: mean test loss of the confirmation runs that did not diverge.
        confirmed: those runs.
        tuning: how the configuration was found.
        tokens: headline speed-up in tokens: ``interpolate`` within the baseline's budgets, else
            ``paper``, which extrapolates.
        seconds: the same in training seconds on the device of the study.
        baseline_tokens: after which the baseline has the same mean loss, by the headline estimate.
        estimates: the speed-up in tokens by every estimator that the baseline's budgets allow, the
            joint fit of all cells last.
        difference: mean test loss minus the baseline's.
        s_per_token: median training seconds per token.
        state_bytes_per_param: optimizer state over all parameters.
        spent: by all of its runs, tuning and confirmation; in every cell, or in this one alone for
            the rows of a `cells.CellSummary`.
        verdict: by the headline speed-up in tokens.
        missing: what is not there.
        prediction: how the configuration was predicted, where it was not tuned.
    """

    optimizer: str
    is_baseline: bool
    test: MeanLoss | None
    confirmed: Replicates | None
    tuning: Tuning | None
    tokens: Speedup | None
    seconds: Speedup | None
    baseline_tokens: float | None
    estimates: tuple[Speedup, ...]
    difference: Difference | None
    s_per_token: float | None
    state_bytes_per_param: float | None
    spent: Spent
    verdict: RowVerdict
    missing: tuple[RowNotice, ...]
    prediction: PredictionEntry | None = None


def build_row(
    optimizer: str,
    confirmed: Replicates | None,
    tuning: Tuning | None,
    spent: Spent,
    reference: Reference,
    joint: JointFit | None = None,
    prediction: PredictionEntry | None = None,
    *,
    replicates: int = REPLICATES,
) -> OptimizerRow:
    """Compare one optimizer with the reference, as far as its runs allow.

    The intervals of speed-ups are made of ``replicates`` of the bootstrap.
    """
    is_baseline = optimizer == reference.name
    test = mean_loss(confirmed.losses, reference.noise) if confirmed and confirmed.losses else None
    estimates: tuple[Speedup, ...] = ()
    tokens = seconds = None
    if confirmed and test and not is_baseline:
        estimates = _estimates(confirmed, test, reference, joint, replicates)
        tokens = headline(estimates)
        seconds = _in_seconds(confirmed, test, reference, tokens)
    return OptimizerRow(
        optimizer=optimizer,
        is_baseline=is_baseline,
        test=test,
        confirmed=confirmed,
        tuning=tuning,
        tokens=tokens,
        seconds=seconds,
        baseline_tokens=tokens.value * confirmed.cell.num_tokens if tokens and confirmed else None,
        estimates=estimates,
        difference=None if is_baseline else _difference(confirmed, reference),
        s_per_token=_median(confirmed.seconds_per_token if confirmed else ()),
        state_bytes_per_param=_median(
            [seed.state_bytes_per_param for seed in confirmed.seeds] if confirmed else ()
        ),
        spent=spent,
        verdict=RowVerdict.BASELINE if is_baseline else _verdict(tokens, confirmed),
        missing=tuple(_missing(optimizer, confirmed, tuning, prediction, reference)),
        prediction=prediction,
    )


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values else None


def _optimizer_loss(confirmed: Replicates, test: MeanLoss) -> OptimizerLoss:
    return OptimizerLoss(
        tokens=confirmed.cell.num_tokens,
        mean=test.value,
        count=test.count,
        by_seed=confirmed.by_seed,
    )


def _estimates(
    confirmed: Replicates,
    test: MeanLoss,
    reference: Reference,
    joint: JointFit | None,
    replicates: int,
) -> tuple[Speedup, ...]:
    allowed: list[CurveEstimator] = [
        name for name, least in MIN_BUDGETS.items() if len(reference.losses.tokens) >= least
    ]
    loss = _optimizer_loss(confirmed, test)
    found = [
        speedup(
            reference.losses,
            loss,
            reference.noise,
            estimator=estimator,
            replicates=replicates,
        )
        for estimator in allowed
    ]
    if joint is not None and (estimate := _joint_estimate(confirmed, reference, joint)):
        found.append(estimate)
    return tuple(found)


def _joint_estimate(confirmed: Replicates, reference: Reference, joint: JointFit) -> Speedup | None:
    """None at a size that the joint fit does not have."""
    params = float(confirmed.cell.num_nonembedding_params)
    found = joint.efficiency(confirmed.optimizer, params)
    if found is None or not reference.losses.tokens:
        return None
    return Speedup(
        value=found.value,
        low=found.low,
        high=found.high,
        estimator="joint",
        extrapolated=found.extrapolated,
        bound=found.bound,
    )


def headline(estimates: Sequence[Speedup]) -> Speedup | None:
    """The first estimate that is a number: a bound is quoted only where there is no other.

    The joint fit is no candidate: its replicates cannot be turned into seconds.
    """
    own = [estimate for estimate in estimates if estimate.estimator != "joint"]
    numbers = [estimate for estimate in own if not estimate.bound]
    return next(iter([*numbers, *own]), None)


def _in_seconds(
    confirmed: Replicates, test: MeanLoss, reference: Reference, tokens: Speedup | None
) -> Speedup | None:
    """None where the two were not timed, or on different devices."""
    timing = _timing(confirmed, reference)
    if tokens is None or tokens.estimator == "joint" or timing is None:
        return None
    return speedup(
        reference.losses,
        _optimizer_loss(confirmed, test),
        reference.noise,
        estimator=tokens.estimator,
        timing=timing,
    )


def _timing(confirmed: Replicates, reference: Reference) -> Timing | None:
    """Rounds side by side if they were measured, else the step times of the runs themselves."""
    baseline, rounds = reference.confirmed, reference.timing
    if rounds and {confirmed.optimizer, reference.name} <= rounds.s_per_token.keys():
        return Timing(
            baseline=tuple(rounds.s_per_token[reference.name]),
            optimizer=tuple(rounds.s_per_token[confirmed.optimizer]),
            paired=True,
        )
    if baseline is None or confirmed.devices != baseline.devices:
        return None
    if not baseline.seconds_per_token or not confirmed.seconds_per_token:
        return None
    return Timing(baseline=baseline.seconds_per_token, optimizer=confirmed.seconds_per_token)


def _difference(confirmed: Replicates | None, reference: Reference) -> Difference | None:
    baseline = reference.confirmed
    if confirmed is None or baseline is None:
        return None
    return difference_by_seed(confirmed.by_seed, baseline.by_seed, reference.noise)


def _verdict(tokens: Speedup | None, confirmed: Replicates | None) -> RowVerdict:
    if tokens is not None:
        return RowVerdict.NO_INTERVAL if tokens.low is None else side_of_one(tokens)
    if confirmed is None or not confirmed.seeds:
        return RowVerdict.NO_RESULT
    return RowVerdict.NO_SPEEDUP if confirmed.losses else RowVerdict.ALL_DIVERGED


def side_of_one(estimate: Speedup) -> RowVerdict:
    """Where the whole interval lies."""
    if estimate.low is not None and estimate.low > 1:
        return RowVerdict.FASTER
    if estimate.high is not None and estimate.high < 1:
        return RowVerdict.SLOWER
    return RowVerdict.INCONCLUSIVE


def _missing(
    optimizer: str,
    confirmed: Replicates | None,
    tuning: Tuning | None,
    prediction: PredictionEntry | None,
    reference: Reference,
) -> Iterator[RowNotice]:
    if confirmed is None:
        predicted = Stage.PREDICTED if prediction else Stage.TUNING
        yield Unconfirmed(optimizer, Stage.TUNED if tuning else predicted)
        return
    if confirmed.absent:
        yield RunsAbsent(optimizer, confirmed.absent)
    if confirmed.seeds and not confirmed.losses:
        yield AllDiverged(optimizer, len(confirmed.seeds))
    baseline = reference.confirmed
    if baseline is not None and confirmed.devices != baseline.devices:
        devices, others = sorted(confirmed.devices), sorted(baseline.devices)
        yield TimedElsewhere(optimizer, tuple(devices), tuple(others))
