"""Kept weights come back bit for bit; every damaged or foreign file is refused by its name."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from optbench.config import ModelConfig
from optbench.data.shards import Corpus
from optbench.training.run import run
from optbench.training.weights import (
    WeightsError,
    kept_runs,
    load_trained,
    make_folder,
    save_weights,
    tokenizer_file,
    weights_file,
)
from tests.data.synthetic import prepared
from tests.training.test_run import run_config
from tests.training.trained_runs import MODEL, config_of, keep, kept, sharp_model

RUN = config_of().run_id
CHANGED = "has been changed since it was written (its content has another checksum than its"
CODE = {"optbench": "0.1", "commit": None, "dirty": None}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return prepared(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def path(tmp_path: Path, corpus: Corpus) -> Path:
    keep(tmp_path, corpus)
    return weights_file(tmp_path, RUN)


def test_weights_come_back_bit_for_bit_with_where_they_are_from(
    tmp_path: Path, corpus: Corpus
) -> None:
    trained = kept(tmp_path, corpus)
    for (name, p), expected in zip(
        trained.model.named_parameters(), sharp_model().parameters(), strict=True
    ):
        assert torch.equal(p, expected), name
    origin = trained.origin
    assert (origin.run_id, origin.version, origin.commit) == (RUN, "0.1", "c0ffee")
    assert origin.dirty is True
    assert (origin.test_loss, origin.eod_id) == (3.5, corpus.manifest.eod_id)
    assert not trained.model.training
    text = "ba ko <|endoftext|> mi"
    assert trained.tokenizer.decode(trained.tokenizer.encode(text).ids) == text
    assert trained.tokenizer_json == corpus.tokenizer_path.read_text()


def test_saving_leaves_the_two_files_and_nothing_else(path: Path) -> None:
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == [f"{RUN}.safetensors", f"{RUN}.tokenizer.json"]
    # Whoever may read the one may read the other.
    assert path.stat().st_mode == tokenizer_file(path).stat().st_mode


def test_a_failed_save_leaves_what_was_there(
    path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def torn(_tensors: object, file: Path, _metadata: object) -> None:
        file.write_bytes(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("optbench.training.weights.save_file", torn)
    with pytest.raises(WeightsError, match=r"could not be written .*No space left.* Free some"):
        save_weights(path, sharp_model(), corpus, run_id=RUN, test_loss=1.0, code=CODE)
    assert path.read_bytes() == before
    assert len(list(path.parent.iterdir())) == 2


def test_what_a_killed_save_left_is_removed_before_the_next(path: Path) -> None:
    unfinished = [
        path.with_name(f".{name}.{'0a' * 16}")
        for name in (path.name, tokenizer_file(path).name, "other.safetensors")
    ]
    foreign = path.with_name(".notes.safetensors.bak")
    for file in (*unfinished, foreign):
        file.write_text("torn")
    make_folder(path)
    assert not any(file.exists() for file in unfinished)
    assert foreign.exists()
    assert path.exists()
    assert tokenizer_file(path).exists()


def test_a_save_leaves_the_files_in_the_making_of_other_runs_alone(
    path: Path, corpus: Corpus
) -> None:
    """Several runs of a study may end at once."""
    theirs = path.with_name(f".0123.safetensors.{'0a' * 16}")
    leftover = path.with_name(f".{path.name}.{'0a' * 16}")
    for file in (theirs, leftover):
        file.write_text("torn")
    save_weights(path, sharp_model(), corpus, run_id=RUN, test_loss=1.0, code=CODE)
    assert theirs.exists()
    assert not leftover.exists()


def test_a_run_keeps_the_weights_it_ended_with(tmp_path: Path, corpus: Corpus) -> None:
    config = run_config()
    path = weights_file(tmp_path, config.run_id)
    record = run(config, corpus.directory, weights_path=path)
    assert record.status == "completed", record.error
    trained = load_trained(path, config.model, config.run_id)
    assert trained.origin.test_loss == record.test_loss
    assert trained.origin.commit == record.environment["commit"]
    from optbench.data.batches import TokenBatches
    from optbench.training.trainer import evaluate

    loss = evaluate(trained.model, TokenBatches(corpus), config, "test", device=torch.device("cpu"))
    assert loss == record.test_loss


def test_a_run_that_cannot_keep_its_weights_fails_but_does_not_lose_its_losses(
    tmp_path: Path, corpus: Corpus
) -> None:
    (tmp_path / "weights").write_text("a file where the folder should be")
    config = run_config()
    record = run(config, corpus.directory, weights_path=weights_file(tmp_path, config.run_id))
    assert record.status == "failed"
    assert "could not be written" in record.error
    assert record.test_loss is not None


def test_a_folder_that_cannot_be_written_is_known_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file")
    with pytest.raises(WeightsError, match=r"x\.safetensors could not be written"):
        make_folder(weights_file(tmp_path, "x"))


def test_a_run_without_weights_says_how_to_get_them(tmp_path: Path) -> None:
    remedy = (
        f"Train it again for them: optbench show {RUN} --store {tmp_path} --config > run.json; "
        f"optbench train run.json --store {tmp_path} --keep-weights"
    )
    path = weights_file(tmp_path, RUN)
    first = f"The weights of run {RUN} were not kept (no {path}; no run there has its weights). "
    with pytest.raises(WeightsError, match=f"^{re.escape(first + remedy)}$"):
        load_trained(path, MODEL, RUN)


def test_a_run_without_weights_names_those_that_have_them(path: Path) -> None:
    assert kept_runs(path.parent.parent) == [RUN]
    with pytest.raises(WeightsError, match=rf"; with weights there: {RUN[:10]}\)\. Train it again"):
        load_trained(path.with_name("0123.safetensors"), MODEL, "0123")


def rewritten(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    """Damage done to the tensors, with the metadata left as they are."""

    def damage(path: Path) -> None:
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, header["__metadata__"])

    return damage


def with_metadata(**changes: str) -> Callable[[Path], None]:
    """Damage done to the metadata, with the tensors left as they are."""

    def damage(path: Path) -> None:
        data = path.read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        save_file(load_file(path), path, {**header["__metadata__"], **changes})

    return damage


def with_a_flipped_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def without_checksum(path: Path) -> None:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    del header["__metadata__"]["content_sha256"]
    save_file(load_file(path), path, header["__metadata__"])


def exchanged(tensors: dict[str, torch.Tensor]) -> None:
    """Two tensors of one shape under each other's names: no byte of theirs is lost."""
    names = [f"blocks.{layer}.attention.q_proj.weight" for layer in (0, 1)]
    first, second = (tensors[name] for name in names)
    assert not torch.equal(first, second)
    tensors.update(zip(names, (second, first), strict=True))


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def with_header_size(size: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_bytes(size.to_bytes(8, "little") + path.read_bytes()[8:])

    return damage


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps({"embedding.weight": [1.0]}))


