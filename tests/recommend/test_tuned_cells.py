from pathlib import Path

from optbench.published import read_published
from optbench.recommend.tuned_cells import published_tunings, study_tunings
from optbench.store.journal import read_journal
from optbench.store.store import RunStore

NANO_ALL = Path(__file__).parents[2] / "results" / "nano_all"


def test_published_cells_without_a_grid_were_not_tuned() -> None:
    results = read_published()
    cells = published_tunings(results)
    assert len(cells) == sum(bool(cell.grid) for cell in results.cells) == 127
    assert {c.optimizer for c in cells if c.size == "1.2b"} == {"adamw"}
    assert all(c.ratio <= 8 for c in cells)


def test_held_hyperparameters_say_nothing_of_their_best_value() -> None:
    cells = {(c.optimizer, c.size, c.ratio): c for c in published_tunings(read_published())}
    retuned = cells["adamw", "300m", 2.0]
    assert set(retuned.near_best) == {"lr", "batch_size", "warmup_steps", "weight_decay"}
    assert retuned.winner["beta1"] == 0.9


def test_epsilons_that_are_the_same_are_one_and_the_method_that_clips_itself_is_not_clipped() -> (
    None
):
    cells = published_tunings(read_published(), {"muon": {"ns_steps": 5}})
    eps = {c.winner["eps"] for c in cells if "eps" in c.winner}
    assert min(float(value) for value in eps) == 1e-20
    muon = [c for c in cells if c.optimizer == "muon"]
    assert {(c.winner["clip_norm"], c.winner["ns_steps"]) for c in muon} == {(1, 5), (2, 5)}
    assert any("clip_norm" in c.near_best for c in muon)
    assert not any("lr_schedule" in c.winner for c in muon)
    mars = [c for c in cells if c.optimizer == "mars"]
    assert {c.winner["clip_norm"] for c in mars} == {0.0}
    assert all("limits the corrected gradient" in c.set_here["clip_norm"] for c in mars)


def test_near_best_values_are_those_of_the_list_and_of_the_table_within_the_tie() -> None:
    cells = {(c.optimizer, c.size, c.ratio): c for c in published_tunings(read_published())}
    cell = cells["adam_mini", "130m", 1.0]
    assert set(cell.near_best["beta2"]) == {0.98, 0.95}  # 3.5452 is 3.2e-3 away, but listed
    assert cell.near_best["lr"] == (0.008,)
    assert set(cell.diverged["lr"]) == {0.016, 0.032}


def test_a_study_gives_its_tunings_and_what_its_runs_held() -> None:
    store = RunStore.read(NANO_ALL)
    cells = study_tunings(read_journal(store.journal), store.records)
    muon = next(c for c in cells if c.optimizer == "muon")
    assert (muon.size, muon.num_params, muon.ratio) == ("d32", 32768.0, 1.0)
    assert set(muon.near_best) == {"lr", "momentum", "aux_lr_ratio"}
    assert muon.winner["lr"] == 0.064
    held = {"batch_size": 16, "clip_norm": 1.0, "warmup_frac": 0.1, "decay_frac": 0.9}
    assert {axis: muon.winner[axis] for axis in held} == held
    assert sum(c.optimizer == "adamw" for c in cells) == 4
