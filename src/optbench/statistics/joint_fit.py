"""Speed-ups by one fit over all sizes and optimizers, L_o(N, D) = E + A·N^(−a) + B·(e_o·D)^(−b).

The efficiency e_o is the speed-up by construction: the baseline, whose e is 1, needs e_o·D tokens
for the loss that optimizer o has after D. All cells share E, A, a, B and b, so a curve that the
baseline's few budgets alone leave open is settled by every optimizer that has several.

- By default e_o is the same in all cells. With ``by_size`` every optimizer, the baseline too, has a
  B of its own at every size, so e_o is that of the size, and the slope of ln e_o over ln N is
  fitted to two or more of those. That the baseline's B may change is what keeps a wrong form of the
  dependence on N from passing for a trend of the speed-ups.
- With one size A·N^(−a) is a part of E. Two sizes have two floors, which no a can miss, so a is
  not fitted.
- B·e_o^(−b) is a linear parameter: only a and b are searched (see `separable`).

The 95 % interval is a parametric bootstrap: the fitted losses are moved by the noise of the means
and fitted anew, as often as asked. The noise is that of `speedup`: cells over the same seeds move
together, as a multivariate t with the seeds' covariance, others by the pooled σ. Without any noise
estimate the scatter about the fit stands for it.

Where the means scatter more about the fit than their noise explains, by an F test at 1 %, an error
of the model is added to the noise and reported in `JointFit.remarks`: wide rather than wrong. Such
an error does not average out. What is seen of it, a sum of squares, may lie as well in the one
direction out of sight that moves an efficiency; the added noise is so large that the interval
reaches that far.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from optbench.statistics.efficiency import (
    Efficiency,
    Group,
    SizeTrend,
    interval,
    log_efficiencies,
    read_efficiencies,
    read_trends,
)
from optbench.statistics.mean_noise import MeanNoise, independent_noise, noise_of_means
from optbench.statistics.noise import LEVEL, SeedNoise
from optbench.statistics.separable import (
    ASSUMED_SIZE_EXPONENT,
    SeparableFits,
    SeparableModel,
    complement,
    fit_all,
)
from optbench.units import format_count, format_p

MIN_BASELINE_BUDGETS = 3
REPLICATES = 2000
MISFIT_P = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class CellLoss:
    """An optimizer's mean loss in one cell.

    Args:
        params: non-embedding parameters.
        tokens: budget.
        mean: nats per token over ``count`` seeds.
        by_seed: the losses behind the mean, where the seeds are known.
    """

    optimizer: str
    params: float
    tokens: float
    mean: float
    count: int
    by_seed: Mapping[int, float] = field(default_factory=dict[int, float])


@dataclass(frozen=True, slots=True, kw_only=True)
class JointParameters:
    """The baseline's E + A·(N/unit_params)^(−a) + B·(D/unit_tokens)^(−b), in nats per token.

    Args:
        floor: E; with one size E + A.
        size_coefficient: A; 0 with one size.
        size_exponent: a; None with fewer than three sizes, which do not identify it.
        token_coefficients: B by size; one and the same without ``by_size``.
        token_exponent: b.
        token_exponent_interval: its 95 % interval; None if nothing is known of the noise.
        unit_params: the smallest size.
        unit_tokens: the smallest budget.
    """

    floor: float
    size_coefficient: float
    size_exponent: float | None
    token_coefficients: Mapping[float, float]
    token_exponent: float
    token_exponent_interval: tuple[float, float] | None
    unit_params: float
    unit_tokens: float

    def predict(self, params: float, tokens: float) -> float:
        """The baseline's loss, at one of the sizes of the fit, after ``tokens``."""
        exponent = ASSUMED_SIZE_EXPONENT if self.size_exponent is None else self.size_exponent
        floor = self.floor + self.size_coefficient * (params / self.unit_params) ** -exponent
        falling = (tokens / self.unit_tokens) ** -self.token_exponent
        return float(floor + self.token_coefficients[params] * falling)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoodnessOfFit:
    """Whether the scatter about the fit is what the noise of the means explains.

    Args:
        chi2: sum of squared residuals over the noise variance that they should have.
        dof: cells minus parameters.
        p_value: of a ``chi2`` as large as this, by the F distribution, since the noise is itself
            an estimate; None if the scatter is the only estimate of it, or without residuals.
        model_error: standard deviation in nats that was added to the mean of a cell; 0 unless
            p < 0.01.
    """

    chi2: float
    dof: int
    p_value: float | None
    model_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class JointFit:
    """What the joint fit found; with a ``reason`` it found nothing and the rest is empty.

    Args:
        efficiencies: of every optimizer but the baseline, and every size with ``by_size``.
        trends: of every optimizer with two sizes or more, with ``by_size``.
        residuals: measured minus fitted mean losses, in the order of the cells given.
        remarks: what a reader of the intervals must know, in sentences.
        reason: why there is no fit, in a sentence.
    """

    baseline: str
    efficiencies: tuple[Efficiency, ...] = ()
    trends: tuple[SizeTrend, ...] = ()
    parameters: JointParameters | None = None
    residuals: tuple[float, ...] = ()
    goodness: GoodnessOfFit | None = None
    remarks: tuple[str, ...] = ()
    reason: str = ""

    def efficiency(self, optimizer: str, params: float | None = None) -> Efficiency | None:
        """Of an optimizer, at a size if there is one for each; None if there is none."""
        for found in self.efficiencies:
            if found.optimizer == optimizer and found.params in (None, params):
                return found
        return None


