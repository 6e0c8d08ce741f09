"""The result of each optimizer against the baseline, with the runs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, TypeAlias

from optbench.analysis.baseline import Reference
from optbench.analysis.confirmation import Replicates
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

Standing: TypeAlias = Literal["baseline", "faster", "slower", "inconclusive", "no result"]


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
        standing: the verdict in a word.
        verdict: the verdict in a sentence.
        missing: what is not there, in sentences.
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
    standing: Standing
    verdict: str
    missing: tuple[str, ...]
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
    standing = _standing(test, tokens, is_baseline=is_baseline)
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
        standing=standing,
        verdict=_verdict(standing, tokens, seconds, confirmed, reference),
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


def _standing(test: MeanLoss | None, tokens: Speedup | None, *, is_baseline: bool) -> Standing:
    if is_baseline:
        return "baseline"
    if test is None or tokens is None:
        return "no result"
    return side_of_one(tokens)


def side_of_one(estimate: Speedup) -> Literal["faster", "slower", "inconclusive"]:
    """Where the whole interval lies."""
    if estimate.low is not None and estimate.low > 1:
        return "faster"
    if estimate.high is not None and estimate.high < 1:
        return "slower"
    return "inconclusive"


def _verdict(
    standing: Standing,
    tokens: Speedup | None,
    seconds: Speedup | None,
    confirmed: Replicates | None,
    reference: Reference,
) -> str:
    if standing == "baseline":
        return "the baseline"
    if tokens is None:
        if confirmed is None or not confirmed.seeds:
            return "no result yet"
        if not confirmed.losses:
            return "no result: every confirmation run diverged"
        return f"no speed-up: {reference.name} has too few budgets at this size"
    sentence = {
        "faster": f"faster than {reference.name} in tokens: interval above 1",
        "slower": f"slower than {reference.name} in tokens: interval below 1",
        "inconclusive": "inconclusive: interval contains 1",
    }[standing]
    if tokens.low is None:
        sentence = "inconclusive: no interval without a second seed"
    elif seconds is not None and (side := side_of_one(seconds)) != standing:
        sentence += f"; in seconds: {side}"
    if tokens.extrapolated:
        sentence += "; extrapolated beyond the baseline's budgets"
    if confirmed and confirmed.num_diverged:
        sentence += (
            f"; unstable: {confirmed.num_diverged} of {len(confirmed.seeds)} confirmation runs "
            f"diverged and are left out"
        )
    return sentence


def _missing(
    optimizer: str,
    confirmed: Replicates | None,
    tuning: Tuning | None,
    prediction: PredictionEntry | None,
    reference: Reference,
) -> list[str]:
    if confirmed is None:
        stage = "is tuned" if tuning else "is predicted" if prediction else "is still being tuned"
        return [f"{optimizer} {stage}: no confirmation runs yet."]
    found: list[str] = []
    if confirmed.absent:
        found.append(
            f"{optimizer}: {len(confirmed.absent)} confirmation runs are not in the store "
            f"({', '.join(confirmed.absent)})."
        )
    if confirmed.seeds and not confirmed.losses:
        found.append(f"{optimizer}: all {len(confirmed.seeds)} confirmation runs diverged.")
    baseline = reference.confirmed
    if baseline is not None and confirmed.devices != baseline.devices:
        found.append(
            f"{optimizer}: no speed-up in seconds, because its runs were timed on "
            f"{', '.join(sorted(confirmed.devices))} and the baseline's on "
            f"{', '.join(sorted(baseline.devices))}."
        )
    return found
