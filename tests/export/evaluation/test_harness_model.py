"""Our model class answers the harness as an unhurried calculation and its own class do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from optbench.config import UserError
from optbench.export.huggingface import export_run
from optbench.training.weights import TrainedModel
from tests.builders import record_of
from tests.export.evaluation.local_tasks import TASKS, documents, write_tasks
from tests.training.trained_runs import MODEL, config_of

if TYPE_CHECKING:
    from optbench.export.evaluation.harness_model import HarnessModel

pytestmark = pytest.mark.usefixtures("harness")
CPU = torch.device("cpu")


def request(*arguments: Any, kind: str = "loglikelihood") -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@pytest.fixture
def ours(trained: TrainedModel) -> HarnessModel:
    from optbench.export.evaluation.harness_model import HarnessModel

    return HarnessModel(trained, device=CPU, tokens_per_batch=100)


@torch.no_grad()
def log_p_one_by_one(trained: TrainedModel, tokens: list[int], first: int) -> tuple[float, bool]:
    """Σ log p of ``tokens[first:]``, one pass for each, and whether each is the likeliest."""
    total, greedy = 0.0, True
    for at in range(first, len(tokens)):
        past = torch.tensor([tokens[max(0, at - MODEL.seq_len) : at]])
        logits = trained.model(past)[0, -1].double()
        total += float(logits[tokens[at]] - logits.logsumexp(0))
        greedy &= int(logits.argmax()) == tokens[at]
    return total, greedy


def test_log_likelihoods_are_those_of_one_token_after_another(
    ours: HarnessModel, trained: TrainedModel
) -> None:
    pairs = [("ba ko", " mi re"), ("", "su ta lo"), ("ne pi ga ba", " ko"), ("ba ", "mi")]
    found = ours.loglikelihood([request(*pair) for pair in pairs])
    encode = ours.tok_encode
    for (context, continuation), (log_p, is_greedy) in zip(pairs, found, strict=True):
        whole = encode(context + continuation)
        tokens = whole if context else [ours.eot_token_id, *whole]
        first = len(encode(context.rstrip())) if context else 1
        assert len(tokens) <= MODEL.seq_len
        expected, greedy = log_p_one_by_one(trained, tokens, first)
        assert log_p == pytest.approx(expected, abs=1e-4)
        assert is_greedy is greedy


@torch.no_grad()
def test_the_greedy_flag_is_set_by_what_the_model_itself_would_say(
    ours: HarnessModel, trained: TrainedModel
) -> None:
    tokens = ours.tok_encode("ba ko mi")
    said: list[int] = []
    for _ in range(3):
        said.append(int(trained.model(torch.tensor([[*tokens, *said]]))[0, -1].argmax()))
    best = (("", ""), tokens, said)
    other = (("", ""), tokens, [*said[:-1], (said[-1] + 1) % MODEL.vocab_size])
    (_, is_greedy), (_, is_not) = ours._loglikelihood_tokens([best, other])
    assert (is_greedy, is_not) == (True, False)
    settings = {"until": [], "max_gen_toks": 3}
    assert ours.generate_until([request("ba ko mi", settings)]) == [trained.tokenizer.decode(said)]


def test_the_size_of_a_batch_does_not_change_a_score(trained: TrainedModel) -> None:
    from optbench.export.evaluation.harness_model import HarnessModel

    requests = [request(d["question"], " " + c) for d in documents() for c in d["choices"]]
    scores = [
        HarnessModel(trained, device=CPU, tokens_per_batch=size).loglikelihood(requests)
        for size in (1, 100, 100_000)
    ]
    alone = [log_p for log_p, _ in scores[0]]
    assert [log_p for log_p, _ in scores[1]] == pytest.approx(alone, abs=1e-4)
    assert [log_p for log_p, _ in scores[2]] == pytest.approx(alone, abs=1e-4)


def test_a_continuation_longer_than_the_model_is_scored_whole(ours: HarnessModel) -> None:
    long = " ba ko mi re su ta lo ne" * 8
    tokens = ours.tok_encode("pi" + long)
    assert len(tokens) > 2 * MODEL.seq_len
    first = len(ours.tok_encode("pi"))
    ((log_p, _),) = ours.loglikelihood([request("pi", long)])
    pieces = [
        ours._loglikelihood_tokens([(("", ""), tokens[:start], tokens[start:end])])[0][0]
        for start in range(first, len(tokens), MODEL.seq_len)
        for end in [min(start + MODEL.seq_len, len(tokens))]
    ]
    assert log_p == pytest.approx(sum(pieces), abs=1e-3)


def test_a_continuation_without_tokens_is_refused(ours: HarnessModel) -> None:
    from optbench.export.evaluation.harness_model import HarnessError

    with pytest.raises(HarnessError, match=r"The continuation '' adds no token to .*'ba ko'"):
        ours.loglikelihood([request("ba ko", "")])


def test_sampling_is_refused(ours: HarnessModel) -> None:
    from optbench.export.evaluation.harness_model import HarnessError

    with pytest.raises(HarnessError, match=r"asks for sampled text .* Set do_sample: false"):
        ours.generate_until([request("ba", {"do_sample": True, "temperature": 0.7})])


@pytest.mark.parametrize(
    ("context", "settings", "said"),
    [
        ("ba ko", {}, "256 new tokens (max_gen_toks, 256 when it is not set), which leaves 0 of"),
        ("ba " * 40, {"max_gen_toks": 31}, "31 new tokens (max_gen_toks, 256 when it is not set)"),
        ("ba " * 40, {"max_gen_toks": 17}, "leaves 15 of the model's 32 for a prompt of"),
    ],
)
def test_a_text_so_long_that_its_prompt_is_lost_is_refused(
    context: str, settings: dict[str, int], said: str, ours: HarnessModel
) -> None:
    from optbench.export.evaluation.harness_model import HarnessError

    with pytest.raises(HarnessError) as error:
        ours.generate_until([request(context, settings)])
    assert said in str(error.value)
    assert "Set max_gen_toks to at most 16 in its generation_kwargs." in str(error.value)


def test_a_long_text_after_a_prompt_that_fits_is_written(
    ours: HarnessModel, trained: TrainedModel
) -> None:
    prompt = ours.tok_encode("ba")
    room = MODEL.seq_len - len(prompt)
    (text,) = ours.generate_until([request("ba", {"max_gen_toks": room})])
    short = ours.generate_until([request("ba", {"max_gen_toks": 3})])[0]
    assert text.startswith(short)
    with pytest.raises(UserError, match="max_gen_toks"):
        ours.generate_until([request("ba", {"max_gen_toks": room + 1})])


@pytest.fixture(scope="module")
def both(
    trained: TrainedModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the harness says of our class, and of its own on the exported folder."""
    pytest.importorskip("lm_eval", reason="the extra 'eval' is not installed")
    pytest.importorskip("transformers", reason="the reference for exported runs")
    pytest.importorskip("accelerate", reason="the harness's own model class needs it")
    import datasets.config
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from optbench.export.evaluation.harness_model import HarnessModel

    folder = tmp_path_factory.mktemp("harness")
    export_run(record_of(config_of()), trained, folder / "exported")
    manager = TaskManager(
        include_path=str(write_tasks(folder / "tasks", *TASKS)), include_defaults=False
    )
    models = (
        HarnessModel(trained, device=CPU),
        HFLM(str(folder / "exported"), device="cpu", batch_size=4, dtype="float32"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "datasets")
        patch.setenv("DISABLE_MULTIPROC", "1")
        results = [
            simple_evaluate(
                model=model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=10
            )
            for model in models
        ]
    return results[0], results[1]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("task", TASKS)
def test_scores_are_those_of_the_harness_on_the_exported_run(
    task: str, both: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    ours, theirs = (results["results"][task] for results in both)
    assert ours.keys() == theirs.keys()
    assert any(key.endswith(",none") for key in ours)
    for key in (key for key in ours if "," in key):
        if ours[key] != theirs[key]:  # where there is no standard error both say "N/A"
            assert ours[key] == pytest.approx(theirs[key], rel=1e-5), key


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("task", TASKS)
def test_single_answers_are_those_of_the_harness_on_the_exported_run(
    task: str, both: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    ours, theirs = (results["samples"][task] for results in both)
    assert len(ours) == len(theirs) == 20
    for mine, other in zip(ours, theirs, strict=True):
        for answer, reference in zip(mine["resps"], other["resps"], strict=True):
            # Sums of logarithms in float32, to 700, where the last bit is 6e-5.
            assert answer == [pytest.approx(reference[0], abs=1e-3)]
