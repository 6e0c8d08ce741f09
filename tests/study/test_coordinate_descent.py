from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.space import Axis, Configuration, SearchSpace, choices, complement, geometric
from optbench.store.journal_entries import EdgeEntry, RejectionEntry
from optbench.study.coordinate_descent import (
    CoordinateDescent,
    Evaluation,
    Move,
    count_first_round,
    key,
    with_candidate,
)
from tests.study.landscapes import (
    SPACE,
    START,
    Landscape,
    better_neighbours,
    bowl,
    diverging,
    flat,
    log_distance,
    noisy,
    run,
    untried_neighbours,
    valley,
)

OPTIMUM: Configuration = {"lr": 0.008, "beta": 0.98, "batch": 16, "shape": "linear"}
TAU = 0.003


def descent_over(space: SearchSpace = SPACE, start: Configuration = START, **options: Any) -> Any:
    return CoordinateDescent(space, start, **{"tie_threshold": TAU, **options})


def table(seed: int, finite_share: float = 1.0) -> Landscape:
    """Independent random losses, some of them diverged."""

    def loss(c: Configuration) -> float:
        rng = random.Random(f"{seed} {key(c)}")
        return rng.uniform(3, 4) if rng.random() < finite_share else math.nan

    return loss


LANDSCAPES = {
    "bowl": bowl(OPTIMUM),
    "bowl far away": bowl({"lr": 0.128, "beta": 0.6, "batch": 2, "shape": "linear"}),
    "valley": valley,
    "flat": flat,
    "noise": noisy(bowl(OPTIMUM), 0.01, seed=1),
    "only noise": noisy(flat, 0.01, seed=2),
    "cliff": diverging(bowl({**OPTIMUM, "lr": 0.016}), above_lr=0.01),
    "cliff at the start": diverging(bowl(OPTIMUM), above_lr=0.0015),
}


@pytest.mark.parametrize("name", LANDSCAPES)
def test_a_descent_ends_with_a_certificate_that_holds(name: str) -> None:
    descent = descent_over()
    run(descent, LANDSCAPES[name])
    assert descent.certified
    assert not descent.exhausted
    assert better_neighbours(descent) == []
    assert untried_neighbours(descent) == []
    assert descent.ask() == []


def test_the_optimum_of_a_separable_landscape_is_found() -> None:
    descent = descent_over()
    run(descent, bowl(OPTIMUM))
    assert descent.incumbent == OPTIMUM
    assert descent.incumbent_loss == 3.0


def test_the_whole_path_of_a_small_descent_is_as_computed_by_hand() -> None:
    losses = {(1, 1): 5.0, (2, 1): 4.0, (3, 1): 4.5, (2, 2): 4.2, (2, 3): 3.0}
    losses |= {(1, 3): 2.0, (3, 3): 3.5, (1, 2): 2.5}
    descent = descent_over(
        SearchSpace(a=choices(1, 2, 3), b=choices(1, 2, 3)), {"a": 1, "b": 1}, tie_threshold=0.0
    )
    assert run(descent, lambda c: losses[int(c["a"]), int(c["b"])]) == [
        [{"a": 1, "b": 1}],
        [{"a": 2, "b": 1}, {"a": 3, "b": 1}],
        [{"a": 2, "b": 2}, {"a": 2, "b": 3}],
        [{"a": 1, "b": 3}, {"a": 3, "b": 3}],
        [{"a": 1, "b": 2}],
    ]
    assert descent.moves == [
        Move("a", 1, 2, 5.0, 4.0),
        Move("b", 1, 3, 4.0, 3.0),
        Move("a", 2, 1, 3.0, 2.0),
    ]
    assert descent.incumbent == {"a": 1, "b": 3}
    assert descent.certified


def evaluations_of(loss: Landscape, **options: Any) -> list[Evaluation]:
    descent = descent_over(**options)
    run(descent, loss)
    return descent.evaluations


@given(
    seed=st.integers(),
    finite_share=st.floats(0.1, 1),
    tau=st.sampled_from([0.0, 0.05, 0.5]),
    parallel=st.integers(1, 9),
    neighbour=st.none() | st.integers(),
)
def test_a_certificate_holds_on_any_table_of_losses(
    seed: int, finite_share: float, tau: float, parallel: int, neighbour: int | None
) -> None:
    known = [] if neighbour is None else evaluations_of(table(neighbour, finite_share))
    descent = descent_over(tie_threshold=tau, parallel=parallel, known=known)
    run(descent, table(seed, finite_share))
    assert descent.certified == math.isfinite(descent.incumbent_loss)
    assert better_neighbours(descent) == []
    # A current best that diverged does not grow the grid, but has tried all of it.
    assert untried_neighbours(descent) == []
    losses = [e.loss for e in descent.evaluations]
    assert descent.incumbent_loss <= losses[0]


