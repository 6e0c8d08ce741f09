"""Recommendations on the terminal: optimizers, then their hyperparameters, then the fine print."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from optbench.recommend.differences import OptimizerDifference, compare
from optbench.recommend.hyperparameter_transfer import Transferred
from optbench.recommend.recommendation import OptimizerRecommendation, Recommendation
from optbench.recommend.speedup_transfer import Interval
from optbench.recommend.target import ExtrapolationFactors
from optbench.recommend.tuned_cells import NEGLIGIBLE_EXTRAPOLATION
from optbench.report.wording import remark_text
from optbench.space import Value
from optbench.units import (
    format_count,
    format_ends,
    format_range,
    format_signed,
    format_signed_ends,
    format_value,
)

WIDTH = 100


def print_recommendation(
    found: Recommendation, published: Recommendation | str | None, console: Console
) -> None:
    """The fastest first; with a comparison, what differs from the published recommendation.

    Args:
        found: to be shown.
        published: to compare with; a text is the reason why there is none.
        console: to print on, 100 columns at most.
    """
    console.width = min(console.width, WIDTH)
    place = found.place
    console.print(
        f"{format_count(place.params)} non-embedding parameters, {format_count(place.tokens)} "
        f"tokens: {place.ratio:.3g}x Chinchilla. From {found.source}: {found.flag}.",
        highlight=False,
    )
    console.print(_optimizers(found))
    for one in found.optimizers:
        console.print()
        console.print(_hyperparameters(one))
        for remark in one.remarks:
            console.print(remark, highlight=False)
    console.print()
    for sentence in (*map(remark_text, found.remarks), *_explanations()):
        console.print(sentence, highlight=False)
    if isinstance(published, str):
        console.print(f"No comparison with the published results: {published}", highlight=False)
    elif published is not None:
        console.print(_differences(compare(found, published)))


def _explanations() -> tuple[str, ...]:
    return (
        "Intervals are 95 %. Memory: optimizer state of the hidden matrices; embedding, head and "
        "norm weights come on top.",
        "Rules: 'tuned', the winner of this very cell; 'scaling fit', learning rate and batch size "
        "over N and r with exponents that all optimizers share; 'mode' across cells, the value "
        "that won most of them; 'nearest cell', its winner; 'set here' in place of the source's. "
        "Extrapolated 2x in size: twice the largest tuned model, or half the smallest. See "
        "docs/recommend.md for how good they are.",
    )


def _optimizers(found: Recommendation) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("optimizer", no_wrap=True)
    table.add_column("speed-up [95 %]", no_wrap=True, justify="right")
    table.add_column(f"loss − {found.baseline} [95 %]", no_wrap=True, justify="right")
    table.add_column("optimizer memory", no_wrap=True, justify="right")
    table.add_column("extrapolated", no_wrap=True)
    for one in found.optimizers:
        table.add_row(
            one.optimizer,
            _interval(one.speedup, "{:.2f}".format, format_ends),
            _interval(one.loss_difference, _signed, _signed_ends),
            "–" if one.state_bytes is None else f"{one.state_bytes / 1e9:.3g} GB",
            _factors(one.extrapolation),
        )
    return table


def _factors(found: ExtrapolationFactors) -> str:
    named = ((found.size, "size"), (found.ratio, "ratio"))
    far = [f"{factor:.3g}x {name}" for factor, name in named if factor > NEGLIGIBLE_EXTRAPOLATION]
    return ", ".join(far) or "no"


def _interval(
    found: Interval | None,
    value: Callable[[float], str],
    ends: Callable[[float | None, float | None], str],
) -> str:
    if found is None:
        return "–"
    known = "" if found.low == found.high else ends(found.low, found.high)
    return f"{value(found.value)} {known}".rstrip()


def _signed(nats: float) -> str:
    return format_signed(nats, 4)


def _signed_ends(low: float | None, high: float | None) -> str:
    return format_signed_ends(low, high, 4)


def _hyperparameters(one: OptimizerRecommendation) -> Table:
    title = f"{one.optimizer}: {one.flag}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("hyperparameter", no_wrap=True)
    table.add_column("value", no_wrap=True, justify="right")
    table.add_column("range", no_wrap=True)
    table.add_column("rule", no_wrap=True)
    table.add_column("cells", no_wrap=True, justify="right")
    table.add_column("extrapolated", no_wrap=True)
    for found in one.hyperparameters:
        if not _is_untouched_word(found):
            cells = format_value(found.value), _range(found), found.rule, *_from(found)
            table.add_row(_name(found.axis, one), *cells)
    plan = one.plan
    table.add_row("= batch in tokens", format_count(plan.batch_tokens), _batch_range(one), "", "")
    table.add_row("= steps", str(plan.num_steps), "", "", "")
    table.add_row(
        "= warm-up", f"{100 * plan.warmup_share:.3g}%", f"{plan.warmup_steps} steps", "", ""
    )
    table.add_row(
        f"= {plan.decay_shape} decay", f"{plan.decay_steps / plan.num_steps:.0%}", "", "", ""
    )
    if plan.clip_norm and plan.clip_scope != "all":
        table.add_row("= clipped", plan.clip_scope, "", "", "")
    return table


def _name(axis: str, one: OptimizerRecommendation) -> str:
    return f"{axis} (seq. {one.plan.seq_len})" if axis == "batch_size" else axis


def _is_untouched_word(found: Transferred) -> bool:
    """Options that make a method the source's variant of it; the other formats name them."""
    return found.num_cells == 0 and isinstance(found.value, (str, bool))


def _range(found: Transferred) -> str:
    if found.axis == "clip_norm" and found.near_best:
        return ", ".join("off" if value == 0 else _three(value) for value in found.near_best)
    return format_range(found.low, found.high)


def _three(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _from(found: Transferred) -> tuple[str, str]:
    if found.rule in ("tuned", "set here"):
        return "", ""
    far = ExtrapolationFactors(size=found.size_extrapolation, ratio=found.ratio_extrapolation)
    cells = "" if found.rule == "nearest cell" else str(found.num_cells)
    return cells, _factors(far)


def _batch_range(one: OptimizerRecommendation) -> str:
    batch = next((h for h in one.hyperparameters if h.axis == "batch_size"), None)
    if batch is None or batch.low is None or batch.high is None:
        return ""
    ends = [format_count(float(end) * one.plan.seq_len) for end in (batch.low, batch.high)]
    return f"[{', '.join(ends)}]"


def _differences(found: tuple[OptimizerDifference, ...]) -> Table:
    title = "this study against the published results"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("optimizer", no_wrap=True)
    table.add_column("what", no_wrap=True)
    for name in ("own", "published", "own / published"):
        table.add_column(name, no_wrap=True, justify="right")
    for one in found:
        if one.speedup_factor is not None:
            overlap = {None: "", True: "intervals overlap", False: "intervals apart"}
            agreement = overlap[one.intervals_overlap]
            table.add_row(one.optimizer, "speed-up", "", agreement, f"{one.speedup_factor:.3g}")
        for value in one.values:
            factor = "–" if value.factor is None else f"{value.factor:.3g}"
            ends = format_value(value.own), format_value(value.published)
            table.add_row(one.optimizer, value.axis, *ends, factor)
    return table
