"""The manifest of a checkpoint: its files with size and SHA-256, and all that is not a tensor."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optbench.config import UserError
from optbench.files.tensor_file import StreamFacts, is_pickle

SCHEMA_VERSION = 1
MANIFEST = "checkpoint.json"
_CHECKSUM = "content_sha256"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message names the file and what is wrong with it."""


class NewerSchemaError(CheckpointError):
    """A checkpoint of a newer optbench, with which nothing need be wrong."""


@dataclass(frozen=True, slots=True)
class CheckpointManifest:
    """The content of ``checkpoint.json``.

    Args:
        step: steps that had been taken.
        files: size and checksum of each rank's file, in rank order.
        facts: what each rank keeps besides its tensors, in rank order; plain JSON.
    """

    run_id: str
    step: int
    files: tuple[StreamFacts, ...]
    facts: tuple[dict[str, Any], ...]

    @property
    def num_ranks(self) -> int:
        """Processes that trained the run together."""
        return len(self.files)

    def to_json(self) -> bytes:
        """The file, with a checksum of its own content."""
        content: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "run_id": self.run_id,
            "step": self.step,
            "num_ranks": self.num_ranks,
            "files": [
                {"name": rank_file(rank, self.num_ranks), **dataclasses.asdict(file)}
                for rank, file in enumerate(self.files)
            ],
            "facts": list(self.facts),
        }
        return json.dumps({_CHECKSUM: _sha256(content), **content}).encode()

    @classmethod
    def from_json(cls, data: bytes, run_id: str, step: int) -> CheckpointManifest:
        """Inverse of :meth:`to_json`.

        Raises:
            NewerSchemaError: a schema that is not known yet.
            CheckpointError: a pickle, no JSON, another run or step, changed.
        """
        raw = _json_object(data)
        schema = raw.get("schema")
        if type(schema) is not int or schema < 1:
            raise CheckpointError(f"{MANIFEST} has no schema number, but {schema!r}.")
        if schema > SCHEMA_VERSION:
            raise NewerSchemaError(
                f"{MANIFEST} has schema {schema}, but this version of optbench reads up to "
                f"{SCHEMA_VERSION}. Install a newer optbench to go on from it."
            )
        content = {name: value for name, value in raw.items() if name != _CHECKSUM}
        if raw.get(_CHECKSUM) != _sha256(content):
            raise CheckpointError(
                f"{MANIFEST} has been changed since it was written (its content has another "
                f"checksum than it says)."
            )
        if (raw.get("run_id"), raw.get("step")) != (run_id, step):
            raise CheckpointError(
                f"{MANIFEST} is of step {raw.get('step')} of run {raw.get('run_id')}, but lies "
                f"where step {step} of run {run_id} belongs."
            )
        return cls(run_id, step, _files(raw), _facts(raw))


def _json_object(data: bytes) -> dict[str, Any]:
    if is_pickle(data[:9]):
        raise CheckpointError(
            f"{MANIFEST} is a pickle, which can run code when it is read and is never read here."
        )
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{MANIFEST} is no JSON ({type(error).__name__}: {error}).") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{MANIFEST} is no JSON object.")
    return raw


def _files(raw: Mapping[str, Any]) -> tuple[StreamFacts, ...]:
    entries, num_ranks = raw.get("files"), raw.get("num_ranks")
    if not isinstance(entries, list) or not entries or len(entries) != num_ranks:
        raise CheckpointError(f"{MANIFEST} must list one file for each of {num_ranks!r} ranks.")
    files: list[StreamFacts] = []
    for rank, entry in enumerate(entries):
        # Other names, such as paths out of the folder, are never followed.
        expected = rank_file(rank, len(entries))
        if not isinstance(entry, dict) or entry.get("name") != expected:
            raise CheckpointError(f"{MANIFEST} must list '{expected}', but lists {entry!r:.200}.")
        size, sha256 = entry.get("size"), entry.get("sha256")
        if type(size) is not int or size < 0:
            raise CheckpointError(f"{MANIFEST} gives '{expected}' the size {size!r:.200}.")
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise CheckpointError(f"{MANIFEST} gives '{expected}' the SHA-256 {sha256!r:.200}.")
        files.append(StreamFacts(size, sha256))
    return tuple(files)


def _facts(raw: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    facts = raw.get("facts")
    if not isinstance(facts, list) or len(facts) != raw["num_ranks"]:
        raise CheckpointError(f"{MANIFEST} must have 'facts' of each of its ranks.")
    if not all(isinstance(entry, dict) for entry in facts):
        raise CheckpointError(f"{MANIFEST} has 'facts' of a rank that are no JSON object.")
    return tuple(facts)


def _sha256(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def rank_file(rank: int, num_ranks: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank}-of-{num_ranks}.safetensors"