@given(seed=st.integers(), name=st.sampled_from(sorted(LANDSCAPES)))
def test_no_configuration_is_asked_for_twice(seed: int, name: str) -> None:
    for loss in (table(seed), LANDSCAPES[name]):
        asked = [key(c) for batch in run(descent_over(), loss) for c in batch]
        assert len(asked) == len(set(asked))


def state(descent: Any) -> tuple[Any, ...]:
    return (
        descent.incumbent,
        descent.moves,
        descent.evaluations,
        descent.rejections,
        descent.edges,
        descent.certified,
        descent.exhausted,
    )


@given(
    seed=st.integers(0, 10**6),
    name=st.sampled_from(sorted(LANDSCAPES)),
    parallel=st.integers(1, 9),
    certificate=st.sampled_from(["line", "bracket"]),
)
def test_the_order_of_the_answers_does_not_matter(
    seed: int, name: str, parallel: int, certificate: str
) -> None:
    options = {"parallel": parallel, "certificate": certificate}
    plain, shuffled = descent_over(**options), descent_over(**options)
    batches = run(plain, LANDSCAPES[name])
    assert run(shuffled, LANDSCAPES[name], shuffle_seed=seed) == batches
    assert state(shuffled) == state(plain)


@settings(max_examples=40)
@given(
    stop_after=st.integers(0, 60),
    seed=st.integers(0, 10**6),
    certificate=st.sampled_from(["line", "bracket"]),
)
def test_a_descent_built_anew_goes_on_where_the_first_one_stopped(
    stop_after: int, seed: int, certificate: str
) -> None:
    loss = table(seed)
    options = {"certificate": certificate, "known": evaluations_of(table(seed + 1))}
    first, told = descent_over(**options), {}
    while len(told) < stop_after and (pending := first.ask()):
        told[key(pending[0])] = loss(pending[0])
        first.tell(pending[0], loss(pending[0]))
    wanted = first.ask()

    again = descent_over(**options)
    while pending := again.ask():
        new = [c for c in pending if key(c) not in told]
        if new:
            break
        for configuration in pending:
            again.tell(configuration, told[key(configuration)])
    for configuration in pending:
        if key(configuration) in told:
            again.tell(configuration, told[key(configuration)])
    assert again.ask() == wanted

    whole = descent_over(**options)
    run(whole, loss)
    run(again, loss)
    assert state(again) == state(whole)


@pytest.mark.parametrize("name", LANDSCAPES)
@pytest.mark.parametrize("parallel", [1, 2, 8])
def test_no_batch_is_larger_than_allowed(name: str, parallel: int) -> None:
    batches = run(descent_over(parallel=parallel), LANDSCAPES[name])
    assert max(map(len, batches)) <= parallel


def test_a_move_ends_at_the_best_of_its_line_however_little_that_adds() -> None:
    losses = {1: 3.0, 2: 2.9, 4: 2.899, 8: 2.95}
    descent = descent_over(SearchSpace(a=geometric(1, 2, 4, 8, low=1, high=8)), {"a": 1})
    run(descent, lambda c: losses[int(c["a"])])
    assert descent.moves == [Move("a", 1, 4, 3.0, 2.899)]


@given(seed=st.integers(), name=st.sampled_from(["table", *sorted(LANDSCAPES)]))
def test_the_moves_lead_from_the_start_to_the_incumbent_by_steps_beyond_the_threshold(
    seed: int, name: str
) -> None:
    descent = descent_over()
    run(descent, table(seed) if name == "table" else LANDSCAPES[name])
    at = dict(START)
    for move in descent.moves:
        assert at[move.axis] == move.before != move.after
        assert move.loss_after < move.loss_before - TAU
        at[move.axis] = move.after
    assert at == descent.incumbent


def test_what_will_hardly_improve_is_asked_for_in_full_batches() -> None:
    space = SearchSpace(a=geometric(1, 2, 4, 8, 16, 32, 64, low=1, high=64))
    descent = descent_over(space, {"a": 8}, parallel=3)
    batches = run(descent, lambda c: log_distance(c["a"], 8) ** 2)
    assert [len(batch) for batch in batches] == [1, 1, 1, 3, 1]


