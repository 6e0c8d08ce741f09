"""Numbers as short text with their units: the same on the terminal and in the report."""

from __future__ import annotations

import math

from optbench.config import UserError
from optbench.space import Configuration, Value

_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_NAMES = {"T": "trillion", "B": "billion", "M": "million", "k": "thousand"}
_FAR = 1000.0  # the end of a ratio's interval beyond which its digits say nothing
_LEAST_BARE = 1e5  # a count written out; less is a number that lacks its unit


def format_count(number: float) -> str:
    """Three significant digits with a suffix: ``655k``, ``1.31M``, ``20B``."""
    for scale, suffix in _SCALES:
        # 999,600 rounds to 1.00M, not to 1000k
        if abs(number) >= scale * 0.9995:
            return f"{_three_digits(number / scale)}{suffix}"
    return _three_digits(number)


def _three_digits(number: float) -> str:
    if number == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(number)) + 1e-9))
    text = f"{number:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def parse_count(text: str, *, likely: str) -> float:
    """The number that ``760M``, ``1.2B``, ``0.5T``, ``33k``, ``1e9`` or ``760000000`` stands for.

    Args:
        text: as typed; commas and underscores between digits are allowed.
        likely: the unit to propose where there is none, such as ``M``.

    Raises:
        UserError: no count, one that is not positive and finite, or a small one without a unit.
    """
    units = {name.lower(): scale for scale, name in _SCALES}
    bare = text.strip().replace(",", "").replace("_", "")
    scale = units.get(bare[-1:].lower())
    try:
        number = float(bare[:-1] if scale else bare)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise UserError(
            f"'{text}' is no count. Write a positive number with its unit k, M, B or T, such as "
            f"760M or 1.2B."
        )
    if scale is None and number < _LEAST_BARE:
        raise UserError(
            f"'{text}' has no unit. Did you mean {number:g}{likely} ({number:g} {_NAMES[likely]})?"
        )
    return number * (scale or 1.0)


def format_seconds(seconds: float) -> str:
    """Such as ``45 s``, ``7 min 05 s``, ``3 h 20 min``, ``2 d 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def format_p(p_value: float) -> str:
    """``p = 0.03``, and ``p < 0.001`` below that."""
    return "p < 0.001" if p_value < 1e-3 else f"p = {p_value:.2g}"


def format_value(value: Value) -> str:
    """A hyperparameter's value, without the digits of binary fractions."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def format_configuration(configuration: Configuration) -> str:
    """``lr=0.016, beta2=0.98``."""
    return ", ".join(f"{name}={format_value(value)}" for name, value in configuration.items())


def format_signed(number: float, decimals: int) -> str:
    """With its sign, and a minus as wide as the plus."""
    return f"{number:+.{decimals}f}".replace("-", "−")


def format_times(value: float, bound: str = "") -> str:
    """A ratio such as ``1.42×``; a bound as ``> 2.00×``."""
    return f"{bound} {value:.2f}×".lstrip()


def format_ends(low: float | None, high: float | None) -> str:
    """The interval of a ratio: ``[1.33, 1.52]``, or nothing where it is not known.

    Ends that nothing measured bounds are open, ``(0`` and ``∞)``; of those so far out that their
    digits say nothing only so much is written: ``(< 0.01`` and ``> 1000)``.
    """
    if low is None or high is None:
        return ""
    least = f"[{low:.2f}" if round(low, 2) > 0 else "(< 0.01"
    start = least if low > 0 else "(0"
    if math.isinf(high):
        return f"{start}, ∞)"
    return f"{start}, {high:.2f}]" if high < _FAR else f"{start}, > {_FAR:.0f})"


def format_signed_ends(low: float | None, high: float | None, decimals: int) -> str:
    """The interval of a difference or a slope: ``[−0.310, +0.050]``; an end without bound is ∞."""
    if low is None or high is None:
        return ""
    ends = (
        format_signed(end, decimals) if math.isfinite(end) else ("−∞" if end < 0 else "∞")
        for end in (low, high)
    )
    return f"[{', '.join(ends)}]"


def format_range(low: Value | None, high: Value | None) -> str:
    """The interval of a hyperparameter: ``[0.00395, 0.0192]``, ``[128, 1024]``."""
    if low is None or high is None:
        return ""
    return f"[{', '.join(map(_range_end, (low, high)))}]"


def _range_end(end: Value) -> str:
    """Three significant digits of a float, all of a whole number."""
    if not isinstance(end, float):
        return str(end)
    return f"{end:.3g}" if math.isfinite(end) else ("−∞" if end < 0 else "∞")
