"""The final weights of a run on disk: a safetensors file and the tokenizer it was trained with.

Nothing is kept unless asked for. What is kept lies in the folder ``weights`` of a store::

    <run_id>.tokenizer.json   as the corpus had it
    <run_id>.safetensors      the parameters under the model's own names; its metadata name which
                              run, which code and which tokenizer, with a checksum of it all

so that a run can be exported and evaluated where its corpus is not. Both files are written beside
and renamed, the weights last: a run whose weights file exists is complete. No pickle is read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import re
import shlex
import shutil
import uuid
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from optbench.config import ModelConfig, UserError
from optbench.data.prepared import AnyCorpus
from optbench.data.tokenizer import load_tokenizer
from optbench.files.durable import replacing
from optbench.files.tensor_file import is_pickle
from optbench.training.model import Llama

FOLDER = "weights"
# The metadata entry with the checksum of all other entries and of the tensors.
_CHECKSUM = "content_sha256"
# A file that is being written, beside its place: that of a weights file or of a tokenizer.
_UNFINISHED_ENDING = r"\.(safetensors|tokenizer\.json)\.[0-9a-f]{32}"
_UNFINISHED = re.compile(rf"\..+{_UNFINISHED_ENDING}")
_MOST_LISTED = 8
_FLAGS = {"True": True, "False": False}


class WeightsError(UserError):
    """Weights that cannot be read or written; the message names the file and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where weights come from, read from their file.

    Args:
        version: of optbench.
        commit: of its source tree, or empty for an installed package.
        dirty: whether that tree had changes that were not committed.
        test_loss: in nats per token, of the very training that left these weights.
        eod_id: id of the token that ends a document.
    """

    run_id: str
    version: str
    commit: str
    dirty: bool
    test_loss: float
    eod_id: int
    tokenizer_sha256: str

    def to_metadata(self) -> dict[str, str]:
        """Texts only, which is what a safetensors header holds."""
        return {name: str(value) for name, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_metadata(cls, raw: Mapping[str, str]) -> Origin:
        """Inverse of :meth:`to_metadata`.

        Raises:
            KeyError: an entry is missing.
            ValueError: a number or a flag is none.
        """
        values: dict[str, Any] = {f.name: raw[f.name] for f in dataclasses.fields(cls)}
        values["test_loss"], values["eod_id"] = float(raw["test_loss"]), int(raw["eod_id"])
        if raw["dirty"] not in _FLAGS:
            raise ValueError(f"dirty is {raw['dirty']!r}")
        values["dirty"] = _FLAGS[raw["dirty"]]
        return cls(**values)


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model with the weights of a run, in evaluation mode, and what turns text into its tokens.

    ``tokenizer_json`` is the file's text; ``tokenizer`` is that file, loaded.
    """

    model: Llama
    tokenizer: Tokenizer
    tokenizer_json: str
    origin: Origin


def weights_file(store: Path, run_id: str) -> Path:
    """Where the store keeps the weights of a run."""
    return store / FOLDER / f"{run_id}.safetensors"


def tokenizer_file(weights: Path) -> Path:
    """The tokenizer beside a weights file."""
    return weights.with_suffix(".tokenizer.json")


def save_weights(
    path: Path,
    model: Llama,
    corpus: AnyCorpus,
    *,
    run_id: str,
    test_loss: float,
    code: Mapping[str, Any],
) -> None:
    """Write the parameters of ``model`` and the corpus's tokenizer, or leave no weights file.

    Args:
        code: ``optbench`` (its version), ``commit`` and ``dirty``, as a record's environment has
            them.

    Raises:
        WeightsError: the folder cannot be written.
    """
    origin = Origin(
        run_id=run_id,
        version=str(code["optbench"]),
        commit=code["commit"] or "",
        dirty=bool(code["dirty"]),
        test_loss=test_loss,
        eod_id=corpus.manifest.eod_id,
        tokenizer_sha256=corpus.manifest.tokenizer_sha256,
    )
    parameters = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    metadata = {"format": "pt", **origin.to_metadata()}
    metadata[_CHECKSUM] = _content_sha256(parameters, metadata)
    _make_room(path)
    with _written(tokenizer_file(path)) as draft:
        shutil.copyfile(corpus.tokenizer_path, draft)
    with _written(path) as draft:
        save_file(parameters, draft, metadata)
        # Safetensors lets nobody else read what it writes.
        shutil.copymode(tokenizer_file(path), draft)