def steep_lr(c: Configuration) -> float:
    """Only the learning rate matters, and matters much: the best is three doublings away."""
    return 3.0 + 0.2 * log_distance(c["lr"], 0.016) ** 2


def runs_until(loss: Landscape, goal: float, **options: Any) -> int:
    asked = [c for batch in run(descent_over(**options), loss) for c in batch]
    return 1 + next(i for i, c in enumerate(asked) if loss(c) <= goal)


def test_a_direction_that_proved_good_is_followed_first() -> None:
    assert runs_until(steep_lr, 3.0, parallel=1) <= 6


def test_knowing_a_neighbouring_cell_leads_to_the_optimum_sooner() -> None:
    def neighbour(c: Configuration) -> float:
        return 0.5 + bowl({**OPTIMUM, "lr": 0.016})(c)

    known = evaluations_of(neighbour)
    target = bowl(OPTIMUM)
    assert runs_until(target, 3.0, known=known) < runs_until(target, 3.0)


@settings(max_examples=40)
@given(seed=st.integers(), name=st.sampled_from(["flat", "only noise", "bowl"]))
def test_a_neighbouring_cell_changes_the_order_and_not_what_the_certificate_needs(
    seed: int, name: str
) -> None:
    def at_optimum(c: Configuration) -> float:
        return 1.0 if c == START else LANDSCAPES[name](c)

    plain = evaluations_of(at_optimum)
    told = evaluations_of(at_optimum, known=evaluations_of(table(seed)))
    assert {key(e.configuration) for e in plain} == {key(e.configuration) for e in told}


def test_of_a_neighbouring_cell_only_what_has_all_axes_is_used() -> None:
    full = [Evaluation({**START, "lr": lr, "eps": 1e-8}, 5 - lr) for lr in (0.002, 0.004, 0.008)]
    partial = [Evaluation({"lr": lr}, lr) for lr in (0.001, 0.002, 0.004)]
    assert run(descent_over(known=[*full, *partial]), flat) == run(descent_over(known=full), flat)
    assert run(descent_over(known=partial), flat) == run(descent_over(), flat)


def test_a_diverged_run_of_a_neighbouring_cell_may_be_not_a_number() -> None:
    known = [Evaluation({**START, "shape": "linear"}, math.nan), Evaluation(START, 3.0)]
    descent = descent_over(known=known)
    run(descent, flat)
    assert descent.certified


def bracketed(descent: Any, name: str) -> bool:
    """Whether both sides of the current best were tried to an end or to what is clearly worse."""
    known = {key(e.configuration): e.loss for e in descent.evaluations}
    line, limit = descent.line(name), descent.incumbent_loss + descent.tie_threshold
    here = line.index(descent.incumbent)
    for side in (line[here + 1 :], line[:here][::-1]):
        for candidate in side:
            if key(candidate) not in known:
                return False
            if known[key(candidate)] > limit:
                break
    return True


@given(seed=st.integers(), finite_share=st.floats(0.1, 1), tau=st.sampled_from([0.0, 0.05, 0.5]))
def test_a_bracket_holds_on_any_table_of_losses(seed: int, finite_share: float, tau: float) -> None:
    descent = descent_over(tie_threshold=tau, certificate="bracket")
    run(descent, table(seed, finite_share))
    assert descent.certified == math.isfinite(descent.incumbent_loss)
    assert better_neighbours(descent) == []
    assert all(bracketed(descent, name) for name in SPACE if name != "shape")
    tried = {key(e.configuration) for e in descent.evaluations}
    assert {key(c) for c in descent.line("shape")} <= tried


def test_a_bracket_leaves_out_what_lies_behind_a_clear_rise() -> None:
    space, start = SearchSpace(a=geometric(1, 2, 4, 8, 16, low=1, high=16)), {"a": 2}
    line, bracket = (
        evaluations_of(lambda c: abs(float(c["a"]) - 2), space=space, start=start, certificate=c)
        for c in ("line", "bracket")
    )
    assert sorted(e.configuration["a"] for e in line) == [1, 2, 4, 8, 16]
    assert sorted(e.configuration["a"] for e in bracket) == [1, 2, 4]


def test_a_bracket_looks_behind_a_tie() -> None:
    space, start = SearchSpace(a=geometric(1, 2, 4, 8, low=1, high=8)), {"a": 1}
    losses = {1: 3.0, 2: 3.001, 4: 2.999, 8: 2.5}
    descent = descent_over(space, start, certificate="bracket")
    run(descent, lambda c: losses[int(c["a"])])
    assert descent.incumbent == {"a": 8}


