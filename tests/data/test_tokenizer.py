from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from optbench.data.corpus import DataError
from optbench.data.tokenizer import (
    END_OF_DOCUMENT,
    encode_documents,
    end_of_document_id,
    load_tokenizer,
    train_tokenizer,
)
from tests.data.synthetic import documents

TEXTS = [document.text for document in documents("prose")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 300)


@given(text=st.text())
def test_any_text_comes_back_from_its_tokens(tokenizer: Tokenizer, text: str) -> None:
    tokens = encode_documents(tokenizer, [text])
    assert tokenizer.decode(tokens[:-1].tolist(), skip_special_tokens=False) == text


def test_every_document_ends_with_the_end_token_and_nothing_else_is_it(
    tokenizer: Tokenizer,
) -> None:
    eod = end_of_document_id(tokenizer)
    one, two = (encode_documents(tokenizer, [text]) for text in ("bako", "mire ta"))
    both = encode_documents(tokenizer, ["bako", "mire ta"])
    assert both.tolist() == [*one.tolist(), *two.tolist()]
    assert np.flatnonzero(both == eod).tolist() == [len(one) - 1, len(both) - 1]


def test_text_that_spells_the_end_token_does_not_end_the_document(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = f"before {END_OF_DOCUMENT} after"
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for candidate in (tokenizer, load_tokenizer(tmp_path / "tokenizer.json")):
        tokens = encode_documents(candidate, [text])
        assert np.flatnonzero(tokens == end_of_document_id(candidate)).tolist() == [len(tokens) - 1]
        assert candidate.decode(tokens[:-1].tolist(), skip_special_tokens=False) == text


def test_tokens_are_little_endian_sixteen_bit(tokenizer: Tokenizer) -> None:
    assert encode_documents(tokenizer, ["bako"]).dtype.str == "<u2"
    assert encode_documents(tokenizer, []).dtype.str == "<u2"


def test_training_twice_gives_the_same_file(tokenizer: Tokenizer) -> None:
    assert train_tokenizer(TEXTS, 300).to_str() == tokenizer.to_str()


def test_the_vocabulary_has_exactly_the_size_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == 300
    assert max(tokenizer.get_vocab().values()) == 299


def test_learned_tokens_shorten_the_text_they_were_learned_from(tokenizer: Tokenizer) -> None:
    assert len(encode_documents(tokenizer, TEXTS)) < 0.6 * sum(map(len, TEXTS))


@pytest.mark.parametrize("size", [256, 65_537])
def test_impossible_vocabulary_is_refused_with_the_range(size: int) -> None:
    with pytest.raises(DataError, match=rf"between 257 .* and 65536 .*, but got {size}\."):
        train_tokenizer(TEXTS, size)


def test_text_too_small_for_the_vocabulary_is_refused_with_what_it_gives() -> None:
    with pytest.raises(DataError, match=r"of 400: only 258 tokens .* Lower vocab_size to at most"):
        train_tokenizer(["aa"], 400)
    with pytest.raises(DataError, match=r"no text to learn a vocabulary of 400 from\. Are these"):
        train_tokenizer([], 400)
    assert train_tokenizer([], 257).get_vocab_size() == 257
