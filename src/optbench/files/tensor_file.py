"""Safetensors streams: named tensors written and read in one pass, checked before anything is read.

The format is that of https://github.com/huggingface/safetensors: eight bytes with the length of a
JSON header, the header (name → dtype, shape, offsets), then the tensors end to end. The library
reads and writes files on a local disk or whole in memory; here the same bytes go through any stream
and are hashed as they pass, so that neither a second copy nor a second reading is needed.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from optbench.config import UserError

MAX_HEADER_BYTES = 100_000_000  # the library's own limit
_LENGTH_BYTES = 8
_BLOCK_BYTES = 2**23
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# What torch.save has written since 1.6 and before, and what pickle.dump writes.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class TensorFileError(UserError):
    """A stream that is not what it should be; the message ends a sentence that names the file."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Type and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> TensorSpec:
        """That of a tensor."""
        return cls(tensor.dtype, tuple(tensor.shape))

    @property
    def num_bytes(self) -> int:
        """Bytes of the elements."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} of shape {self.shape}"


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What identifies the bytes of a stream: how many they are, and their SHA-256 in hex."""

    size: int
    sha256: str


def is_pickle(start: bytes) -> bool:
    """Whether a file that starts with these nine bytes or more is a pickle, as torch.save writes.

    The length of a safetensors header can be the bytes that begin a pickle; then comes its JSON.
    """
    return start.startswith(_PICKLES) and start[_LENGTH_BYTES : _LENGTH_BYTES + 1] != b"{"


def write_tensors(file: IO[bytes], tensors: Mapping[str, Tensor]) -> StreamFacts:
    """Write tensors that lie on the CPU.

    Raises:
        TensorFileError: a tensor of a type that the format does not know.
        OSError: the disk refuses.
    """
    digest, size = hashlib.sha256(), 0
    # The widest first, as the library does: each tensor then starts at a multiple of its width.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0]))
    for part in (_header({name: TensorSpec.of(t) for name, t in ordered}), *_parts(ordered)):
        digest.update(part)
        file.write(part)
        size += len(part)
    return StreamFacts(size, digest.hexdigest())


def _header(specs: Mapping[str, TensorSpec]) -> bytes:
    entries: dict[str, Any] = {}
    offset = 0
    for name, spec in specs.items():
        if spec.dtype not in _NAMES:
            raise TensorFileError(
                f"'{name}' is {spec}, which safetensors cannot hold; it holds {', '.join(_DTYPES)}."
            )
        entries[name] = {
            "dtype": _NAMES[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.num_bytes],
        }
        offset += spec.num_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _parts(tensors: list[tuple[str, Tensor]]) -> list[memoryview]:
    whole = (_bytes_of(tensor.contiguous()) for _, tensor in tensors)
    return [
        view[start : start + _BLOCK_BYTES]
        for view in whole
        for start in range(0, len(view), _BLOCK_BYTES)
    ]


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    if not tensor.numel():
        return memoryview(b"")
    return tensor.reshape(-1).view(torch.uint8).numpy().data


class TensorStream:
    """A stream whose header has been read and found consistent, and none of its tensors yet.

    Args:
        file: at its start.
        facts: size and checksum that the stream must have; `read` holds it to them.

    Raises:
        TensorFileError: a pickle; a header that is no header, or of an absurd length; types that do
            not exist; shapes, offsets and sizes that contradict each other or the stream's size.
        OSError: it cannot be read.
    """

    def __init__(self, file: IO[bytes], facts: StreamFacts) -> None:
        self._file, self._facts = file, facts
        self._digest = hashlib.sha256()
        start = self._take(min(_LENGTH_BYTES + 1, facts.size))
        if is_pickle(start):
            raise TensorFileError(
                "is a pickle (as torch.save writes), which can run code when it is read and is "
                "never read here."
            )
        length = int.from_bytes(start[:_LENGTH_BYTES], "little")
        if length > min(MAX_HEADER_BYTES, facts.size - _LENGTH_BYTES) or length < len(b"{}"):
            raise TensorFileError(
                f"has a header of {length:,} bytes by its own account, but {facts.size:,} bytes "
                f"in all; a header has {len(b'{}')} to {MAX_HEADER_BYTES:,}."
            )
        text = start[_LENGTH_BYTES:] + self._take(length - 1)
        self._entries = _parse(text, facts.size - _LENGTH_BYTES - length)

    @property
    def specs(self) -> dict[str, TensorSpec]:
        """Type and shape of every tensor in it."""
        return dict(self._entries)

    def read(self, wanted: Collection[str]) -> dict[str, Tensor]:
        """The tensors of these names, on the CPU; only they are given memory.

        Raises:
            TensorFileError: the stream ends early, goes on past its end or has another checksum.
            OSError: it cannot be read.
        """
        tensors: dict[str, Tensor] = {}
        for name, spec in self._entries.items():
            if name in wanted:
                tensors[name] = torch.empty(spec.shape, dtype=spec.dtype)
                self._fill(_bytes_of(tensors[name]))
            else:
                self._pass_over(spec.num_bytes)
        if self._file.read(1):
            raise TensorFileError(f"goes on after its {self._facts.size:,} bytes.")
        if self._digest.hexdigest() != self._facts.sha256:
            raise TensorFileError(
                f"has been changed since it was written: its SHA-256 is "
                f"{self._digest.hexdigest()}, not {self._facts.sha256}."
            )
        return tensors

    def _fill(self, memory: memoryview) -> None:
        for start in range(0, len(memory), _BLOCK_BYTES):
            part = memory[start : start + _BLOCK_BYTES]
            part[:] = self._take(len(part))

    def _pass_over(self, count: int) -> None:
        for start in range(0, count, _BLOCK_BYTES):
            self._take(min(_BLOCK_BYTES, count - start))

    def _take(self, count: int) -> bytes:
        """Exactly so many bytes."""
        data = b""
        while len(data) < count:
            more = self._file.read(count - len(data))
            if not more:
                raise TensorFileError(f"was cut short: {self._facts.size:,} bytes are expected.")
            data += more
        self._digest.update(data)
        return data


def _parse(text: bytes, num_bytes: int) -> dict[str, TensorSpec]:
    """The entries of a header in the order of their bytes, which must fill ``num_bytes``."""
    try:
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise TypeError("it is not an object")
        raw.pop("__metadata__", None)
        found = sorted((_entry(name, entry) for name, entry in raw.items()), key=lambda e: e[:2])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TensorFileError(
            f"is no safetensors file: its header cannot be read ({type(error).__name__}: {error})."
        ) from None
    end = 0
    for start, stop, name, spec in found:
        if stop - start != spec.num_bytes:
            raise TensorFileError(
                f"contradicts itself: '{name}' is {spec}, which is {spec.num_bytes:,} bytes, but "
                f"its offsets are {start:,} to {stop:,}."
            )
        if start != end:
            raise TensorFileError(
                f"contradicts itself: '{name}' starts at byte {start:,}, but the tensor before it "
                f"ends at {end:,}; tensors neither overlap nor leave gaps."
            )
        end = stop
    if end != num_bytes:
        raise TensorFileError(
            f"contradicts itself: its tensors take {end:,} bytes, but {num_bytes:,} follow the "
            f"header."
        )
    return {name: spec for _, _, name, spec in found}


def _entry(name: str, entry: Any) -> tuple[int, int, str, TensorSpec]:
    start, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    for number in (start, stop, *shape):
        if type(number) is not int or not 0 <= number < 2**63:
            raise TypeError(f"'{name}' has the size or offset {number!r}")
    return start, stop, name, TensorSpec(_DTYPES[entry["dtype"]], shape)
