"""How good recommendations are: each published size left out, predicted from the others.

Prints the comparison of rules, the learning rates' errors by optimizer, and the rankings; with
``--out`` it writes all of them as JSON. What is counted how: `optbench.analysis.
recommendation_accuracy` and `speedup_accuracy`. Runs in well under a minute, trains nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from optbench.optimizers import OPTIMIZERS
from optbench.published import PublishedResults, read_published
from optbench.recommend.accuracy import (
    CellOutcome,
    Rule,
    always,
    copied,
    factors_by_axis,
    hold_out_sizes,
    only,
    recommended,
    step_law,
    summarise_regrets,
)
from optbench.recommend.hyperparameter_transfer import TREND_AXES, transfer
from optbench.recommend.speedup_accuracy import (
    coverage,
    hold_out_differences,
    summarise_rankings,
)
from optbench.recommend.tuned_cells import TunedCell, published_tunings
from optbench.space import Configuration
from optbench.statistics.scaling_laws import TunedValue, fit_scaling_law

CAP = 0.1  # nats; what a diverged run counts for where a mean is taken
RUN_DEFAULTS = {"batch_size": 128, "clip_norm": 1.0, "warmup_steps": 2000, "decay_frac": 0.8}


def trends_of(axes: Collection[str]) -> Rule:
    """The recommended rule with trends for other hyperparameters."""

    def rule(cells: Sequence[TunedCell], held: TunedCell) -> Configuration:
        found = transfer(cells, held.optimizer, held.num_params, held.ratio, trend_axes=axes)
        return {h.axis: h.value for h in found}

    return rule


def own_laws(cells: Sequence[TunedCell], held: TunedCell) -> Configuration:
    """Each optimizer's own law of rate and batch, through its winners; the rest as recommended."""
    found = dict(trends_of(())(cells, held))
    for axis in TREND_AXES:
        winners = [
            TunedValue(num_params=c.num_params, ratio=c.ratio, value=c.winner[axis])
            for c in cells
            if c.optimizer == held.optimizer and axis in c.near_best
        ]
        law = fit_scaling_law(winners, resolution=2.0).predict(held.num_params, held.ratio)
        step = round(math.log2(float(law.value) / float(winners[0].value)))
        found[axis] = float(winners[0].value) * 2.0**step
    return found


def candidates() -> dict[str, Rule]:
    """The rules that were compared before one was chosen."""
    return {
        "recommended": recommended,
        "trend of lr alone": trends_of(("lr",)),
        "trends of lr, batch, warm-up": trends_of((*TREND_AXES, "warmup_steps")),
        "trends of lr, batch, decay": trends_of((*TREND_AXES, "weight_decay")),
        "an optimizer's own laws": own_laws,
        "nearest size copied": copied,
    }


def nested(results: PublishedResults) -> tuple[list[CellOutcome], dict[str, str]]:
    """Each size predicted by the rule that was best at the other sizes, of which it saw nothing."""
    outcomes: list[CellOutcome] = []
    chosen: dict[str, str] = {}
    rules = candidates()
    for size in dict.fromkeys(cell.size for cell in results.cells):
        rest = tuple(cell for cell in results.cells if cell.size != size)
        inner = dataclasses.replace(results, cells=rest)
        scores = {name: _mean_regret(hold_out_sizes(inner, rule)) for name, rule in rules.items()}
        chosen[size] = min(scores, key=lambda name: scores[name])
        found = hold_out_sizes(results, rules[chosen[size]])
        outcomes.extend(outcome for outcome in found if outcome.size == size)
    return outcomes, chosen


def _mean_regret(outcomes: Sequence[CellOutcome]) -> float:
    return fmean(min(outcome.regret, CAP) for outcome in outcomes if outcome.has_table)


def two_sizes_up(results: PublishedResults) -> dict[str, Any]:
    """AdamW at 1.2b from 130m and 300m alone, a factor of 4 in N."""
    tuned = published_tunings(results)
    held = next(c for c in tuned if c.size == "1.2b" and c.optimizer == "adamw")
    rest = [c for c in tuned if c.size in ("130m", "300m")]
    predicted = recommended(rest, held)
    return {axis: [predicted[axis], held.winner[axis]] for axis in TREND_AXES}