def test_a_bracket_looks_behind_what_cannot_be_run() -> None:
    space, start = SearchSpace(a=geometric(1, 2, 4, low=1, high=4)), {"a": 1}
    descent = descent_over(
        space, start, certificate="bracket", invalid_reason=lambda c: "odd" if c["a"] == 2 else None
    )
    run(descent, lambda c: -float(c["a"]))
    assert descent.incumbent == {"a": 4}


def test_asking_again_returns_what_is_still_missing() -> None:
    descent = descent_over(SearchSpace(a=choices(1, 2, 3)), {"a": 1})
    assert descent.ask() == [{"a": 1}] == descent.ask()
    descent.tell({"a": 1}, 3.0)
    first, second = descent.ask()
    descent.tell(second, 4.0)
    assert descent.ask() == [first] == descent.ask()


def test_telling_what_was_not_asked_for_is_refused() -> None:
    descent = descent_over()
    with pytest.raises(KeyError, match="was not asked for"):
        descent.tell(START, 3.0)


def test_the_loss_of_the_incumbent_is_infinite_before_it_is_known() -> None:
    descent = descent_over()
    assert descent.incumbent == START
    assert descent.incumbent_loss == math.inf
    assert descent.evaluations == []
    assert not descent.certified


def test_a_start_at_the_optimum_costs_one_round() -> None:
    start = {"lr": 0.002, "beta": 0.95, "batch": 16, "shape": "cosine"}
    descent = descent_over(start=start)
    batches = run(descent, bowl(start))
    assert sum(map(len, batches)) == count_first_round(SPACE, start) == 1 + 3 + 2 + 2 + 1
    assert batches[0] == [start]
    assert descent.moves == []
    assert descent.edges == []
    assert descent.certified


def test_a_start_between_the_candidates_counts_as_one_of_them() -> None:
    start = {**START, "lr": 0.003, "shape": "square"}
    assert count_first_round(SPACE, start) == 1 + 4 + 2 + 2 + 2
    descent = descent_over(start=start)
    run(descent, bowl(start))
    assert len(descent.evaluations) == count_first_round(SPACE, start)
    assert descent.incumbent == start
    assert [c["lr"] for c in descent.line("lr")] == [0.001, 0.002, 0.003, 0.004, 0.008]
    assert [c["shape"] for c in descent.line("shape")] == ["cosine", "linear", "square"]


def test_a_candidate_is_added_in_its_place() -> None:
    assert with_candidate(geometric(1, 4), 2) == geometric(1, 2, 4)
    assert with_candidate(complement(0.9), 0.8) == complement(0.8, 0.9)
    assert with_candidate(choices("b"), "a") == choices("b", "a")
    assert with_candidate(geometric(1, 4), 4) is not None
    with pytest.raises(ValueError, match=r"Candidates must lie in \[1, 8\], but got \[2, 16\]"):
        with_candidate(geometric(2, low=1, high=8), 16)


def test_an_axis_grows_while_the_best_is_at_its_end() -> None:
    descent = descent_over(SearchSpace(lr=SPACE["lr"]), {"lr": 0.002})
    batches = run(descent, lambda c: abs(math.log2(float(c["lr"]) / 0.064)))
    asked = [c["lr"] for batch in batches for c in batch]
    assert sorted(asked) == [0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128]
    assert descent.incumbent == {"lr": 0.064}
    assert descent.edges == []
    assert descent.certified


def test_an_axis_grows_past_an_end_on_which_the_descent_started() -> None:
    descent = descent_over(SearchSpace(lr=SPACE["lr"]), {"lr": 0.001})
    batches = run(descent, lambda c: float(c["lr"]) + 1)
    asked = sorted(c["lr"] for batch in batches for c in batch)
    assert asked == [0.0005, 0.001, 0.002, 0.004, 0.008]


def test_an_axis_does_not_grow_past_an_end_that_was_left_before_it_was_tried() -> None:
    descent = descent_over(SearchSpace(lr=SPACE["lr"]), {"lr": 0.001})
    run(descent, lambda c: abs(math.log2(float(c["lr"]) / 0.004)))
    assert [c["lr"] for c in descent.line("lr")] == [0.001, 0.002, 0.004, 0.008]
    assert len(descent.evaluations) == 4