def make_folder(path: Path) -> None:
    """Make the folder of a weights file, and clear it of files that a killed write left there.

    For the one process that may write to the store, before any run begins: the files in the making
    of runs that are going on would be taken for such leftovers.

    Raises:
        WeightsError: it cannot be made or written to; better known before the training than after.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{uuid.uuid4().hex}")
        probe.touch()
        probe.unlink()
        for file in path.parent.iterdir():
            if _UNFINISHED.fullmatch(file.name):
                file.unlink()
    except OSError as error:
        raise _not_written(path, error) from error


def _make_room(path: Path) -> None:
    """As :func:`make_folder`, while other runs may be writing their own weights there."""
    own = re.compile(rf"\.{re.escape(path.stem)}{_UNFINISHED_ENDING}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for file in path.parent.iterdir():
            if own.fullmatch(file.name):
                file.unlink()
    except OSError as error:
        raise _not_written(path, error) from error


def load_trained(path: Path, config: ModelConfig, run_id: str) -> TrainedModel:
    """Read the weights of a run into its model, on the CPU.

    Args:
        path: from :func:`weights_file`.
        config: the sizes in the run's configuration.

    Raises:
        WeightsError: no such file; a folder; not readable; not safetensors; cut short; of another
            run; tensors missing, unknown, of another shape or type; a test loss that is not finite;
            an end-of-document token outside the vocabulary; another content than was written;
            another tokenizer.
    """
    if not path.exists():
        raise _not_kept(path, run_id)
    model = Llama(config, seed=0)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    origin, tensors = _read(path, run_id, shapes)
    _check_range(path, origin, config.vocab_size)
    model.load_state_dict(tensors)
    with _reading(tokenizer_file(path)):
        text = _tokenizer_text(tokenizer_file(path), origin)
        return TrainedModel(model.eval(), load_tokenizer(tokenizer_file(path)), text, origin)


def kept_runs(store: Path) -> list[str]:
    """Ids of the runs whose weights a store has."""
    return sorted(path.stem for path in (store / FOLDER).glob("[!.]*.safetensors"))


def how_to_keep(run: str, store: Path) -> str:
    """The commands that train a run of a store again for its weights."""
    return (
        f"optbench show {run} --store {shlex.quote(str(store))} --config > run.json; "
        f"optbench train run.json --store {shlex.quote(str(store))} --keep-weights"
    )


def _not_kept(path: Path, run_id: str) -> WeightsError:
    store = path.parent.parent
    others = [run[:10] for run in kept_runs(store)]
    shown = ", ".join(others[:_MOST_LISTED]) + (", …" if len(others) > _MOST_LISTED else "")
    there = f"with weights there: {shown}" if others else "no run there has its weights"
    return WeightsError(
        f"The weights of run {run_id} were not kept (no {path}; {there}). Train it again for them: "
        f"{how_to_keep(run_id, store)}"
    )


def _read(
    path: Path, run_id: str, shapes: Mapping[str, torch.Size]
) -> tuple[Origin, dict[str, Tensor]]:
    """The metadata and the float32 tensors of these names and shapes, no other."""
    with _reading(path):
        _refuse_pickle(path)
        with safetensors.safe_open(path, framework="pt") as opened:
            metadata: dict[str, str] = opened.metadata() or {}
            origin = _origin(path, metadata)
            # First, because another run's model often has other shapes.
            if origin.run_id != run_id:
                raise WeightsError(
                    f"{path} holds the weights of run {origin.run_id}, not of {run_id}. Give the "
                    f"file its own name back."
                )
            _check_names(path, set(opened.keys()), set(shapes))
            tensors = {name: opened.get_tensor(name) for name in shapes}
    for name, tensor in tensors.items():
        if (tensor.shape, tensor.dtype) != (shapes[name], torch.float32):
            raise WeightsError(
                f"{path}: '{name}' has shape {tuple(tensor.shape)} and type {tensor.dtype}, but "
                f"the run's model has {tuple(shapes[name])} and torch.float32. {_remedy()}"
            )
    if _content_sha256(tensors, metadata) != metadata[_CHECKSUM]:
        raise WeightsError(
            f"{path} has been changed since it was written (its content has another checksum than "
            f"its metadata have). {_remedy()}"
        )
    return origin, tensors


@contextlib.contextmanager
def _reading(path: Path) -> Generator[None]:
    """Name the file that cannot be read, and the remedy."""
    try:
        if path.exists() and not path.is_file():
            raise WeightsError(f"{path} is a folder or a device, not a file. {_remedy()}")
        yield
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error}). {_remedy()}") from error
    except safetensors.SafetensorError as error:
        raise WeightsError(
            f"{path} is no complete safetensors file ({error}). {_remedy()}"
        ) from error


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(9)
    if is_pickle(start):
        raise WeightsError(
            f"{path} is a pickle (as torch.save writes), which can run code when it is read and is "
            f"never read here. {_remedy()}"
        )


def _content_sha256(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 over the metadata but the checksum, then each tensor's name, type, shape, bytes."""
    signed = sorted((key, value) for key, value in metadata.items() if key != _CHECKSUM)
    digest = hashlib.sha256(json.dumps(signed).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().numpy().data.cast("B"))
    return digest.hexdigest()