def saved_by_torch(path: Path) -> None:
    torch.save({"embedding.weight": torch.zeros(2)}, path)


def without_metadata(path: Path) -> None:
    save_file(load_file(path), path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "is no complete safetensors file ("),
        (lambda path: path.write_bytes(b""), "is no complete safetensors file ("),
        (lambda path: path.write_bytes(b"{}" * 3), "is no complete safetensors file ("),
        (with_header_size(2**63), "is no complete safetensors file ("),
        (with_header_size(99_000_000), "is no complete safetensors file ("),
        (with_header_size(5), "is no complete safetensors file ("),
        (pickled, "is a pickle (as torch.save writes), which can run code when it is read"),
        (saved_by_torch, "is a pickle (as torch.save writes), which can run code when it is read"),
        (without_metadata, "does not name its run (KeyError: 'run_id' in its metadata)"),
        (
            rewritten(lambda tensors: tensors.update(x=tensors.pop("head.weight"))),
            "lacks ['head.weight'] and has the unknown ['x']. Restore it from a copy",
        ),
        (
            rewritten(lambda tensors: tensors.update({"head.weight": torch.zeros(3, 4)})),
            "'head.weight' has shape (3, 4) and type torch.float32, but the run's model has "
            "(300, 32) and torch.float32. Restore it from a copy",
        ),
        (
            rewritten(lambda tensors: tensors.update({"final_norm.gain": torch.ones(32).half()})),
            "'final_norm.gain' has shape (32,) and type torch.float16, but",
        ),
        (
            lambda path: tokenizer_file(path).unlink(),
            "tokenizer.json is missing beside its weights. Restore it from a copy, or train the "
            "run again with --keep-weights.",
        ),
        (
            lambda path: tokenizer_file(path).write_text("{}"),
            "is not the tokenizer that its run was trained with (another checksum).",
        ),
        (with_a_flipped_bit, CHANGED),
        (rewritten(lambda tensors: tensors["head.weight"][0].fill_(math.nan)), CHANGED),
        (rewritten(exchanged), CHANGED),
        (with_metadata(test_loss="0.01"), CHANGED),
        (with_metadata(test_loss="nan"), CHANGED),
        (with_metadata(eod_id="-5"), CHANGED),
        (with_metadata(content_sha256="0" * 64), CHANGED),
        (
            with_metadata(dirty="perhaps"),
            "does not name its run (ValueError: dirty is 'perhaps' in its metadata). It "
            "was not written by 'optbench train --keep-weights' of this version.",
        ),
        (without_checksum, "(KeyError: 'content_sha256' in its metadata)"),
        (a_folder, "safetensors is a folder or a device, not a file. Restore it from a copy"),
        (a_device, "safetensors is a folder or a device, not a file. Restore it from a copy"),
        (
            lambda path: a_folder(tokenizer_file(path)),
            "tokenizer.json is a folder or a device, not a file. Restore it from a copy",
        ),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_by_name(
    damage: Callable[[Path], None], message: str, path: Path
) -> None:
    damage(path)
    with pytest.raises(WeightsError) as error:
        load_trained(path, MODEL, RUN)
    assert message in str(error.value)
    assert str(path.parent / RUN) in str(error.value)