def range_coverage(results: PublishedResults) -> dict[str, float]:
    """Share of the winners at sizes left out that lie in the recommended range."""
    tuned = published_tunings(results)
    hits: dict[str, list[bool]] = {axis: [] for axis in TREND_AXES}
    for held in tuned:
        rest = [c for c in tuned if c.size != held.size]
        for h in transfer(rest, held.optimizer, held.num_params, held.ratio):
            if h.axis in hits and h.axis in held.near_best and None not in (h.low, h.high):
                hits[h.axis].append(h.low <= held.winner[h.axis] <= h.high)  # type: ignore[operator]
    return {axis: fmean(found) for axis, found in hits.items()}


def defaults() -> Mapping[str, Configuration]:
    """The constructors' defaults with the options of the published variants."""
    return {
        name: {**cls.default_hyperparameters(), **cls.paper, **RUN_DEFAULTS}
        for name, cls in OPTIMIZERS.items()
    }


def measure() -> dict[str, Any]:
    """Everything, as plain data; infinite regrets become "diverges"."""
    results = read_published()
    chosen_outcomes, chosen = nested(results)
    rules = {**candidates(), "constructor's defaults": always(defaults())}
    adamw = {"recommended": recommended, "nearest size copied": copied, "Step Law": step_law}
    by_optimizer = {
        optimizer: {
            name: _summary(hold_out_sizes(results, rule, [optimizer]))
            for name, rule in (("recommended", recommended), ("nearest size copied", copied))
        }
        for optimizer in results.optimizers
    }
    differences = hold_out_differences(results)
    return {
        "rules": {name: _summary(hold_out_sizes(results, rule)) for name, rule in rules.items()},
        "nested": {"chosen": chosen, **_summary(chosen_outcomes)},
        "adamw_lr_and_batch": {
            name: _summary(hold_out_sizes(results, only(TREND_AXES, rule), ["adamw"]))
            for name, rule in adamw.items()
        },
        "by_optimizer": by_optimizer,
        "factors": factors_by_axis(hold_out_sizes(results, recommended)),
        "range_coverage": range_coverage(results),
        "adamw_1.2b_from_130m_and_300m": two_sizes_up(results),
        "rankings": {
            "recommended": dataclasses.asdict(
                summarise_rankings(differences, lambda d: d.predicted)
            ),
            "nearest size copied": dataclasses.asdict(
                summarise_rankings(differences, lambda d: d.copied)
            ),
        },
        "interval_coverage": coverage(differences),
    }


def _summary(outcomes: Sequence[CellOutcome]) -> dict[str, Any]:
    found = dataclasses.asdict(summarise_regrets(outcomes))
    return {name: "diverges" if value == math.inf else value for name, value in found.items()}


def _print(found: Mapping[str, Any]) -> None:
    write = sys.stdout.write
    for title in ("rules", "adamw_lr_and_batch"):
        write(f"{title}\n")
        for name, row in found[title].items():
            write(f"  {name:30} {_row(row)}\n")
    write(f"  {'chosen at the other sizes':30} {_row(found['nested'])}\n")
    write("by optimizer: recommended | nearest size copied\n")
    for optimizer, rows in found["by_optimizer"].items():
        write(f"  {optimizer:12} {' | '.join(map(_row, rows.values()))}\n")
    for key in ("rankings", "interval_coverage", "range_coverage"):
        write(f"{key}: {json.dumps(found[key])}\n")


def _row(row: Mapping[str, Any]) -> str:
    p50, p90 = (x if isinstance(x, str) else f"{x:.4f}" for x in (row["median"], row["p90"]))
    return (
        f"cells {row['cells']:3}  regret {p50} p90 {p90:8}  diverged {row['diverged']:2}  "
        f"lr x{row['lr_factor']:.2f} p90 x{row['lr_factor_p90']:.2f}  values {row['values']} "
        f"(outside {row['outside']}, unpriced {row['unpriced']})"
    )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="a JSON file")
    out: Path | None = parser.parse_args().out
    found = measure()
    _print(found)
    if out is not None:
        out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
