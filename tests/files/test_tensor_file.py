"""Safetensors streams: the library's format, and nothing else is read."""

import hashlib
import io
import json

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from optbench.files.tensor_file import (
    StreamFacts,
    TensorFileError,
    TensorSpec,
    TensorStream,
    is_pickle,
    write_tensors,
)

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int8)


def facts_of(data: bytes) -> StreamFacts:
    return StreamFacts(len(data), hashlib.sha256(data).hexdigest())


def some() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tensors = {f"{dtype}": torch.randn(3, 5).mul(50).to(dtype) for dtype in DTYPES}
    return {
        **tensors,
        "flags": torch.tensor([True, False, True]),
        "bytes": torch.arange(7, dtype=torch.uint8),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "turned": torch.arange(6.0).view(2, 3).T,
        "ü/x y": torch.tensor([float("nan"), float("inf"), -0.0]),
    }


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    def raw(tensor: torch.Tensor) -> bytes:
        return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())

    return (one.dtype, one.shape, raw(one)) == (other.dtype, other.shape, raw(other))


def written() -> bytes:
    file = io.BytesIO()
    facts = write_tensors(file, some())
    assert facts == facts_of(file.getvalue())
    return file.getvalue()


def test_what_is_written_is_what_the_library_reads_and_the_other_way_round() -> None:
    library = safetensors.torch.load(written())
    assert library.keys() == some().keys()
    assert all(same(library[name], tensor) for name, tensor in some().items())
    theirs = safetensors.torch.save({n: t.contiguous() for n, t in some().items()}, {"k": "v"})
    ours = TensorStream(io.BytesIO(theirs), facts_of(theirs)).read(set(some()))
    assert all(same(ours[name], tensor) for name, tensor in some().items())


def test_only_what_is_wanted_is_read_and_everything_is_checked() -> None:
    data = written()
    stream = TensorStream(io.BytesIO(data), facts_of(data))
    assert stream.specs == {name: TensorSpec.of(tensor) for name, tensor in some().items()}
    assert stream.read({"scalar"}) == {"scalar": torch.tensor(2.5)}
    for at in range(0, len(data), 97):
        bad = bytearray(data)
        bad[at] ^= 4
        with pytest.raises(TensorFileError):
            TensorStream(io.BytesIO(bytes(bad)), facts_of(data)).read({"scalar"})


@given(st.integers(0, 2000))
def test_a_stream_that_ends_early_or_goes_on_is_refused(length: int) -> None:
    data = written()
    if length < len(data):
        with pytest.raises(TensorFileError, match=f"was cut short: {len(data):,} bytes"):
            TensorStream(io.BytesIO(data[:length]), facts_of(data)).read(set())
    with pytest.raises(TensorFileError, match=f"goes on after its {len(data):,} bytes"):
        TensorStream(io.BytesIO(data + b"x"), facts_of(data)).read(set())


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_with_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(TensorFileError):
        TensorStream(io.BytesIO(data), facts_of(data))


json_values = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
)


@given(json_values, st.fixed_dictionaries({"dtype": json_values, "shape": json_values}))
def test_any_header_is_refused_with_an_error_of_ours(
    header: object, entry: dict[str, object]
) -> None:
    for found in (header, {"a": {**entry, "data_offsets": [0, 8]}}):
        text = json.dumps(found).encode()
        data = len(text).to_bytes(8, "little") + text + bytes(8)
        with pytest.raises(TensorFileError):
            TensorStream(io.BytesIO(data), facts_of(data))


def test_sizes_that_overflow_are_refused() -> None:
    entry = {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 2**66]}
    text = json.dumps({"a": entry}).encode()
    data = len(text).to_bytes(8, "little") + text
    with pytest.raises(TensorFileError, match=f"the size or offset {2**66}"):
        TensorStream(io.BytesIO(data), facts_of(data))


def test_a_type_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(
        TensorFileError, match=r"'z' is complex64 of shape \(2,\), which safetensors"
    ):
        write_tensors(io.BytesIO(), {"z": torch.zeros(2, dtype=torch.complex64)})


def test_a_header_whose_length_begins_like_a_pickle_is_none() -> None:
    assert is_pickle(b"\x80\x04\x95\x00\x00\x00\x00\x00\x00")
    assert is_pickle(b"PK\x03\x04")
    assert not is_pickle(b"\x80\x04\x00\x00\x00\x00\x00\x00{")