def _check_range(path: Path, origin: Origin, vocab_size: int) -> None:
    """A checksum shows that a file is as it was written, not that it was written well."""
    if not math.isfinite(origin.test_loss):
        raise WeightsError(
            f"{path} gives {origin.test_loss} as its test loss, which no completed run has. "
            f"{_remedy()}"
        )
    if not 0 <= origin.eod_id < vocab_size:
        raise WeightsError(
            f"{path} gives {origin.eod_id} as the end-of-document token, but the run's vocabulary "
            f"is 0 to {vocab_size - 1}. {_remedy()}"
        )


def _origin(path: Path, metadata: Mapping[str, str]) -> Origin:
    try:
        origin = Origin.from_metadata(metadata)
        _ = metadata[_CHECKSUM]
    except (KeyError, ValueError) as error:
        raise WeightsError(
            f"{path} does not name its run ({type(error).__name__}: {error} in its "
            f"metadata). It was not written by 'optbench train --keep-weights' of this version. "
            f"{_remedy()}"
        ) from None
    return origin


def _check_names(path: Path, found: set[str], expected: set[str]) -> None:
    problems = [
        f"{what} {sorted(names)}"
        for what, names in (("lacks", expected - found), ("has the unknown", found - expected))
        if names
    ]
    if problems:
        raise WeightsError(f"{path} {' and '.join(problems)}. {_remedy()}")


def _tokenizer_text(path: Path, origin: Origin) -> str:
    if not path.exists():
        raise WeightsError(f"The tokenizer {path} is missing beside its weights. {_remedy()}")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != origin.tokenizer_sha256:
        raise WeightsError(
            f"{path} is not the tokenizer that its run was trained with (another checksum). "
            f"{_remedy()}"
        )
    return data.decode()


def _remedy() -> str:
    return "Restore it from a copy, or train the run again with --keep-weights."


@contextlib.contextmanager
def _written(path: Path) -> Generator[Path]:
    """As :func:`~optbench.files.durable.replacing`, with this module's error."""
    try:
        with replacing(path) as draft:
            yield draft
    except (OSError, safetensors.SafetensorError) as error:
        raise _not_written(path, error) from error


def _not_written(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path} could not be written ({error}). Free some space or choose another --store."
    )
