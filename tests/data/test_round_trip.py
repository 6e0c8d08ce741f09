"""Every byte of every document is in the corpus, or an error says what is not."""

from __future__ import annotations

import bz2
import codecs
import gzip
import itertools
import json
import lzma
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from optbench.data.corpus import DataError
from optbench.data.document_shards import TOKEN_DTYPES, MixtureManifest
from optbench.data.kept_mixture import kept_mixture
from optbench.data.preparation import prepare_mixture
from optbench.data.recipe_file import read_recipe
from optbench.data.tokenizer import END_OF_DOCUMENT, load_tokenizer, train_tokenizer
from tests.data.folders import texts, write

Change = Callable[[Any], None]
RECIPE = """
name = "r"
{tokenizer}
[[sources]]
name = "s"
separator = "{separator}"
files = ["{files}"]
[validation]
files = ["held.jsonl"]
[test]
files = ["test.jsonl"]
"""
LINES = texts("round trip", 30)


def prepare(
    folder: Path, files: str, tokenizer: str, separator: str = "", workers: int = 1
) -> MixtureManifest:
    for name in ("held", "test"):
        write(folder / f"{name}.jsonl", json.dumps({"text": "held out"}).encode())
    text = RECIPE.format(files=files, tokenizer=tokenizer, separator=separator)
    return prepare_mixture(read_recipe(text, folder), folder / "cache", workers=workers)


def documents_of(folder: Path, manifest: MixtureManifest) -> list[str]:
    """The training documents as the shards hold them, decoded."""
    corpus = folder / f"cache/r-v{manifest.vocab_size}"
    tokenizer = load_tokenizer(corpus / "tokenizer.json")
    found: list[str] = []
    for shard in manifest.shards_of("train", "s"):
        tokens = np.fromfile(corpus / f"{shard.name}.bin", TOKEN_DTYPES[manifest.token_type])
        starts = np.fromfile(corpus / f"{shard.name}.idx", "<u8").astype(int)
        for start, stop in itertools.pairwise(starts):
            assert tokens[stop - 1] == manifest.eod_id
            ids = tokens[start : stop - 1].tolist()
            found.append(tokenizer.decode(ids, skip_special_tokens=False))
    return found


def as_jsonl(documents: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in documents).encode()


def as_unescaped_jsonl(documents: list[str]) -> bytes:
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in documents)
    return "\r\n".join(lines).encode()


def as_parquet(documents: list[str]) -> bytes:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": documents}), sink, row_group_size=3)
    return sink.getvalue().to_pybytes()


