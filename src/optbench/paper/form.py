"""The extrapolation of arXiv 2509.02046 as published: A·N^B·r^C + D without bounds, for comparison.

`scaling_laws` is what this project predicts with. Here the fit is the source's own: unweighted
least squares of h itself over unscaled N, by Levenberg–Marquardt from A = 0, B = C = −1/2 and the
mean, with the first and the last cell left out. A start at A = 0 leaves B and C without a gradient,
and the minimum is often the limit B, C → 0 with |A| and |D| → ∞, so where it stops depends on the
tolerances of the solver.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import leastsq

from optbench.statistics.scaling_laws import TunedValue

START_EXPONENT = -0.5
MIN_CELLS = 6  # four parameters, and two cells left out
_CONVERGED = (1, 2, 3, 4)  # MINPACK's codes


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperForm:
    """h(N, r) = coefficient·N^size_exponent·r^ratio_exponent + offset, N in parameters."""

    coefficient: float
    size_exponent: float
    ratio_exponent: float
    offset: float

    def predict(self, num_params: float, ratio: float) -> float:
        """The hyperparameter; nothing keeps it positive or within the bounds of its axis."""
        power = num_params**self.size_exponent * ratio**self.ratio_exponent
        return float(self.coefficient * power + self.offset)


def fit_paper_form(
    cells: Sequence[TunedValue],
    *,
    max_evaluations: int = 80_000,
    start_exponent: float = START_EXPONENT,
) -> PaperForm:
    """Fit as the source did; cells are put in the order of size, then ratio.

    The offset starts at the mean over all cells but the last. Another ``start_exponent`` than the
    source's shows whether the cells or the start decide where the fit ends.

    Raises:
        ValueError: fewer than six cells, a value that is not a number, or no convergence within
            ``max_evaluations``.
    """
    order = sorted(cells, key=lambda cell: (cell.num_params, cell.ratio))
    if len(order) < MIN_CELLS or any(isinstance(cell.value, (str, bool)) for cell in order):
        raise ValueError(
            f"The published form needs numbers in at least {MIN_CELLS} cells, of which it leaves "
            f"two out, but got {[cell.value for cell in order]}."
        )
    n, r, h = (
        np.array(column, dtype=float)
        for column in zip(*((c.num_params, c.ratio, c.value) for c in order), strict=True)
    )

    def residuals(theta: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c, d = theta
        return (a * n**b * r**c + d - h)[1:-1]

    start = [0.0, start_exponent, start_exponent, float(h[:-1].mean())]
    with np.errstate(over="ignore", invalid="ignore"):
        found, _, _, message, code = leastsq(  # pyright: ignore[reportAssignmentType]
            residuals, start, full_output=True, maxfev=max_evaluations
        )
    if code not in _CONVERGED:
        raise ValueError(
            f"The published form does not converge on {h.tolist()}: {' '.join(message.split())} "
            f"Use fit_scaling_law, whose parameters are bounded."
        )
    return PaperForm(
        coefficient=float(found[0]),
        size_exponent=float(found[1]),
        ratio_exponent=float(found[2]),
        offset=float(found[3]),
    )