def test_what_cannot_be_run_past_one_end_does_not_hide_the_other_end() -> None:
    descent = descent_over(
        SearchSpace(lr=geometric(0.004)),
        {"lr": 0.004},
        invalid_reason=lambda c: "too large" if float(c["lr"]) > 0.004 else None,
    )
    run(descent, lambda c: abs(math.log2(float(c["lr"]) / 0.002)))
    assert descent.incumbent == {"lr": 0.002}
    assert descent.rejections == [RejectionEntry({"lr": 0.008}, "too large")]
    assert descent.certified


def test_growth_stops_at_the_bounds_and_is_reported() -> None:
    space = SearchSpace(
        lr=geometric(0.1, 0.2, low=0.1, high=0.4),
        beta=complement(0.9, 0.95, low=0.8),
        shape=choices("a", "b"),
    )
    descent = descent_over(space, {"lr": 0.1, "beta": 0.95, "shape": "a"})
    run(descent, lambda c: float(c["beta"]) - float(c["lr"]) - (c["shape"] == "b"))
    assert descent.incumbent == {"lr": 0.4, "beta": 0.8, "shape": "b"}
    note = "at the end of the candidates, which cannot be extended further"
    assert descent.edges == [EdgeEntry("lr", 0.4, note), EdgeEntry("beta", 0.8, note)]
    assert descent.certified


def test_a_single_candidate_that_cannot_grow_is_no_edge() -> None:
    descent = descent_over(SearchSpace(lr=geometric(0.1, low=0.1, high=0.1)), {"lr": 0.1})
    run(descent, flat)
    assert descent.edges == []
    assert len(descent.evaluations) == 1


def test_ties_do_not_move_the_incumbent() -> None:
    descent = descent_over(tie_threshold=0.1)
    run(descent, lambda c: 3.0 if c == START else 2.9000001)
    assert descent.moves == []
    assert descent.incumbent == START
    run(moving := descent_over(tie_threshold=0.1), lambda c: 3.0 if c == START else 2.8999999)
    assert len(moving.moves) == 1


def test_with_no_threshold_an_equal_loss_does_not_move() -> None:
    descent = descent_over(tie_threshold=0.0)
    run(descent, flat)
    assert descent.moves == []


def test_of_equally_good_candidates_the_first_is_taken() -> None:
    descent = descent_over(SearchSpace(a=choices(1, 2, 3)), {"a": 2})
    run(descent, lambda c: 3.0 if c["a"] == 2 else 1.0)
    assert descent.incumbent == {"a": 1}


def test_invalid_candidates_are_rejected_with_their_reason_and_never_asked_for() -> None:
    def reason(c: Configuration) -> str | None:
        return "too large" if float(c["lr"]) * int(c["batch"]) > 0.13 else None

    descent = descent_over(invalid_reason=reason)
    asked = [c for batch in run(descent, bowl({**OPTIMUM, "batch": 64})) for c in batch]
    assert all(reason(c) is None for c in asked)
    rejected = [r.configuration for r in descent.rejections]
    assert RejectionEntry({**START, "lr": 0.008, "batch": 32}, "too large") in [
        RejectionEntry({**r.configuration, "beta": 0.95, "shape": "cosine"}, r.reason)
        for r in descent.rejections
    ]
    assert all(reason(c) is not None for c in rejected)
    assert len({key(c) for c in rejected}) == len(rejected)
    assert descent.certified
    assert untried_neighbours(descent) == []


def test_growing_into_what_is_invalid_ends_the_growth() -> None:
    descent = descent_over(
        SearchSpace(lr=SPACE["lr"]),
        {"lr": 0.002},
        invalid_reason=lambda c: "too large" if float(c["lr"]) > 0.02 else None,
    )
    run(descent, lambda c: -float(c["lr"]))
    assert descent.incumbent == {"lr": 0.016}
    assert descent.rejections == [RejectionEntry({"lr": 0.032}, "too large")]
    assert descent.certified


@pytest.mark.parametrize("max_runs", range(1, 30))
@pytest.mark.parametrize("name", LANDSCAPES)
def test_no_more_than_the_allowed_runs_are_asked_for(name: str, max_runs: int) -> None:
    free, capped = descent_over(), descent_over(max_runs=max_runs)
    everything = [c for batch in run(free, LANDSCAPES[name]) for c in batch]
    asked = [c for batch in run(capped, LANDSCAPES[name]) for c in batch]
    # The cap cuts the sequence of runs short; it does not choose others.
    assert asked == everything[:max_runs]
    assert capped.exhausted == (len(everything) > max_runs)
    assert capped.certified == (not capped.exhausted)
    finite = [e.loss for e in capped.evaluations if math.isfinite(e.loss)]
    if finite:
        assert capped.incumbent_loss <= min(finite) + TAU