SEPARATOR = "<|sep|>"
FORMS: dict[str, Callable[[list[str]], bytes]] = {
    "a.jsonl": as_jsonl,
    "b.jsonl": as_unescaped_jsonl,
    "c.jsonl": lambda d: codecs.BOM_UTF8 + as_unescaped_jsonl(d),
    "d.jsonl": lambda d: as_unescaped_jsonl(d).decode().encode("utf-16"),
    "e.jsonl.gz": lambda d: gzip.compress(as_jsonl(d[:2])) + gzip.compress(as_jsonl(d[2:])),
    "f.jsonl.bz2": lambda d: bz2.compress(as_jsonl(d)),
    "g.jsonl": lambda d: lzma.compress(as_unescaped_jsonl(d)),
    "h.parquet": as_parquet,
    "i.txt": lambda d: SEPARATOR.join(d).encode(),
}
LETTERS = st.characters(exclude_categories=["Cs"])
DOCUMENTS = st.lists(
    st.text(st.one_of(LETTERS, st.sampled_from(" \n\r\t\0\x85\u2028ﬁ₂éa")), min_size=1)
    .filter(lambda text: text.strip() != "" and not {*"<|sep|>"} & {*text})
    # A mark at the head of a file is that of its encoding.
    .filter(lambda text: not text.startswith("\ufeff")),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(documents=DOCUMENTS, form=st.sampled_from(sorted(FORMS)), given_file=st.booleans())
def test_every_document_comes_back_whole(documents: list[str], form: str, given_file: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / form, FORMS[form](documents))
        tokenizer = "vocab_size = 257"
        if given_file:
            train_tokenizer(LINES, 300).save(str(folder / "given.json"))
            tokenizer = 'tokenizer = "given.json"'
        manifest = prepare(folder, form, tokenizer, SEPARATOR)
        assert sorted(documents_of(folder, manifest)) == sorted(documents)
        (source, _, _) = manifest.provenance
        assert (source.documents_read, source.documents_empty) == (len(documents), 0)
        size = sum(len(text.encode()) for text in documents)
        assert sum(s.text_bytes for s in manifest.shards_of("train", "s")) == size


def plain() -> Any:
    return train_tokenizer(LINES, 300)


def without_bytes(pre_tokenizer: Any, **options: Any) -> Any:
    """As a vocabulary of words or letters, which has some letters and not others."""
    letters = sorted(set("".join(LINES)))
    vocabulary = {letter: i for i, letter in enumerate([END_OF_DOCUMENT, "<unk>", *letters])}
    tokenizer: Any = Tokenizer(models.BPE(vocabulary, [], **options))
    tokenizer.add_special_tokens([END_OF_DOCUMENT])
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def truncate(tokenizer: Any) -> None:
    tokenizer.enable_truncation(5)


def pad(tokenizer: Any) -> None:
    tokenizer.enable_padding(length=64)


def drop(tokenizer: Any) -> None:
    tokenizer.model.dropout = 0.5


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ((truncate,), ("truncation",)),
        ((pad,), ("padding",)),
        ((drop,), ("dropout",)),
        ((drop, pad, truncate), ("truncation", "padding", "dropout")),
    ],
)
def test_what_cuts_fills_or_randomises_documents_is_switched_off(
    changes: tuple[Change, ...], names: tuple[str, ...], tmp_path: Path
) -> None:
    write(tmp_path / "a.jsonl", as_jsonl(LINES))
    tokenizer = plain()
    tokenizer.save(str(tmp_path / "t.json"))
    expected = prepare(tmp_path, "a.jsonl", 'tokenizer = "t.json"')
    shutil.rmtree(tmp_path / "cache")
    for change in changes:
        change(tokenizer)
    tokenizer.save(str(tmp_path / "t.json"))
    manifest = prepare(tmp_path, "a.jsonl", 'tokenizer = "t.json"')
    assert sorted(documents_of(tmp_path, manifest)) == sorted(LINES)
    assert manifest.fingerprint == expected.fingerprint
    assert (expected.tokenizer_switched_off, manifest.tokenizer_switched_off) == ((), names)
    recipe = read_recipe(
        RECIPE.format(files="a.jsonl", tokenizer='tokenizer = "t.json"', separator=""), tmp_path
    )
    assert kept_mixture(recipe, tmp_path / "cache") == manifest


def lower(tokenizer: Any) -> None:
    tokenizer.normalizer = normalizers.Lowercase()


def nfkc(tokenizer: Any) -> None:
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC()])


def strip(tokenizer: Any) -> None:
    tokenizer.normalizer = normalizers.Strip()


