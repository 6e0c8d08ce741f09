"""Scores with their errors, chance levels and warning; what cannot be evaluated says why."""

from __future__ import annotations

import io
import json
import math
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from optbench.export.evaluation.evaluate import (
    EvaluationError,
    TaskChoice,
    errors_of_tasks,
    evaluate,
    require_harness,
)
from optbench.export.evaluation.scores import (
    PUBLISHED_SPREAD,
    EvaluationResult,
    TaskScore,
    store_evaluation,
)
from optbench.export.evaluation.table import print_evaluation
from optbench.export.evaluation.tasks import PAPER_TASKS
from optbench.published.results import read_published
from optbench.training.weights import TrainedModel
from tests.export.evaluation.local_tasks import documents, write_tasks

CPU = torch.device("cpu")


@pytest.mark.usefixtures("harness")
@pytest.mark.filterwarnings("default")
def test_a_choice_task_is_scored_with_its_error_and_chance(
    trained: TrainedModel, tmp_path: Path
) -> None:
    from lm_eval.api.instance import Instance

    from optbench.export.evaluation.harness_model import HarnessModel

    folder = write_tasks(tmp_path / "tasks", "toy_choice")
    said: list[str] = []
    found = evaluate(trained, TaskChoice(folder=folder), device=CPU, notify=said.append)
    acc, acc_norm = found.scores
    model = HarnessModel(trained, device=CPU)
    right: list[int] = []
    for document in documents():
        log_p = [
            model.loglikelihood([Instance("loglikelihood", {}, (document["question"], " " + c), 0)])
            for c in document["choices"]
        ]
        right.append(int(max(range(len(log_p)), key=lambda k: log_p[k][0][0]) == document["gold"]))
    assert (acc.task, acc.metric, acc.version, acc.documents) == ("toy_choice", "acc", "1.5", 20)
    assert acc.value == statistics.mean(right)
    assert 0 < acc.value < 1
    assert acc.stderr == pytest.approx(statistics.stdev(right) / math.sqrt(20))
    assert acc.chance == pytest.approx(statistics.mean(1 / (2 + i % 3) for i in range(20)))
    assert acc_norm.metric == "acc_norm"
    assert acc_norm.chance == acc.chance
    assert found.run_id == trained.origin.run_id
    assert said == []  # local data: nothing to download


