"""Study files: what is refused, all at once and with the remedy; what a candidate becomes."""

import tomllib

import pytest

from optbench.config import ConfigError
from optbench.study.config import smallest_batch
from optbench.study.file import find_study, read_study
from tests.builders import document

MINIMAL = """
name = "tiny"
corpus = "nano"
baseline = "adamw"
[cell]
size = "d32"
ratio = 1.0
[run]
batch_size = 16
[optimizers.adamw]
start = { lr = 0.01 }
space = { lr = [0.005, 0.01, 0.02] }
[optimizers.muon]
space = { lr = [0.008, 0.016], momentum = [0.9, 0.95] }
"""


def problems_of(text: str, *, smoke: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_study(text, smoke=smoke)
    return caught.value.problems


@pytest.mark.parametrize("smoke", [False, True])
def test_the_shipped_study_is_valid(smoke: bool) -> None:
    study = read_study(find_study("nano"), smoke=smoke)
    assert list(study.optimizers) == ["adamw", "nadamw", "lion", "muon"]
    assert study.baseline == "adamw"


def test_every_start_point_of_the_shipped_study_is_a_candidate() -> None:
    for name, search in read_study(find_study("nano")).optimizers.items():
        for axis, candidates in search.space.items():
            assert search.start[axis] in candidates.values, (name, axis)


def test_an_axis_keeps_the_growth_and_the_bounds_that_its_optimizer_declares() -> None:
    study = read_study(MINIMAL)
    assert study.optimizers["adamw"].space["lr"].growth == "geometric"
    assert study.optimizers["muon"].space["momentum"].growth == "complement"


def test_a_start_that_is_not_searched_is_still_used() -> None:
    study = read_study(MINIMAL.replace("{ lr = 0.01 }", "{ lr = 0.01, beta1 = 0.8 }"))
    search = study.optimizers["adamw"]
    config = study.run_config("adamw", study.tuned_cell, search.start, seed=3, fingerprint="f")
    assert config.optimizer.hyperparameters["beta1"] == 0.8
    assert config.seed == 3
    assert config.data.fingerprint == "f"


def test_run_level_axes_become_settings_of_the_run() -> None:
    study = read_study(MINIMAL)
    candidate = {
        "lr": 0.01,
        "batch_size": 8,
        "warmup_frac": 0.25,
        "decay_frac": 0.5,
        "clip_norm": 2,
    }
    config = study.run_config("adamw", study.tuned_cell, candidate, seed=0, fingerprint="")
    steps = study.tuned_cell.num_tokens // (8 * 64)
    assert config.num_steps == steps
    assert config.batch_size == 8
    assert config.clip_norm == 2
    assert config.schedule.warmup_steps == steps // 4
    assert config.schedule.decay_steps == steps // 2
    assert "batch_size" not in config.optimizer.hyperparameters


def test_the_record_holds_every_hyperparameter_also_those_left_at_their_default() -> None:
    study = read_study(MINIMAL)
    config = study.run_config("muon", study.tuned_cell, {"lr": 0.016}, seed=0, fingerprint="")
    assert {"lr", "momentum", "nesterov", "ns_steps", "aux_lr_ratio", "eps"} <= set(
        config.optimizer.hyperparameters
    )


def test_all_problems_are_reported_at_once() -> None:
    text = (
        MINIMAL.replace("[optimizers.muon]", "[optimizers.moun]")
        .replace("batch_size = 16", "batch_size = 16\nwarmup_frak = 0.1\nclip_norm = true")
        .replace('size = "d32"', 'size = "d33"')
    )
    assert problems_of(text) == [
        "run.clip_norm must be a number, but got True.",
        "Unknown key 'run.warmup_frak'. Did you mean 'run.warmup_frac'? Available: "
        "run.batch_size, run.clip_norm, run.clip_scope, run.precision, run.attention_scope, "
        "run.warmup_frac, run.warmup_steps, run.decay_frac, run.decay_shape, run.final_frac, "
        "run.eval_tokens, run.test_tokens, run.num_evals.",
        "Unknown optimizer 'moun'. Did you mean 'muon'? Available: " + available_optimizers(),
        "Unknown model size 'd33'. Did you mean 'd32'? Available: d32, d48, d64, d96, 130m, 300m, "
        "520m, 1.2b.",
    ]


def available_optimizers() -> str:
    from optbench.optimizers import OPTIMIZERS

    return ", ".join(OPTIMIZERS) + "."


def test_an_unknown_hyperparameter_is_named_with_its_table() -> None:
    (problem,) = problems_of(MINIMAL.replace("momentum = [0.9, 0.95]", "momentun = [0.9]"))
    assert problem.startswith(
        "Unknown key 'optimizers.muon.space.momentun'. Did you mean "
        "'optimizers.muon.space.momentum'?"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('baseline = "adamw"', 'baseline = "lion"', "`baseline` must be one of the study's"),
        ("ratio = 1.0", "ratio = -1.0", "cell.ratio must lie in (0, 1000], but got [-1.0]."),
        ("ratio = 1.0", 'ratio = "one"', "cell.ratio must be a number, but got 'one'."),
        ("[0.005, 0.01, 0.02]", "0.01", "optimizers.adamw.space.lr must be a list, but got 0.01."),
        ("[0.005, 0.01, 0.02]", "[0.01, 0.005]", "Candidates must increase strictly"),
        ("[0.005, 0.01, 0.02]", "[]", "An axis needs at least one candidate value, but got none."),
        (
            "start = { lr = 0.01 }",
            "start = { lr = -0.01 }",
            "start.lr: Candidates must lie in [0, inf]",
        ),
        (
            "start = { lr = 0.01 }",
            "start = { lt = 0.01 }",
            "Did you mean 'optimizers.adamw.start.lr'",
        ),
        (
            "batch_size = 16",
            "batch_size = 16\nwarmup_frac = 1.0",
            "The warm-up must be shorter than",
        ),
        ("batch_size = 16", "batch_size = 99999", "The budget must hold at least one step"),
        ("[run]", "[protocol]\nconfirm_seeds = 0\n[run]", "a loss that is quoted needs a run"),
        ("[run]", "[protocol]\nnoise_seeds = 0\n[run]", "the tuning seed alone is one"),
        ("[run]", "[protocol]\nmax_runs = 1.5\n[run]", "protocol.max_runs must be a whole number"),
        ("[run]", "nonsense = 1\n[run]", "Unknown key 'cell.nonsense'"),
        ("[run]", "[baseline_curve]\nratios = [2.0]\nretune = ['lrr']\n[run]", "Did you mean 'lr'"),
    ],
)
def test_impossible_values_are_refused_with_the_remedy(old: str, new: str, message: str) -> None:
    assert any(message in problem for problem in problems_of(MINIMAL.replace(old, new)))