def prefix(tokenizer: Any) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def split_off(tokenizer: Any) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("-", behavior="removed"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


def swallow(tokenizer: Any) -> None:
    tokenizer.add_tokens([AddedToken("bakomi", lstrip=True, rstrip=True)])


def twice(tokenizer: Any) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(single="$A $A", special_tokens=[])


@pytest.mark.parametrize(
    ("change", "document", "message"),
    [
        (lower, "bA", r"character 2, 'A' \(U\+0041 .*gives? 'a'.*`normalizer` \(Lowercase\)"),
        (nfkc, "ba ﬁ", r"character 4, 'ﬁ' \(U\+FB01 .* give 'fi'.*`normalizer` \(NFKC\)"),
        (strip, " ba", r"character 1, ' ' .* `normalizer` \(Strip\)"),
        (strip, "ba\n", r"character 3, '\\n' \(U\+000A\), its tokens give nothing"),
        (prefix, "ba", r"`pre_tokenizer` \(ByteLevel, which puts a space before the text\)"),
        (split_off, "ba-ko", r"'-' .*give 'ko'.*`pre_tokenizer` \(Split, which drops what it"),
        (swallow, "x bakomi y", r"character 2, ' ' .* `added_tokens` \(with lstrip or rstrip"),
        (twice, "ba", r"behind its end its tokens give 'ba' more"),
    ],
)
def test_a_setting_that_loses_text_is_refused_where_it_does(
    change: Change, document: str, message: str, tmp_path: Path
) -> None:
    tokenizer = plain()
    change(tokenizer)
    tokenizer.save(str(tmp_path / "t.json"))
    write(tmp_path / "a.jsonl", as_jsonl([document]))
    with pytest.raises(DataError, match=message) as error:
        prepare(tmp_path, "a.jsonl", 'tokenizer = "t.json"')
    assert "source 's': The tokenizer does not keep the whole of the doc" in str(error.value)


@pytest.mark.parametrize("unknown", [None, "<unk>"])
def test_a_vocabulary_without_a_letter_is_refused_where_it_comes(
    unknown: str | None, tmp_path: Path
) -> None:
    tokenizer = without_bytes(pre_tokenizers.Split("~", behavior="isolated"), unk_token=unknown)
    tokenizer.save(str(tmp_path / "t.json"))
    write(tmp_path / "a.jsonl", as_jsonl([*LINES, "ba ☃ ko"]))
    gives = "'<unk> ko'" if unknown else "' ko'"
    with pytest.raises(DataError, match=rf"'☃' \(U\+2603 SNOWMAN\), its .*{gives}.*`model`"):
        prepare(tmp_path, "a.jsonl", 'tokenizer = "t.json"')


@pytest.mark.parametrize("workers", [1, 2])
def test_spaces_that_a_pre_tokenizer_drops_are_refused(workers: int, tmp_path: Path) -> None:
    without_bytes(pre_tokenizers.Whitespace()).save(str(tmp_path / "t.json"))
    write(tmp_path / "a.jsonl", as_jsonl(["ba ko"]))
    with pytest.raises(
        DataError, match=r"character 3, ' ' .*`pre_tokenizer` \(Whitespace, which drops what it"
    ):
        prepare(tmp_path, "a.jsonl", 'tokenizer = "t.json"', workers=workers)


def test_a_byte_level_vocabulary_without_decoder_holds_everything(tmp_path: Path) -> None:
    raw = json.loads(plain().to_str())
    raw["decoder"] = None
    write(tmp_path / "t.json", json.dumps(raw, indent=1).encode("utf-16"))
    write(tmp_path / "a.jsonl", as_jsonl(LINES))
    manifest = prepare(tmp_path, "a.jsonl", 'tokenizer = "t.json"')
    assert sum(s.documents for s in manifest.shards_of("train", "s")) == len(LINES)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"caf\xe9": 1}', r"t\.json, line 1 is not UTF-8: byte 0xe9 at position 5"),
        (b"{}", r"t\.json is no tokenizer\.json"),
        (b"", r"t\.json is no tokenizer\.json"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_one_sentence(
    raw: bytes, message: str, tmp_path: Path
) -> None:
    write(tmp_path / "t.json", raw)
    write(tmp_path / "a.jsonl", as_jsonl(LINES))
    with pytest.raises(Exception, match=message) as error:
        prepare(tmp_path, "a.jsonl", 'tokenizer = "t.json"')
    assert "\n" not in str(error.value)


def test_a_corpus_of_an_earlier_version_that_was_cut_is_refused(tmp_path: Path) -> None:
    tokenizer = plain()
    tokenizer.enable_truncation(5)
    tokenizer.save(str(tmp_path / "t.json"))
    write(tmp_path / "a.jsonl", as_jsonl(LINES))
    prepare(tmp_path, "a.jsonl", 'tokenizer = "t.json"')
    folder = tmp_path / "cache/r-v300"
    (folder / "tokenizer.json").write_bytes((tmp_path / "t.json").read_bytes())
    with pytest.raises(DataError, match="is missing or does not match its checksum"):
        prepare(tmp_path, "a.jsonl", 'tokenizer = "t.json"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "optbench.data.document_shards.sha256_of",
            lambda path: json.loads((folder / "manifest.json").read_text())["tokenizer_sha256"],
        )
        with pytest.raises(DataError, match="earlier version with the truncation of its tokenizer"):
            prepare(tmp_path, "a.jsonl", 'tokenizer = "t.json"')
