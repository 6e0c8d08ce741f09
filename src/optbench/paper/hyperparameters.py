"""The published hyperparameters over scale: which are sensitive to it, and what was extrapolated.

The sensitive ones are found again from the published tied sets of phase I. Their losses were
not published, so all members of a set count as equally good, and a tie between smallest covers
falls to the lower values.

The extrapolations to 1.2b are made again by the published form (see `form`) from the tuned
values of the smaller sizes, and beside them stands what `scaling_laws` predicts, with its interval.
Not every published number is determined by the values behind it; where it hangs on the solver, it
is explained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from optbench.paper.form import START_EXPONENT, PaperForm, fit_paper_form
from optbench.paper.published_study import PHASE_ONE
from optbench.published import COMPLEMENTS, PublishedCell, PublishedPrediction, PublishedResults
from optbench.space import Value
from optbench.statistics.scaling_laws import (
    Prediction,
    TunedValue,
    fit_scaling_law,
    least_factor,
)
from optbench.statistics.sensitivity import (
    AxisSensitivity,
    CellEvaluations,
    Evaluated,
    find_sensitivity,
    tidy,
)

Agreement: TypeAlias = Literal["same", "tie", "not published", "differs"]
Determined: TypeAlias = Literal["constant", "determined", "start", "several minima", "no minimum"]

SMALLER_SIZES = ("130m", "300m", "520m")
WINDOW_RATIOS = (1.0, 2.0, 4.0, 8.0)
# Where the solver starts for a second opinion, and how soon it must have found another minimum.
_OTHER_START, _SOON = -0.6, 400
_MAX_EVALUATIONS = 20_000  # a fit that has a minimum needs 15,000 at most
_SAME_EXPONENT = 1e-6
_SAME_VALUE = 0.01  # relative


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitiveAxis:
    """A hyperparameter that no single value serves in all cells of phase I.

    Args:
        found: the fewest values that serve all, from the published tied sets.
        published: as published; empty if it is not on the published list.
        agreement: "tie" if both serve all cells and neither is the smaller; "not published" for an
            optimizer without a published list.
        explanation: of a difference, in a sentence; empty where there is none.
    """

    optimizer: str
    axis: str
    found: tuple[Value, ...]
    published: tuple[Value, ...]
    agreement: Agreement
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtrapolatedValue:
    """One hyperparameter at 1.2b and one data ratio.

    Args:
        published: the published extrapolation.
        reproduced: by the published form; None where the fit has no minimum.
        law: by this project's law.
        used: in the published run of the cell.
        was_tuned: that run was the best of a sweep, not the only one.
    """

    ratio: float
    published: float
    reproduced: float | None
    law: Prediction
    used: Value
    was_tuned: bool

    @property
    def deviation(self) -> float | None:
        """Of the reproduced from the published, relative; absolute where that is 0."""
        if self.reproduced is None:
            return None
        return abs(self.reproduced - self.published) / (abs(self.published) or 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """One hyperparameter of one optimizer, from the smaller sizes to 1.2b.

    Args:
        determined: whether the tuned values determine the published form, or what it hangs on.
        law_form: of this project's law.
        tuned: what both were fitted to.
        values: by data ratio.
    """

    optimizer: str
    axis: str
    determined: Determined
    law_form: str
    tuned: tuple[TunedValue, ...]
    values: tuple[ExtrapolatedValue, ...]

    @property
    def deviation(self) -> float | None:
        """The largest of `ExtrapolatedValue.deviation`."""
        found = [value.deviation for value in self.values if value.deviation is not None]
        return max(found, default=None)


def sensitive_axes(results: PublishedResults) -> tuple[SensitiveAxis, ...]:
    """Of every optimizer, those found or published to be sensitive."""
    return tuple(axis for name in results.optimizers for axis in _sensitive(results, name))


def _sensitive(results: PublishedResults, optimizer: str) -> Iterator[SensitiveAxis]:
    published = results.sensitive.get(optimizer)
    judged = {found.axis: found for found in find_sensitivity(near_best_cells(results, optimizer))}
    for axis, found in judged.items():
        theirs = () if published is None else published.get(axis, ())
        if found.is_stable and not theirs:
            continue
        ours = () if found.is_stable else found.candidates
        agreement = _agreement(found, ours, theirs, is_listed=published is not None)
        yield SensitiveAxis(
            optimizer=optimizer,
            axis=axis,
            found=ours,
            published=theirs,
            agreement=agreement,
            explanation=_explanation(results, optimizer, found, theirs, agreement),
        )


def near_best_cells(results: PublishedResults, optimizer: str) -> list[CellEvaluations]:
    """The tied sets of phase I, all members alike."""
    cells = [results.find(optimizer, size, ratio) for size, ratio in PHASE_ONE]
    return [
        CellEvaluations(cell=cell.cell.label, evaluations=_alike(cell), tau=0.0)
        for cell in cells
        if cell is not None and cell.near_best
    ]


def _alike(cell: PublishedCell) -> tuple[Evaluated, ...]:
    return tuple((configuration, 0.0) for configuration in cell.near_best)


def _agreement(
    found: AxisSensitivity, ours: Sequence[Value], theirs: Sequence[Value], *, is_listed: bool
) -> Agreement:
    if not is_listed:
        return "not published"
    if set(ours) == set(theirs):
        return "same"
    return "tie" if len(ours) == len(theirs) and _covers(found, theirs) else "differs"


def _covers(found: AxisSensitivity, values: Sequence[Value]) -> bool:
    return all(any(scored.value in values for scored in cell.values) for cell in found.near_best)


def _explanation(
    results: PublishedResults,
    optimizer: str,
    found: AxisSensitivity,
    theirs: Sequence[Value],
    agreement: Agreement,
) -> str:
    if agreement == "not published":
        return f"{optimizer} was left out of phase II, and of the published list."
    if agreement == "same":
        return ""
    if agreement == "differs":
        return "The published values do not serve the published tied sets."
    ours = set(found.candidates)
    decisive = next(c for c in found.near_best if len({s.value for s in c.values} & ours) == 1
                and not {s.value for s in c.values} & ours & set(theirs))  # fmt: skip
    size, ratio = decisive.cell.rsplit(" ", 1)
    cell = results.find(optimizer, size, float(ratio[:-1]))
    assert cell is not None
    values = ", ".join(str(scored.value) for scored in decisive.values)
    return (
        f"Both pairs serve all cells: the statistically tied values of {decisive.cell} are "
        f"{values}, of which {cell.configuration[found.axis]} is the best."
    )


def extrapolations(results: PublishedResults) -> tuple[Extrapolation, ...]:
    """Of every hyperparameter with published extrapolations, by optimizer."""
    found: list[Extrapolation] = []
    for optimizer in dict.fromkeys(p.optimizer for p in results.predictions):
        own = sorted(
            (p for p in results.predictions if p.optimizer == optimizer), key=lambda p: p.cell.ratio
        )
        found += [_extrapolated(results, optimizer, axis, own) for axis in own[0].configuration]
    return tuple(found)


def window(results: PublishedResults, optimizer: str, axis: str) -> list[TunedValue]:
    """What the published fit was given: the best values of the smaller sizes at 1 to 8×."""
    return [
        TunedValue(
            num_params=cell.cell.model.num_nonembedding_params,
            ratio=cell.ratio,
            value=cell.configuration[axis],
        )
        for size in SMALLER_SIZES
        for cell in results.of(optimizer, size)
        if cell.ratio in WINDOW_RATIOS
    ]


def _extrapolated(
    results: PublishedResults,
    optimizer: str,
    axis: str,
    predictions: Sequence[PublishedPrediction],
) -> Extrapolation:
    cells = window(results, optimizer, axis)
    form, determined = judge_fit(cells)
    complement = axis in COMPLEMENTS
    grids = {v for c in results.of(optimizer) for v in c.grid.get(axis, ())}
    law = fit_scaling_law(
        cells, complement=complement, resolution=least_factor(grids, complement=complement)
    )
    values: list[ExtrapolatedValue] = []
    for prediction in predictions:
        place = prediction.cell
        params = place.model.num_nonembedding_params
        used = results.find(optimizer, place.size, place.ratio)
        assert used is not None
        values.append(
            ExtrapolatedValue(
                ratio=place.ratio,
                published=prediction.configuration[axis],
                reproduced=None if form is None else form.predict(params, place.ratio),
                law=law.predict(params, place.ratio),
                used=used.configuration[axis],
                was_tuned=bool(used.trials),
            )
        )
    return Extrapolation(
        optimizer=optimizer,
        axis=axis,
        determined=determined,
        law_form=law.form,
        tuned=tuple(cells),
        values=tuple(values),
    )


def judge_fit(cells: Sequence[TunedValue]) -> tuple[PaperForm | None, Determined]:
    """The published form's fit, and whether the values determine it.

    A value far below the solver's absolute tolerance ends the search after one linear step, with
    the exponents where they started; a search that starts elsewhere may end in another minimum; and
    some values have none.
    """
    order = sorted(cells, key=lambda cell: (cell.num_params, cell.ratio))[1:-1]
    try:
        form = fit_paper_form(cells, max_evaluations=_MAX_EVALUATIONS)
    except ValueError:
        return None, "no minimum"
    if len({tidy(cell.value) for cell in order}) == 1:
        return form, "constant"
    moved = (form.size_exponent - START_EXPONENT, form.ratio_exponent - START_EXPONENT)
    if max(map(abs, moved)) < _SAME_EXPONENT:
        return form, "start"
    return form, "several minima" if _ends_elsewhere(cells, form) else "determined"


def _ends_elsewhere(cells: Sequence[TunedValue], form: PaperForm) -> bool:
    try:
        other = fit_paper_form(cells, max_evaluations=_SOON, start_exponent=_OTHER_START)
    except ValueError:
        return False  # it is on its way, along the valley of the first
    place = max(cell.num_params for cell in cells) * 2, max(cell.ratio for cell in cells)
    one, two = form.predict(*place), other.predict(*place)
    return abs(one - two) > _SAME_VALUE * abs(one)
