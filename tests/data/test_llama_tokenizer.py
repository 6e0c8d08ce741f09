from __future__ import annotations

import base64
import importlib.util
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from optbench.data.corpus import DataError
from optbench.data.llama_tokenizer import (
    END_OF_TEXT,
    PIECES,
    llama3_file,
    llama3_tokenizer,
    read_ranks,
)
from optbench.data.tokenizer import load_tokenizer, train_tokenizer
from tests.data.folders import texts

SAMPLES = [
    "Hello world, it's 12345678 o'clock; they'LL see.",
    "  two  spaces\n\n\tand tabs \r\n end ",
    "def f(x):\n    return x**2  # café, naïve",
    "日本語のテキスト, 한국어, العربية, 👩‍👩‍👧 e\u0301",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "<|end_of_text|> is text here, and <|begin_of_text|> too",
    "",
]


def random_texts(count: int) -> list[str]:
    rng = random.Random(0)
    ranges = [(32, 127), (0x80, 0x3000), (0x4E00, 0x9FFF), (0x1F300, 0x1F700), (9, 14), (32, 33)]
    drawn = (rng.choices(ranges, k=60) for _ in range(count))
    return ["".join(chr(rng.randrange(*bounds)) for bounds in line) for line in drawn]


def rank_file(path: Path, tokens: list[bytes]) -> Path:
    lines = [f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(tokens)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """256 bytes and 300 longer tokens, learned from made-up text."""
    trained = train_tokenizer([*texts("ranks", 300), "def f(x):\n    return x\n" * 9], 557)
    by_id = sorted((i, token) for token, i in trained.get_vocab().items())
    learned = [trained.decoder.decode([t]).encode() for _, t in by_id[257:]]
    return rank_file(
        tmp_path_factory.mktemp("ranks") / "tokenizer.model",
        [*(bytes([byte]) for byte in range(256)), *learned],
    )


def reference_ids(path: Path, samples: list[str]) -> list[list[int]]:
    tiktoken = pytest.importorskip("tiktoken")
    encoding = tiktoken.Encoding(
        "ours", pat_str=PIECES, mergeable_ranks=read_ranks(path), special_tokens={}
    )
    return [encoding.encode_ordinary(text) for text in samples]


def our_ids(path: Path, samples: list[str], tmp_path: Path) -> list[list[int]]:
    """Through the file of a prepared corpus."""
    llama3_tokenizer(path).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json")
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in samples]


def test_ids_are_those_of_tiktoken(small_file: Path, tmp_path: Path) -> None:
    samples = [*SAMPLES, *random_texts(100), *texts("other", 50)]
    assert our_ids(small_file, samples, tmp_path) == reference_ids(small_file, samples)


def test_the_special_tokens_follow_the_ranks(small_file: Path) -> None:
    tokenizer = llama3_tokenizer(small_file)
    base = len(read_ranks(small_file))
    assert tokenizer.get_vocab_size(with_added_tokens=True) == base + 256
    assert tokenizer.token_to_id(END_OF_TEXT) == base + 1
    assert tokenizer.token_to_id("<|reserved_special_token_245|>") == base + 255


@pytest.mark.skipif(
    importlib.util.find_spec("llama_models") is None, reason="llama-models is not installed"
)
def test_the_published_tokenizer_has_its_published_ids(tmp_path: Path) -> None:
    path = llama3_file()
    assert llama3_tokenizer(path).get_vocab_size(with_added_tokens=True) == 128_256
    samples = [*SAMPLES, *random_texts(50), *texts("other", 20)]
    found = our_ids(path, samples, tmp_path)
    assert found == reference_ids(path, samples)
    ids = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).token_to_id
    assert [ids(name) for name in ("<|begin_of_text|>", END_OF_TEXT)] == [128_000, 128_001]


def test_a_missing_package_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install --no-deps llama-models"):
        llama3_file()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"not base64! 0\n", "is no tokenizer in tiktoken format"),
        (b"QQ==\n", "is no tokenizer in tiktoken format"),
        (b"QQ== 0\nQg== 2\n", "is damaged: its 2 ranks do not count up from 0"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(contents)
    with pytest.raises(DataError, match=message):
        read_ranks(path)


def test_a_file_without_some_byte_is_refused(tmp_path: Path) -> None:
    tokens = [*(bytes([byte]) for byte in range(255)), b"ab"]
    with pytest.raises(DataError, match="lacks tokens for some single bytes"):
        read_ranks(rank_file(tmp_path / "tokenizer.model", tokens))
