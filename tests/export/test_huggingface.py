"""An exported run is the same function in `transformers`, tokenizer included."""

from __future__ import annotations

import dataclasses
import json
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import nn

from optbench.config import ModelConfig
from optbench.data.shards import Corpus
from optbench.export.huggingface import ExportError, export_run, huggingface_tensors, model_card
from optbench.store.store import RunRecord
from optbench.training.model import Llama
from optbench.training.weights import TrainedModel
from tests.builders import record_of
from tests.data.synthetic import VOCAB_SIZE, prepared
from tests.training.trained_runs import MODEL, config_of, kept

SIZES = {
    "one head": ModelConfig(
        num_layers=1, d_model=16, d_ff=24, num_heads=1, vocab_size=VOCAB_SIZE, seq_len=16
    ),
    "tiny heads": ModelConfig(
        num_layers=2, d_model=16, d_ff=64, num_heads=8, vocab_size=VOCAB_SIZE, seq_len=32
    ),
    "deep": ModelConfig(
        num_layers=4, d_model=64, d_ff=256, num_heads=4, vocab_size=VOCAB_SIZE, seq_len=64
    ),
    "other rotary base": ModelConfig(
        num_layers=2,
        d_model=48,
        d_ff=96,
        num_heads=3,
        vocab_size=VOCAB_SIZE,
        seq_len=64,
        rope_theta=500.0,
    ),
}
TEXTS = ("ba ko", " mi", "x<|endoftext|>y", "<|endoftext|>", "é漢 \n\n def f():\t1", "")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return kept(tmp_path_factory.mktemp("store"), corpus)


@pytest.fixture
def record() -> RunRecord:
    return record_of(config_of())


def opened_model(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="the reference for exported runs")
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def opened_tokenizer(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers", reason="the reference for exported runs")
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("size", SIZES)
@torch.no_grad()
def test_the_exported_model_gives_the_same_logits(
    size: str, corpus: Corpus, tmp_path: Path
) -> None:
    config = SIZES[size]
    trained = kept(tmp_path, corpus, config)
    export_run(record_of(config_of(config)), trained, tmp_path / "out")
    theirs = opened_model(tmp_path / "out")
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCAB_SIZE, (3, config.seq_len), generator=generator)
    ours = trained.model(tokens)
    assert ours.std() > 0.5  # a difference would show
    assert theirs.dtype == torch.float32
    torch.testing.assert_close(theirs(tokens).logits, ours, rtol=0, atol=1e-5)


@torch.no_grad()
def test_in_float64_the_logits_agree_to_ten_digits(
    trained: TrainedModel, record: RunRecord, tmp_path: Path
) -> None:
    """With one rotary table and float64 norms: theirs are computed in float32 at any precision."""
    export_run(record, trained, tmp_path / "out")
    theirs = opened_model(tmp_path / "out").double()
    ours = Llama(MODEL, seed=0)
    ours.load_state_dict(trained.model.state_dict())
    ours = ours.double()
    positions = torch.arange(MODEL.seq_len)[None]
    cos, sin = theirs.model.rotary_emb(torch.zeros(1, dtype=torch.float64), positions)
    ours.rotary.cos, ours.rotary.sin = cos[0], sin[0]
    for name, module in list(theirs.named_modules()):
        if type(module).__name__ == "LlamaRMSNorm":
            norm = nn.RMSNorm(MODEL.d_model, eps=module.variance_epsilon, dtype=torch.float64)
            norm.weight = module.weight
            theirs.set_submodule(name, norm)
    tokens = torch.arange(2 * MODEL.seq_len).view(2, -1)
    torch.testing.assert_close(theirs(tokens).logits, ours(tokens), rtol=0, atol=1e-10)


@pytest.mark.parametrize("text", TEXTS)
def test_the_exported_tokenizer_gives_the_same_tokens(
    text: str, trained: TrainedModel, record: RunRecord, tmp_path: Path
) -> None:
    export_run(record, trained, tmp_path / "out")
    theirs = opened_tokenizer(tmp_path / "out")
    expected = trained.tokenizer.encode(text, add_special_tokens=False).ids
    assert theirs.encode(text) == theirs(text)["input_ids"] == expected
    assert theirs.decode(expected) == text
    eod = trained.origin.eod_id
    assert (theirs.bos_token_id, theirs.eos_token_id) == (eod, eod)
    assert theirs.model_max_length == MODEL.seq_len


def test_a_tokenizer_that_adds_tokens_to_a_text_does_so_no_more(
    trained: TrainedModel, record: RunRecord, tmp_path: Path
) -> None:
    adding = Tokenizer.from_str(trained.tokenizer_json)
    end = ("<|endoftext|>", trained.origin.eod_id)
    adding.post_processor = TemplateProcessing(
        single=f"{end[0]} $A", pair=f"{end[0]} $A $B", special_tokens=[end]
    )
    assert adding.encode("ba").ids[0] == end[1]
    other = TrainedModel(trained.model, adding, adding.to_str(), trained.origin)
    export_run(record, other, tmp_path / "out")
    expected = trained.tokenizer.encode("ba").ids
    assert (
        Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode("ba").ids == expected
    )
    assert opened_tokenizer(tmp_path / "out").encode("ba") == expected


def test_the_folder_is_written_without_transformers(
    trained: TrainedModel, record: RunRecord, tmp_path: Path
) -> None:
    code = (
        "import sys, optbench.export.huggingface; "
        "assert not {'transformers', 'lm_eval'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    export_run(record, trained, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "run.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    kept_record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert RunRecord.from_dict(kept_record) == record
    card = (tmp_path / "out" / "README.md").read_text()
    for fact in (
        record.run_id,
        "adamw: beta1=0.9, lr=0.01",
        "640 tokens, 5 steps",
        "commit c0ffee with changes",
    ):
        assert fact in card


def test_every_parameter_has_a_name_of_its_own(trained: TrainedModel) -> None:
    assert len(huggingface_tensors(trained.model)) == len(list(trained.model.parameters()))


def test_a_folder_with_files_is_never_overwritten(
    trained: TrainedModel, record: RunRecord, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    export_run(record, trained, out)  # an empty folder is as good as none
    (out / "config.json").write_text("mine")
    message = f"{out} is a folder with files in it, which is never overwritten. Choose another"
    with pytest.raises(ExportError, match=re.escape(message)):
        export_run(record, trained, out)
    assert (out / "config.json").read_text() == "mine"
    with pytest.raises(ExportError, match=r"config\.json is a file, which is never overwritten"):
        export_run(record, trained, out / "config.json")


def test_a_disk_that_fills_up_under_the_weights_is_an_error_with_its_remedy(
    trained: TrainedModel, record: RunRecord, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the process is ended
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(ExportError, match=r"out could not be written .*Free some space or"):
            export_run(record, trained, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_the_card_of_a_clean_tree_speaks_of_no_changes(
    trained: TrainedModel, record: RunRecord
) -> None:
    clean = dataclasses.replace(trained.origin, dirty=False)
    card = model_card(record, dataclasses.replace(trained, origin=clean))
    assert "| made by | optbench 0.1, commit c0ffee |" in card


def test_a_failed_export_leaves_nothing(
    trained: TrainedModel, record: RunRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("optbench.export.huggingface.model_card", full)
    with pytest.raises(ExportError, match=r"could not be written .*No space left"):
        export_run(record, trained, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
