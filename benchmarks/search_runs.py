"""Count the runs that a search needs, for several schemes on several families of losses.

    python benchmarks/search_runs.py                       # synthetic families and nano journals
    python benchmarks/search_runs.py --tables ablations.csv --out rows.json

Two counts: runs until the best loss so far is within the noise threshold of the best that any
scheme has found, and runs until the certificate, for schemes that end with one. A configuration
counts once however often it is asked for. Nothing is trained; the losses are those of
search_landscapes.

Schemes: *paper*, all single changes of the current best, then a step to the best of them, and
    again;
*by axis*, one axis after another in a fixed order, all its candidates, until a round moves nothing;
*line* and *bracket*, the descent of this project with either certificate, up to 4 runs at once;
*line 1*, one run at a time; *line known*, given the evaluations of the neighbouring cell as well;
*random*; *tpe* and *gp*, optuna's samplers, begun at the same start. These three have no end of
their own and stop at --budget distinct configurations. A scheme whose package is missing is left
out, and named.

With --tables it is also counted how often a certificate that looks at a part of a line is wrong: of
all values on all published lines at which *adjacent* (the two next values) or *bracket* would end,
those that another value of the line beats by more than τ.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from search_landscapes import (
    TAU,
    Problem,
    Table,
    journal_problems,
    published_tables,
    synthetic,
    table_problems,
    transfer_problems,
)

from optbench.space import Configuration, SearchSpace, Value
from optbench.study.coordinate_descent import CoordinateDescent, Key, key

SYNTHETIC = ("separable", "coupled", "noisy", "cliff")
JOURNAL = Path(__file__).parents[1] / "results" / "nano" / "journal.jsonl"


@dataclass(frozen=True)
class Outcome:
    """What a scheme asked for, in order, and the loss it is certain of, if it is of any."""

    losses: tuple[float, ...]
    certified: float | None
    rounds: int


@dataclass(frozen=True)
class Row:
    """One scheme on one family; runs that never came count as infinite and print as '-'."""

    family: str
    scheme: str
    problems: int
    near_median: float
    near_worst: float
    near_missed: int
    certified_median: float
    certified_worst: float
    rounds_median: float
    ratio_to_paper: float
    worse_than_paper: int
    better_than_paper: int


@dataclass(frozen=True)
class Misses:
    """Ends of a partial certificate on measured lines, the wrong ones, and the runs both cost."""

    certificate: str
    ends: int
    wrong: int
    runs: int
    runs_of_whole_lines: int


class Counter:
    """A loss that remembers what it was asked for."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self.losses: dict[Key, float] = {}

    def __call__(self, c: Configuration) -> float:
        """The loss, counted once."""
        if key(c) not in self.losses:
            self.losses[key(c)] = self.problem.loss(c)
        return self.losses[key(c)]

    def outcome(self, certified: float | None, rounds: int) -> Outcome:
        """What was asked for so far."""
        return Outcome(tuple(self.losses.values()), certified, rounds)


def neighbours(space: SearchSpace, c: Configuration) -> Iterator[Configuration]:
    for name, axis in space.items():
        for value in axis.values:
            if value != c[name]:
                yield {**c, name: value}


def paper(problem: Problem, _: int) -> Outcome:
    loss, rounds, incumbent = Counter(problem), 1, dict(problem.start)
    while True:
        rounds += 1
        best = min(neighbours(problem.space, incumbent), key=loss)
        if not loss(best) < loss(incumbent) - problem.tie_threshold:
            return loss.outcome(loss(incumbent), rounds)
        incumbent = dict(best)


def by_axis(problem: Problem, _: int) -> Outcome:
    loss, rounds, incumbent, settled = Counter(problem), 1, dict(problem.start), 0
    names = list(problem.space)
    for name in (names[turn % len(names)] for turn in range(10**6)):
        line: list[Configuration] = [{**incumbent, name: v} for v in problem.space[name].values]
        known = len(loss.losses)
        best = min(line, key=loss)
        rounds += len(loss.losses) > known
        settled += 1
        if loss(best) < loss(incumbent) - problem.tie_threshold:
            incumbent, settled = dict(best), 1
        if settled == len(names):
            break
    return loss.outcome(loss(incumbent), rounds)