@pytest.mark.usefixtures("harness")
@pytest.mark.filterwarnings("default")
def test_named_tasks_and_a_limit_restrict_what_is_done(
    trained: TrainedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_tasks(tmp_path / "tasks", "toy_choice", "toy_last_word", "toy_text")
    choice = TaskChoice(("toy_text", "toy_last_word"), folder, limit=5)
    found = evaluate(trained, choice, device=CPU)
    scores = {score.metric: score for score in found.scores}
    assert set(scores) == {
        "word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity", "acc"
    }  # fmt: skip
    assert {score.documents for score in found.scores} == {5}
    assert found.limit == 5
    assert {score.version for score in found.scores} == {""}  # these tasks have none
    assert scores["acc"].chance == 0.0  # any word could be the last
    assert scores["bits_per_byte"].chance is None
    assert scores["perplexity"].stderr is not None  # by bootstrap
    assert scores["perplexity"].stderr > 0
    bits = scores["bits_per_byte"].value
    assert scores["byte_perplexity"].value == pytest.approx(2**bits)
    assert capfd.readouterr().out == ""  # JSON is printed there


@pytest.mark.usefixtures("harness")
def test_an_unknown_task_is_named_with_its_nearest_neighbour(
    trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval.tasks

    folder = write_tasks(tmp_path / "tasks", "toy_choice")
    whole = lm_eval.tasks.TaskManager
    # Without the harness's own fourteen thousand tasks, which take ten seconds to read.
    monkeypatch.setattr(
        lm_eval.tasks,
        "TaskManager",
        lambda include_path, include_defaults=False: whole(
            include_path=include_path, include_defaults=False
        ),
    )
    message = "Unknown task 'toy_choise'. Did you mean 'toy_choice'? Available: toy_choice, lambada"
    with pytest.raises(EvaluationError, match=re.escape(message)):
        evaluate(trained, TaskChoice(("toy_choise",), folder), device=CPU)


@pytest.mark.usefixtures("harness")
def test_a_folder_without_tasks_is_refused(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=f"There are no tasks in {tmp_path}. A task is a"):
        evaluate(trained, TaskChoice(folder=tmp_path), device=CPU)


@pytest.mark.usefixtures("harness")
@pytest.mark.filterwarnings("default")
def test_data_that_is_not_there_is_an_error_with_its_remedy(
    trained: TrainedModel, tmp_path: Path
) -> None:
    folder = write_tasks(tmp_path / "tasks", "toy_choice")
    (folder / "documents.json").unlink()
    with pytest.raises(
        EvaluationError,
        match=r"^The data of toy_choice cannot be loaded \((.|\n)*`dataset_kwargs` of the task",
    ):
        evaluate(trained, TaskChoice(folder=folder), device=CPU)


@pytest.mark.parametrize(
    ("foreign", "remedy"),
    [(["piqa"], "connect to the network, or name tasks on local data"), ([], "`dataset_path` and")],
)
def test_the_remedy_is_for_the_data_that_is_missing(foreign: list[str], remedy: str) -> None:
    with (
        pytest.raises(EvaluationError, match=rf"of piqa, toy cannot .* \(gone\).*{remedy}"),
        errors_of_tasks(["piqa", "toy"], Path("own"), foreign),
    ):
        raise OSError("gone")


@pytest.mark.usefixtures("harness")
@pytest.mark.filterwarnings("default")
def test_a_task_that_names_a_field_its_data_lacks_is_an_error_with_the_field(
    trained: TrainedModel, tmp_path: Path
) -> None:
    folder = write_tasks(tmp_path / "tasks", "toy_choice")
    (file,) = folder.glob("*.yaml")
    text = file.read_text()
    file.write_text(text.replace("doc_to_text: question", 'doc_to_text: "{{riddle}}"'))
    with pytest.raises(
        EvaluationError,
        match=rf"^A template of toy_choice does not fit .*'riddle' is undefined.* in {folder}: the",
    ):
        evaluate(trained, TaskChoice(folder=folder), device=CPU)


@pytest.mark.slow
@pytest.mark.usefixtures("harness")
def test_the_ten_tasks_of_the_study_are_tasks_of_the_harness() -> None:
    from lm_eval.tasks import TaskManager

    assert len(PAPER_TASKS) == 10
    assert set(PAPER_TASKS.values()) <= set(TaskManager().all_tasks)


def test_without_the_harness_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    message = (
        "Downstream tasks need EleutherAI's lm-evaluation-harness, which is not installed. "
        "Install it (about 500 MB): pip install 'optbench[eval]'"
    )
    with pytest.raises(EvaluationError, match=f"^{re.escape(message)}$"):
        require_harness()


def score(**changes: Any) -> TaskScore:
    values: dict[str, Any] = {
        "task": "hellaswag",
        "version": "1.0",
        "metric": "acc_norm",
        "value": 0.3456,
        "stderr": 0.0047,
        "documents": 10042,
        "chance": 0.25,
    }
    return TaskScore(**{**values, **changes})


def evaluation(*scores: TaskScore) -> EvaluationResult:
    return EvaluationResult(
        run_id="abc",
        scores=scores,
        limit=None,
        harness="0.4.13",
        optbench="0.1",
        evaluated_at="2025-01-02T03:04:05+00:00",
    )


def test_the_warning_gives_the_difference_that_questions_alone_make() -> None:
    nothing_right = score(task="piqa", value=0.0, stderr=0.0)
    found = evaluation(score(), score(task="copa", stderr=0.0476), nothing_right)
    assert found.warning == (
        "The scores of a single run cannot rank optimizers. The choice of questions alone makes "
        "two equal runs differ by up to 1.3 to 13.2 points of accuracy (1.96·√2 standard "
        "errors of a task), the seed not counted. The published study's optimizers end "
        "within 0.004 nats of each other at its largest size: 0.4 % in the probability of a token. "
        "Compare optimizers by their test losses over several seeds ('optbench report')."
    )
    assert evaluation(score(chance=None)).warning == (
        "The scores of a single run cannot rank optimizers. Compare optimizers by their test "
        "losses over several seeds ('optbench report')."
    )


def test_the_spread_that_the_warning_quotes_is_the_published_one() -> None:
    published = read_published()
    losses = [cell.loss for cell in published.cells if (cell.size, cell.ratio) == ("1.2b", 8)]
    assert len(losses) == 4
    assert round(max(losses) - min(losses), 3) == PUBLISHED_SPREAD


def test_the_table_has_every_score_and_the_warning() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    perplexity = score(task="lambada_openai", metric="perplexity", value=31.25, stderr=None,
                       chance=None)  # fmt: skip
    found = evaluation(score(), perplexity)
    print_evaluation(found, console)
    text = console.export_text()
    assert "Run abc on downstream tasks (lm-eval 0.4.13)" in text
    for row in (
        ("HellaSwag", "acc_norm", "34.6%", "0.5%", "25.0%", "10,042", "1.0"),
        ("LAMBADA", "perplexity", "31.25", "–", "–", "10,042", "1.0"),
    ):
        assert re.search(r".*".join(map(re.escape, row)), text)
    assert f"Warning: {found.warning}" in text.replace("\n", " ").replace("  ", " ")


def test_evaluations_are_appended_with_their_warning(tmp_path: Path) -> None:
    file = tmp_path / "evaluations.jsonl"
    store_evaluation(tmp_path, evaluation(score()))
    with file.open("a") as torn:
        torn.write('{"run_id": "torn')
    store_evaluation(tmp_path, evaluation(score(value=0.5)))
    first, second = (json.loads(line) for line in file.read_text().splitlines())
    assert first["scores"][0]["value"] == 0.3456
    assert second["scores"][0]["value"] == 0.5
    assert first["warning"].startswith("The scores of a single run cannot rank optimizers.")
    assert (tmp_path / "evaluations.jsonl.torn").read_text() == '{"run_id": "torn\n'
