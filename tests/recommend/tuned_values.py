"""Cells of the published ladder with values that follow a law."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from optbench.space import Value
from optbench.statistics.power_curve import PowerCurve
from optbench.statistics.scaling_laws import Prediction, ScalingLaw, TunedValue
from tests.analysis.published import SIZES

Law = Callable[[float, float], float]
Places = Sequence[tuple[float, float]]

UNIT = float(SIZES[0])
GRID = [(float(n), r) for n in SIZES for r in (1.0, 2.0, 4.0, 8.0)]
PHASE_ONE = [*GRID[:4], GRID[4], GRID[8]]


def tuned(places: Places, values: Sequence[Value]) -> list[TunedValue]:
    return [
        TunedValue(num_params=n, ratio=r, value=value)
        for (n, r), value in zip(places, values, strict=True)
    ]


def on(law: Law, places: Places) -> list[TunedValue]:
    return tuned(places, [law(n / UNIT, r) for n, r in places])


def curve_of(law: ScalingLaw) -> PowerCurve:
    assert law.curve is not None
    return law.curve


def interval(prediction: Prediction) -> tuple[float, float]:
    assert prediction.low is not None
    assert prediction.high is not None
    return prediction.low, prediction.high


def outer(prediction: Prediction) -> tuple[float, float]:
    assert prediction.outer_low is not None
    assert prediction.outer_high is not None
    return prediction.outer_low, prediction.outer_high


def falling(n: float, r: float) -> float:
    return 0.008 * n**-0.4 * r**-0.15


def levelling(n: float, r: float) -> float:
    return 0.006 * n**-1.0 * r**-0.6 + 0.002