def descent(certificate: str = "line", parallel: int = 4, known: bool = False) -> Scheme:
    def search(problem: Problem, _: int) -> Outcome:
        loss, rounds = Counter(problem), 0
        search = CoordinateDescent(
            problem.space,
            problem.start,
            problem.tie_threshold,
            parallel=parallel,
            certificate="line" if certificate == "line" else "bracket",
            known=problem.known if known else (),
        )
        while batch := search.ask():
            rounds += 1
            for configuration in batch:
                search.tell(configuration, loss(configuration))
        return loss.outcome(search.incumbent_loss if search.certified else None, rounds)

    return search


def at_random(problem: Problem, budget: int) -> Outcome:
    loss, rng = Counter(problem), random.Random(problem.name)
    loss(problem.start)
    for _ in range(20 * budget):
        if len(loss.losses) < budget:
            loss({name: rng.choice(axis.values) for name, axis in problem.space.items()})
    return loss.outcome(None, budget)


def sampled(sampler: str) -> Scheme:
    """Optuna's sampler over places on ordered axes and categories on the others."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def search(problem: Problem, budget: int) -> Outcome:
        loss = Counter(problem)
        samplers = {"tpe": optuna.samplers.TPESampler, "gp": optuna.samplers.GPSampler}
        study = optuna.create_study(sampler=samplers[sampler](seed=0))
        study.enqueue_trial({n: a.values.index(problem.start[n]) for n, a in problem.space.items()})

        def objective(trial: optuna.Trial) -> float:
            chosen: dict[str, Value] = {}
            for name, axis in problem.space.items():
                last = len(axis.values) - 1
                place = (
                    trial.suggest_categorical(name, list(range(last + 1)))
                    if axis.growth == "fixed"
                    else trial.suggest_int(name, 0, last)
                )
                chosen[name] = axis.values[int(place)]
            # A large loss instead of a failed trial, which a sampler would not learn from.
            return min(loss(chosen), 10.0)

        for _ in range(2 * budget):
            if len(loss.losses) < budget:
                study.optimize(objective, n_trials=1)
        return loss.outcome(None, budget)

    return search


Scheme = Callable[[Problem, int], Outcome]
DESCENTS: dict[str, Callable[[], Scheme]] = {
    "paper": lambda: paper,
    "by axis": lambda: by_axis,
    "line": descent,
    "line 1": lambda: descent(parallel=1),
    "line known": lambda: descent(known=True),
    "bracket": lambda: descent("bracket"),
    "random": lambda: at_random,
    "tpe": lambda: sampled("tpe"),
    "gp": lambda: sampled("gp"),
}


def problems(
    count: int, tables: Sequence[Table], journals: Sequence[Path]
) -> dict[str, list[Problem]]:
    """At most so many problems of each family, drawn evenly from all there are."""
    found = {family: [synthetic(family, seed) for seed in range(count)] for family in SYNTHETIC}
    found["published"] = list(table_problems(tables))
    found["transfer"] = list(transfer_problems(tables))
    found["nano"] = [p for journal in journals for p in journal_problems(journal)]
    thinned = {f: ps[:: -(-len(ps) // count)] for f, ps in found.items() if ps}
    return {family: given[:count] for family, given in thinned.items()}


def runs_until(outcome: Outcome, goal: float) -> float:
    reached = (count for count, loss in enumerate(outcome.losses, start=1) if loss <= goal)
    return float(next(reached, math.inf))


def row_of(
    family: str, scheme: str, given: Sequence[Problem], all_outcomes: dict[str, list[Outcome]]
) -> Row:
    outcomes, reference = all_outcomes[scheme], all_outcomes["paper"]
    best = [min(min(o[i].losses) for o in all_outcomes.values()) for i in range(len(given))]
    near = [
        runs_until(outcome, goal + p.tie_threshold)
        for outcome, goal, p in zip(outcomes, best, given, strict=True)
    ]
    ends = [len(o.losses) if o.certified is not None else math.inf for o in outcomes]
    gains = [
        (r.certified or math.inf) - o.certified
        for o, r in zip(outcomes, reference, strict=True)
        if o.certified is not None
    ]
    taus = [p.tie_threshold for p in given]
    return Row(
        family=family,
        scheme=scheme,
        problems=len(given),
        near_median=statistics.median(near),
        near_worst=max(near),
        near_missed=sum(map(math.isinf, near)),
        certified_median=statistics.median(ends),
        certified_worst=max(ends),
        rounds_median=statistics.median(o.rounds for o in outcomes),
        ratio_to_paper=statistics.mean(
            n / len(r.losses) for n, r in zip(ends, reference, strict=True)
        ),
        worse_than_paper=sum(g < -tau for g, tau in zip(gains, taus, strict=False)),
        better_than_paper=sum(g > tau for g, tau in zip(gains, taus, strict=False)),
    )


def compare(
    families: dict[str, list[Problem]], schemes: dict[str, Scheme], budget: int
) -> Iterator[Row]:
    for family, given in families.items():
        outcomes: dict[str, list[Outcome]] = {}
        for name, scheme in schemes.items():
            if name != "line known" or any(problem.known for problem in given):
                started = time.perf_counter()
                outcomes[name] = [scheme(problem, budget) for problem in given]
                print(f"{family} {name} {time.perf_counter() - started:.0f} s", file=sys.stderr)
        for name in outcomes:
            yield row_of(family, name, given, outcomes)


def looked_at(line: Sequence[float], here: int, certificate: str) -> list[float]:
    """Losses that a certificate at a place of a line has seen."""
    seen: list[float] = []
    for side in (line[here + 1 :], line[:here][::-1]):
        for loss in side:
            seen.append(loss)
            if certificate == "adjacent" or loss > line[here] + TAU:
                break
    return seen


def misses(tables: Sequence[Table], certificate: str) -> Misses:
    """Over all finite places of all published lines of at least three ordered values."""
    ends = wrong = runs = whole = 0
    for table in tables:
        for name, axis in table.space.items():
            line = [table.loss({**table.best, name: value}) for value in axis.values]
            if axis.growth == "fixed" or len(line) < 3:
                continue
            for here, loss in enumerate(line):
                seen = looked_at(line, here, certificate)
                if math.isfinite(loss) and min(seen) >= loss - TAU:
                    ends, runs, whole = ends + 1, runs + len(seen), whole + len(line) - 1
                    wrong += min(line) < loss - TAU
    return Misses(certificate, ends, wrong, runs, whole)


def printed(runs: float) -> str:
    return f"{runs:6.1f}" if math.isfinite(runs) else "     -"


def without_infinity(row: Row) -> dict[str, object]:
    return {k: v if v != math.inf else None for k, v in asdict(row).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=20, help="at most this many of a family")
    parser.add_argument("--budget", type=int, default=60, help="runs of a sampler")
    parser.add_argument("--tables", type=Path, help="the published ablations.csv")
    parser.add_argument("--journal", type=Path, action="append", help="a nano study's journal")
    parser.add_argument("--scheme", action="append", choices=list(DESCENTS))
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    options = parser.parse_args()
    tables = published_tables(options.tables) if options.tables else []
    given = problems(options.problems, tables, options.journal or [JOURNAL])
    schemes: dict[str, Scheme] = {"paper": paper}
    for name in options.scheme or DESCENTS:
        try:
            schemes[name] = DESCENTS[name]()
        except ImportError as error:
            print(f"left out: {name}: {error}")
    print(
        "family      scheme       n   to within tau: median worst missed   to certificate: median "
        " worst  rounds  of paper's  worse better"
    )
    rows: list[Row] = []
    for row in compare(given, schemes, options.budget):
        rows.append(row)
        print(
            f"{row.family:<11} {row.scheme:<11} {row.problems:>2}   {printed(row.near_median):>21} "
            f"{printed(row.near_worst)} {row.near_missed:>5}   "
            f"{printed(row.certified_median):>22} {printed(row.certified_worst)}  "
            f"{printed(row.rounds_median)}  {printed(100 * row.ratio_to_paper)} %  "
            f"{row.worse_than_paper:>8} {row.better_than_paper:>6}",
            flush=True,
        )
    certificates = [misses(tables, name) for name in ("adjacent", "bracket") if tables]
    for m in certificates:
        print(
            f"{m.certificate}: {m.wrong} of {m.ends} ends are wrong; {m.runs} runs instead of "
            f"{m.runs_of_whole_lines}"
        )
    if options.out:
        facts = {
            "budget": options.budget,
            "rows": [without_infinity(row) for row in rows],
            "certificates": [asdict(m) for m in certificates],
        }
        options.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