def test_a_model_whose_width_its_heads_do_not_divide_is_refused() -> None:
    text = MINIMAL.replace('size = "d32"', 'size = "odd"') + (
        "[models.odd]\nnum_layers = 1\nd_model = 30\nd_ff = 8\nnum_heads = 4\n"
        "vocab_size = 64\nseq_len = 16\n"
    )
    assert any(
        "model.d_model must be divisible by model.num_heads, but got d_model=30, num_heads=4. "
        in problem
        for problem in problems_of(text)
    )


def test_text_that_is_not_toml_is_refused_with_its_place() -> None:
    (problem,) = problems_of("name = ")
    assert problem.startswith("The study file is not valid TOML: Invalid value (at ")


def test_smoke_needs_its_table() -> None:
    assert problems_of(MINIMAL, smoke=True) == [
        "This study has no [smoke] table, so it has no --smoke version."
    ]


def test_a_smoke_study_never_shares_a_store_with_the_full_one() -> None:
    text = find_study("nano")
    assert read_study(text).digest != read_study(text, smoke=True).digest


def test_an_unknown_study_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match=r"Unknown study 'nanno'. Did you mean 'nano'\?"):
        find_study("nanno")
    with pytest.raises(ConfigError, match=r"There is no study file missing\.toml\."):
        find_study("missing.toml")


def test_the_smallest_batch_is_the_least_of_runs_starts_and_candidates() -> None:
    assert smallest_batch(read_study(MINIMAL)) == 16
    start = MINIMAL.replace("{ lr = 0.01 }", "{ lr = 0.01, batch_size = 8 }")
    assert smallest_batch(read_study(start)) == 8
    candidates = MINIMAL.replace("momentum = [0.9, 0.95]", "batch_size = [4, 16]")
    assert smallest_batch(read_study(candidates)) == 4


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('cell = "d32 1x"', "cell must be a table of keys and values, but got 'd32 1x'."),
        ('optimizers = ["adamw"]', "optimizers must be a table of keys and values, but got"),
        ("optimizers = { adamw = true }", "optimizers.adamw must be a table of keys and values"),
        ('run = "fast"', "run must be a table of keys and values, but got 'fast'."),
        ("models = []", "models must be a table of keys and values, but got []."),
        ('phases = ["d32 1x"]', "phases must be a table of keys and values, but got ['d32 1x']."),
        ("protocol = 3", "protocol must be a table of keys and values, but got 3."),
        ("baseline_curve = [0.5]", "baseline_curve must be a table of keys and values, but got"),
        ("protocol = { grow_grids = 'no' }", "protocol.grow_grids must be true or false, but got"),
        ("protocol = { tie_floor = nan }", "protocol.tie_floor must be a finite number, but got"),
        ("protocol = { tie_floor = -1 }", "protocol.tie_floor must be at least 0, but got -1"),
        ("protocol = { tuning_seed = 1000 }", "protocol.tuning_seed and the noise_seeds from it"),
        ("protocol = { noise_seeds = 1001 }", "protocol.tuning_seed and the noise_seeds from it"),
        ("phases = { tune = ['d32 2x', 'd32 2.0x'] }", "phases.tune must name everything once"),
        ('name = "a/b"', "name must be a name without slashes and control characters, but got"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_line(line: str, problem: str) -> None:
    key = line.split(" ")[0]
    tables = tomllib.loads(MINIMAL)
    rest = {name: value for name, value in tables.items() if name != key}
    text = f"# one line\n{line}\n" + document(rest)
    with pytest.raises(ConfigError) as caught:
        read_study(text, file="my.toml")
    (found,) = [p for p in caught.value.problems if p.startswith("my.toml, line 2: ")]
    assert found.startswith(f"my.toml, line 2: {problem}")


def test_a_problem_within_smoke_is_named_there() -> None:
    text = MINIMAL + "[smoke]\ncell = { ratio = 'x' }\nrun = { num_evals = 0 }\nnonsense = 1\n"
    with pytest.raises(ConfigError) as caught:
        read_study(text, smoke=True, file="my.toml")
    assert [p.partition(", but")[0].partition(". ")[0] for p in caught.value.problems] == [
        "my.toml, line 16: smoke.cell.ratio must be a number",
        "my.toml, line 18: Unknown key 'smoke.nonsense'",
        "my.toml, line 17: smoke.run.num_evals must be at least 1",
    ]


def test_a_start_point_that_cannot_be_is_said_once_for_all_cells() -> None:
    (problem,) = problems_of(MINIMAL.replace("batch_size = 16", "batch_size = 99999"))
    assert problem.startswith("adamw in cell d32 1x (and 1 more): The budget must hold at least")
