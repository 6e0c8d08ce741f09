import subprocess
import sys

import pytest

from optbench.published import REPORTED_SIZES, PublishedCell, our_name, read_published


def cell_of(optimizer: str, size: str, ratio: float) -> PublishedCell:
    found = read_published().find(optimizer, size, ratio)
    assert found is not None
    return found


def test_the_file_has_every_published_cell_and_run() -> None:
    results = read_published()
    assert "2509.02046" in results.source
    assert results.licence == "Apache-2.0"
    assert (len(results.cells), len(results.optimizers)) == (150, 11)
    # 1,076 runs, of which 117 are the best configurations themselves
    assert sum(len(cell.trials) for cell in results.cells) == 1_076 - 117
    assert sum(len(cell.near_best) for cell in results.cells) == 914
    assert {cell.size for cell in results.cells} == set(REPORTED_SIZES)


def test_losses_are_carried_over_to_the_last_digit() -> None:
    assert cell_of("adamw", "130m", 16).loss == 3.207158088684082
    assert cell_of("muon", "1.2b", 1).loss == 2.8862736225128174
    assert cell_of("muon", "1.2b", 1).table_loss == 2.8914880752563477


def test_a_cell_has_its_size_and_budget() -> None:
    cell = cell_of("muon", "300m", 8).cell
    assert cell.model.num_nonembedding_params == 301_989_888
    assert cell.num_tokens == 8 * 20 * 301_989_888


def test_trials_change_one_value_and_tell_divergence_from_silence() -> None:
    trials = cell_of("adam_mini", "130m", 1).trials
    by_change = {(t.axis, t.value): t for t in trials}
    assert by_change["beta1", 0.95].loss == 3.5596699714660645
    diverged = by_change["lr", 0.016]
    assert (diverged.loss, diverged.diverged) == (None, True)
    silent = [t for c in read_published().cells for t in c.trials if not t.diverged and not t.loss]
    assert len(silent) == 58
    repeats = [
        (c.optimizer, t.axis, t.value)
        for c in read_published().cells
        for t in c.trials
        if t.value == c.configuration[t.axis]
    ]
    # the source tells 1e-25 from 9.999999999999999e-26
    assert repeats == [("cautious", "eps", 1e-25), ("mars", "eps", 1e-25), ("mars", "eps", 1e-25)]


def test_near_best_configurations_are_whole() -> None:
    cell = cell_of("adam_mini", "130m", 1)
    assert cell.near_best[0] == cell.configuration
    assert cell.near_best[1] == {**cell.configuration, "eps": 1e-20, "clip_norm": 0}


def test_sensitive_values_and_predictions() -> None:
    results = read_published()
    assert results.sensitive["adamw"]["batch_size"] == (128, 256)
    (first, *_) = [p for p in results.predictions if p.optimizer == "adamw"]
    assert (first.cell.label, first.configuration["lr"]) == ("1.2b 1x", 0.00290361523752658)
    assert {p.optimizer for p in results.predictions} == {"adamw", "nadamw", "muon", "soap"}


@pytest.mark.parametrize(
    ("optimizer", "source", "ours"),
    [
        ("adamw", "learning_rate", "lr"),
        ("muon", "muon_to_adam_lr", "aux_lr_ratio"),
        ("sophia", "gamma", "rho"),
        ("mars", "gamma", "gamma"),
        ("soap", "block_size", "block_size"),
    ],
)
def test_names_are_this_projects(optimizer: str, source: str, ours: str) -> None:
    assert our_name(optimizer, source) == ours


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys; from optbench.published import read_published; read_published(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