def test_an_end_that_the_last_run_did_not_reach_past_is_reported() -> None:
    def last_lr(max_runs: int | None) -> tuple[object, list[EdgeEntry]]:
        descent = descent_over(SearchSpace(lr=SPACE["lr"]), {"lr": 0.002}, max_runs=max_runs)
        run(descent, lambda c: -float(c["lr"]))
        return descent.incumbent["lr"], descent.edges

    note = "at the end of the candidates; the runs were used up before they could be extended"
    assert last_lr(5) == (0.016, [EdgeEntry("lr", 0.016, note)])
    lr, (edge,) = last_lr(None)
    assert lr == edge.value == pytest.approx(0.512)
    assert edge.note == "at the end of the candidates, which cannot be extended further"


def test_a_diverged_start_gives_way_to_the_first_finite_neighbour() -> None:
    descent = descent_over(start={**START, "lr": 0.008})
    run(descent, diverging(bowl(OPTIMUM), above_lr=0.005))
    assert descent.moves[0] == Move("lr", 0.008, 0.004, math.inf, descent.moves[0].loss_after)
    assert descent.incumbent == {**OPTIMUM, "lr": 0.004}
    assert descent.certified


def test_a_diverged_start_is_left_even_if_only_the_last_axis_helps() -> None:
    descent = descent_over()
    run(descent, lambda c: bowl(OPTIMUM)(c) if c["shape"] == "linear" else math.inf)
    assert descent.incumbent == OPTIMUM
    assert descent.certified


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_search_in_which_everything_diverges_ends_without_a_certificate(loss: float) -> None:
    descent = descent_over(start={**START, "lr": 0.008})
    batches = run(descent, lambda _: loss)
    assert sum(map(len, batches)) == count_first_round(SPACE, START)
    assert descent.incumbent_loss == math.inf
    assert not descent.certified
    assert descent.moves == []
    note = "at the end of the candidates, which were not extended because the run diverged"
    assert descent.edges == [EdgeEntry("lr", 0.008, note)]


def test_what_diverged_is_never_better() -> None:
    descent = descent_over()
    run(descent, lambda c: -math.inf if c["shape"] == "linear" else bowl(OPTIMUM)(c))
    assert descent.incumbent == {**OPTIMUM, "shape": "cosine"}


def test_an_empty_space_is_one_run() -> None:
    descent = descent_over(SearchSpace(), {})
    assert run(descent, flat) == [[{}]]
    assert descent.certified


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: descent_over(start={"lr": 0.002}),
            "The start point lacks a value for beta, batch, shape.",
        ),
        (
            lambda: descent_over(start={**START, "eps": 1e-8, "lrr": 1}),
            "The start point names axes that are not searched: eps, lrr.",
        ),
        (
            lambda: descent_over(invalid_reason=lambda _: "the warm-up is too long."),
            "The start point cannot be run: the warm-up is too long.",
        ),
        (
            lambda: descent_over(tie_threshold=-0.1),
            "The noise threshold must be at least 0, but got -0.1.",
        ),
        (
            lambda: descent_over(parallel=0),
            "`parallel` must be at least 1, but got 0.",
        ),
        (
            lambda: descent_over(tie_threshold=math.nan),
            "The noise threshold must be at least 0, but got nan.",
        ),
        (
            lambda: descent_over(start={**START, "lr": 2.0}),
            "Candidates must lie in [1e-05, 1], but got [0.001, 0.002, 0.004, 0.008, 2.0].",
        ),
    ],
)
def test_an_impossible_start_is_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        build()


def test_the_callers_start_is_not_changed() -> None:
    start = dict(START)
    descent = descent_over(start=start)
    run(descent, bowl(OPTIMUM))
    assert start == START
    incumbent = descent.incumbent
    incumbent["lr"] = 99
    assert descent.incumbent == OPTIMUM


def test_growth_of_one_descent_is_not_seen_by_another() -> None:
    run(descent_over(), LANDSCAPES["bowl far away"])
    assert SPACE["lr"] == Axis((0.001, 0.002, 0.004, 0.008), "geometric", 1e-5, 1.0)
    assert len(descent_over().line("lr")) == 4
