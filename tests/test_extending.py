"""docs/extending.md is true: its files and lines, added to a copy of the package, do what it says.

One process imports the copy and tries all of them, and its answers are read by one test for each.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
STEP = re.compile(r"^`(src/[\w/]+\.py)`[^\n]*\n\n```(python|diff)\n(.*?)^```", re.M | re.S)
CHECKS = '''
import dataclasses, json, sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from optbench.analysis.summary import summarise
from optbench.cli import main
from optbench.config import DataConfig, OptimizerConfig, ScheduleConfig
from optbench.executors.choice import ExecutorChoice
from optbench.optimizers import OPTIMIZERS
from optbench.recommend.state_memory import state_bytes_per_param
from optbench.store.store import RunRecord, RunStore
from optbench.study.file import read_study
from optbench.training.run import run
from tests.builders import TINY_CONFIG, TINY_MODEL
from tests.data.synthetic import VOCAB_SIZE, prepared
from tests.optimizers.trajectories import SHAPES, arrays, parameters, walk

params = parameters()
walk(OPTIMIZERS["heavy_ball"](params, lr=0.1, momentum=0.9, weight_decay=0.1), params, 30)
errors = []
for index, shape in enumerate(SHAPES):
    weights, gradients = arrays(index, shape, 30)
    average = 0 * weights
    for grad in gradients:
        average = 0.9 * average + 0.1 * grad
        weights = weights - 0.1 * (0.1 * weights + average)
    errors.append(float(abs(params[index].detach().numpy() - weights).max()))

config = dataclasses.replace(
    TINY_CONFIG,
    data=DataConfig(corpus="toy"),
    model=dataclasses.replace(TINY_MODEL, vocab_size=VOCAB_SIZE),
    optimizer=OptimizerConfig(
        name="heavy_ball", hyperparameters=OPTIMIZERS["heavy_ball"].default_hyperparameters()
    ),
    schedule=ScheduleConfig(warmup_steps=2, decay_steps=6, shape="one_minus_sqrt"),
)
with ExecutorChoice(kind="thread").opened() as executor:
    trained = executor.submit(run, config, prepared(Path(sys.argv[1])).directory).result()
record = RunRecord.from_dict(json.loads(trained.to_json()))
study = read_study(
    """
    baseline = "heavy_ball"
    [cell]
    size = "d32"
    ratio = 1.0
    [run]
    batch_size = 16
    decay_shape = "one_minus_sqrt"
    [optimizers.heavy_ball]
    """
)
nano = summarise(RunStore.read(Path("results/nano")))
answers = {
    "errors": errors,
    "bytes": state_bytes_per_param("heavy_ball", {}),
    "status": trained.status,
    "error": trained.error,
    "losses": [loss for _, loss in trained.train_curve],
    "kept": record == trained and record.run_config == config,
    "shape": study.run.decay_shape,
    "axes": list(study.optimizers["heavy_ball"].space),
    "help": CliRunner().invoke(main, ["run", "--help"], env={"COLUMNS": "200"}).output,
    "claims": [[c.number, c.statement, c.verdict] for c in nano.claims],
    "sigma": nano.noise.sigma,
}
contract = ["tests/optimizers/test_contract.py", "-q", "-k", "HeavyBall or heavy_ball"]
answers["contract"] = int(pytest.main([*contract, "-p", "no:cacheprovider"]))
Path(sys.argv[1], "answers.json").write_text(json.dumps(answers))
'''


def edited(text: str, diff: str) -> str:
    """A text after the hunks of a diff without line numbers."""
    for hunk in re.split(r"^@@\n", diff, flags=re.M):
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] != "+")
        assert text.count(old) == 1, old
        text = text.replace(old, "".join(line[1:] for line in lines if line[0] != "-"))
    return text


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of one process that imports the package with everything that the page adds."""
    copy = tmp_path_factory.mktemp("copy")
    # Times are copied too, so that compiled files of the rest stay valid.
    shutil.copytree(ROOT / "src", copy / "src", ignore=shutil.ignore_patterns("vendor"))
    for name, language, body in STEP.findall(PAGE):
        path = copy / name
        assert path.exists() == (language == "diff"), name
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        path.write_text(edited(before, body) if before else body, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", CHECKS, str(copy)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(copy / "src"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((copy / "answers.json").read_text())


def test_the_page_touches_one_place_for_each() -> None:
    assert [name.removeprefix("src/optbench/") for name, _, _ in STEP.findall(PAGE)] == [
        "optimizers/heavy_ball.py",
        "optimizers/registry.py",
        "schedule.py",
        "analysis/claims/gains.py",
        "analysis/claims/registry.py",
        "executors/threads.py",
        "executors/registry.py",
        "statistics/noise.py",
    ]
    assert PAGE.count("```python") + PAGE.count("```diff") == 8


def test_a_new_optimizer_follows_its_equations_and_the_contract(answers: dict[str, Any]) -> None:
    assert max(answers["errors"]) < 1e-14
    assert answers["contract"] == 0
    assert answers["bytes"] == 4
    assert answers["axes"] == ["lr", "momentum"]


def test_it_is_trained_under_a_new_decay_shape_by_a_new_executor(answers: dict[str, Any]) -> None:
    assert answers["status"] == "completed", answers["error"]
    assert answers["losses"][-1] < answers["losses"][0]
    assert answers["kept"]
    assert answers["shape"] == "one_minus_sqrt"
    assert "[process|ray|inline|thread]" in answers["help"]


def test_a_new_claim_and_another_noise_are_in_a_summary(answers: dict[str, Any]) -> None:
    assert answers["claims"][-1] == [10, "Some optimizer is faster than adamw.", "holds"]
    assert len(answers["claims"]) == 10
    assert answers["sigma"] > 0