@pytest.mark.parametrize("of_tokenizer", [False, True])
def test_a_file_that_cannot_be_read_is_named(
    of_tokenizer: bool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable = tokenizer_file(path) if of_tokenizer else path
    opened = Path.open

    def refusing(file: Path, *arguments: Any, **settings: Any) -> Any:
        if file == unreadable:
            raise PermissionError(13, "Permission denied")
        return opened(file, *arguments, **settings)

    monkeypatch.setattr(Path, "open", refusing)
    message = f"{unreadable} cannot be read ([Errno 13] Permission denied). Restore it from a copy"
    with pytest.raises(WeightsError, match=re.escape(message)):
        load_trained(path, MODEL, RUN)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_test_loss_that_is_not_finite_is_refused(loss: float, path: Path, corpus: Corpus) -> None:
    save_weights(path, sharp_model(), corpus, run_id=RUN, test_loss=loss, code=CODE)
    with pytest.raises(WeightsError, match=rf"safetensors gives {loss} as its test loss, which no"):
        load_trained(path, MODEL, RUN)


@pytest.mark.parametrize("token", [-1, MODEL.vocab_size])
def test_an_end_of_document_token_outside_the_vocabulary_is_refused(
    token: int, path: Path, corpus: Corpus
) -> None:
    manifest = dataclasses.replace(corpus.manifest, eod_id=token)
    other = dataclasses.replace(corpus, manifest=manifest)
    save_weights(path, sharp_model(), other, run_id=RUN, test_loss=1.0, code=CODE)
    message = f"gives {token} as the end-of-document token, but the run's vocabulary is 0 to 299"
    with pytest.raises(WeightsError, match=message):
        load_trained(path, MODEL, RUN)


def test_a_header_whose_size_looks_like_a_pickle_is_read(path: Path) -> None:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    size = 0x10000 + 0x0480  # begins with 80 04, as a pickle of protocol 4 does
    path.write_bytes(size.to_bytes(8, "little") + data[8:end].ljust(size) + data[end:])
    assert load_trained(path, MODEL, RUN).origin.run_id == RUN


def test_a_file_under_another_name_is_refused(path: Path) -> None:
    with pytest.raises(WeightsError, match=f"holds the weights of run {RUN}, not of 0123"):
        load_trained(path, MODEL, "0123")


def test_the_run_is_named_before_the_shapes_of_its_model(path: Path) -> None:
    wider = dataclasses.replace(MODEL, vocab_size=MODEL.vocab_size + 1)
    with pytest.raises(WeightsError, match=f"holds the weights of run {RUN}, not of 0123"):
        load_trained(path, wider, "0123")


def test_a_deeper_model_does_not_take_the_weights_of_a_shallower_one(path: Path) -> None:
    deeper = ModelConfig(
        num_layers=3, d_model=32, d_ff=48, num_heads=4, vocab_size=MODEL.vocab_size, seq_len=32
    )
    with pytest.raises(WeightsError, match=r"lacks \['blocks\.2\.attention\.k_proj\.weight'"):
        load_trained(path, deeper, RUN)