def fit_joint(
    cells: Sequence[CellLoss],
    noise: SeedNoise | None,
    *,
    baseline: str,
    by_size: bool = False,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> JointFit:
    """Fit all cells at once.

    Args:
        cells: of the baseline and of the optimizers, each once.
        noise: pooled over seeds; without it the scatter about the fit takes its place.
        baseline: the optimizer whose efficiency is 1.
        by_size: an efficiency for each size instead of one for all.
        replicates: of the bootstrap; without any there are no intervals.
        seed: of the bootstrap; the same one gives the same intervals.

    Raises:
        ValueError: a loss is not finite, a budget or size not positive, or a cell given twice.
    """
    _check_cells(cells)
    if noise is not None and noise.sigma == 0:
        noise = (
            None  # seeds without any spread, or one run recorded twice, show nothing of the noise
        )
    if reason := _obstacle(cells, baseline, by_size=by_size):
        return JointFit(baseline=baseline, reason=reason)
    groups = _groups(cells, baseline, by_size=by_size)
    model = _model(cells, groups)
    means = np.array([cell.mean for cell in cells])
    point = fit_all(model, means[None])
    logs = log_efficiencies(groups, point)[0]
    if np.isnan(logs).any():
        reason = f"The losses of {baseline} do not fall with the budget: nothing can be read off."
        return JointFit(baseline=baseline, reason=reason)
    fitted = model.predict(point)[0]
    goodness, source = _judge(cells, noise, model, point)
    draws = None
    if source is not None and replicates:
        moves = source.draw(replicates, np.random.default_rng(seed))
        draws = fit_all(model, fitted + moves)
    drawn = None if draws is None else log_efficiencies(groups, draws)
    return JointFit(
        baseline=baseline,
        efficiencies=tuple(read_efficiencies(groups, logs, drawn)),
        trends=tuple(read_trends(groups, logs, drawn)),
        parameters=_parameters(cells, groups, point, draws),
        residuals=tuple((means - fitted).tolist()),
        goodness=goodness,
        remarks=tuple(_remarks(goodness, source, noise)),
    )


def _check_cells(cells: Sequence[CellLoss]) -> None:
    keys = [(cell.optimizer, cell.params, cell.tokens) for cell in cells]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"Each cell of an optimizer is given once, but got {twice[0]} twice.")
    for cell in cells:
        if not (np.isfinite(cell.mean) and cell.params > 0 and cell.tokens > 0 and cell.count > 0):
            raise ValueError(
                f"Losses must be finite, sizes, budgets and counts positive, but got {cell}. Leave "
                f"out cells in which every seed diverged."
            )


def _obstacle(cells: Sequence[CellLoss], baseline: str, *, by_size: bool) -> str:
    """What the cells lack; without it they are never fewer than the parameters."""
    budgets = _budgets(cells, baseline)
    most = max((len(tokens) for tokens in budgets.values()), default=0)
    if most < MIN_BASELINE_BUDGETS:
        where = " at one size" if len(budgets) > 1 else ""
        return (
            f"The fit needs at least {MIN_BASELINE_BUDGETS} budgets of {baseline}{where}, has "
            f"{most}."
        )
    least = 2 if by_size else 1
    for cell in cells:
        found = len(budgets.get(cell.params, ()))
        if found < least:
            return (
                f"The fit needs at least {least} budget{'s' * (least - 1)} of {baseline} at every "
                f"size, has {found} at {format_count(cell.params)} parameters."
            )
    return ""


def _budgets(cells: Sequence[CellLoss], baseline: str) -> dict[float, list[float]]:
    """The baseline's, by size."""
    found: dict[float, list[float]] = {}
    for cell in cells:
        if cell.optimizer == baseline:
            found.setdefault(cell.params, []).append(cell.tokens)
    return found


def _key(cell: CellLoss, *, by_size: bool) -> tuple[str, float | None]:
    return cell.optimizer, cell.params if by_size else None


def _groups(cells: Sequence[CellLoss], baseline: str, *, by_size: bool) -> list[Group]:
    """By optimizer and, if asked, size, the baseline's first."""
    budgets = _budgets(cells, baseline)
    members: dict[tuple[str, float | None], list[CellLoss]] = {}
    for cell in sorted(cells, key=lambda cell: cell.optimizer != baseline):
        members.setdefault(_key(cell, by_size=by_size), []).append(cell)
    index = {key: k for k, key in enumerate(members)}
    return [
        Group(
            optimizer=optimizer,
            params=params,
            base=index[baseline, params],
            reaches=tuple(
                (min(budgets[cell.params]) / cell.tokens, max(budgets[cell.params]) / cell.tokens)
                for cell in found
            ),
        )
        for (optimizer, params), found in members.items()
    ]


def _model(cells: Sequence[CellLoss], groups: Sequence[Group]) -> SeparableModel:
    index = {(group.optimizer, group.params): k for k, group in enumerate(groups)}
    by_size = groups[0].params is not None
    of_cell = [index[_key(cell, by_size=by_size)] for cell in cells]
    tokens = np.array([cell.tokens for cell in cells])
    params = np.array([cell.params for cell in cells])
    return SeparableModel(
        tokens=tokens / tokens.min(),
        params=params / params.min(),
        group=np.array(of_cell, dtype=np.int64),
        weight=np.sqrt([cell.count for cell in cells]),
    )


def _judge(
    cells: Sequence[CellLoss],
    noise: SeedNoise | None,
    model: SeparableModel,
    point: SeparableFits,
) -> tuple[GoodnessOfFit, MeanNoise | None]:
    """Compare the scatter with the noise, as far as both are known; what the intervals draw."""
    counts = [cell.count for cell in cells]
    dof, squares = len(cells) - model.num_parameters, float(point.squares[0])
    if noise is None:
        source = independent_noise((squares / dof) ** 0.5, dof, counts) if dof else None
        return GoodnessOfFit(chi2=float(dof), dof=dof, p_value=None, model_error=0.0), source
    source = noise_of_means(counts, [cell.by_seed for cell in cells], noise)
    if dof == 0:
        return GoodnessOfFit(chi2=0.0, dof=0, p_value=None, model_error=0.0), source
    expected, noise_dof = source.expected_squares(model.weight, complement(model, point))
    ratio = squares / expected if expected > 0 else float("inf")
    p_value = float(stats.f.sf(ratio, dof, noise_dof))
    model_error = 0.0
    if p_value < MISFIT_P:
        spread = (squares - expected) ** 0.5 / float(stats.norm.ppf((1 + LEVEL) / 2))
        source = source + independent_noise(spread, dof, counts)
        model_error = spread / float(np.mean(model.weight))
    return GoodnessOfFit(
        chi2=ratio * dof, dof=dof, p_value=p_value, model_error=model_error
    ), source


def _parameters(
    cells: Sequence[CellLoss],
    groups: Sequence[Group],
    point: SeparableFits,
    draws: SeparableFits | None,
) -> JointParameters:
    floor, exponents = point.floor_terms[0], np.exp(point.log_exponents[0])
    sizes = sorted({cell.params for cell in cells})
    own = {group.params: k for k, group in enumerate(groups) if group.base == k}
    coefficients = {size: float(point.coefficients[0, own.get(size, 0)]) for size in sizes}
    return JointParameters(
        floor=float(floor[0]),
        size_coefficient=float(floor[1]) if len(floor) == 2 else 0.0,
        size_exponent=float(exponents[1]) if len(exponents) == 2 else None,
        token_coefficients=coefficients,
        token_exponent=float(exponents[0]),
        token_exponent_interval=(
            None if draws is None else interval(np.exp(draws.log_exponents[:, 0]))
        ),
        unit_params=sizes[0],
        unit_tokens=min(cell.tokens for cell in cells),
    )


def _remarks(
    goodness: GoodnessOfFit, source: MeanNoise | None, noise: SeedNoise | None
) -> Iterator[str]:
    if source is None:
        yield "No intervals: nothing is known of the noise, and no cell is left to show it."
    elif noise is None:
        yield (
            f"No seed noise is known: the intervals come from the scatter about the fit "
            f"({goodness.dof} degrees of freedom)."
        )
    elif goodness.p_value is None:
        yield "As many parameters as cells: no test shows whether the model holds."
    elif goodness.p_value < MISFIT_P:
        yield (
            f"The model does not fit (χ² = {goodness.chi2:.3g} on {goodness.dof} degrees of "
            f"freedom, {format_p(goodness.p_value)}): the intervals allow for its error, "
            f"{goodness.model_error:.2g} nats a cell."
        )
