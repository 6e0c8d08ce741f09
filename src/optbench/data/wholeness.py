"""Whether tokens hold the whole of a text, and what in a tokenizer may have lost some of it.

Tokens hold a text if it can be had back from them: by the bytes that byte-level tokens stand for,
which costs a fiftieth of encoding, or else by the tokenizer's own decoder. Every document is
checked, because a vocabulary that lacks a letter shows it only where the letter comes.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from optbench.data.llama_tokenizer import byte_letters
from optbench.errors import excerpt

_DROPPING = ("Whitespace", "WhitespaceSplit", "BertPreTokenizer", "CharDelimiterSplit")
_SHOWN = 30


@dataclass(frozen=True, slots=True)
class Wholeness:
    """Checks the tokens of texts; from :func:`wholeness_of`.

    Args:
        token_bytes: what each id stands for if the vocabulary is byte-level.
    """

    tokenizer: Tokenizer
    token_bytes: tuple[bytes, ...]

    def losses(
        self, texts: Sequence[str], ids: Sequence[Sequence[int]]
    ) -> Iterator[tuple[str, str]]:
        """Each text that its tokens do not hold, and what became of it."""
        table = self.token_bytes
        for text, tokens in zip(texts, ids, strict=True):
            if b"".join([table[token] for token in tokens]) == text.encode():
                continue
            decoded = self.tokenizer.decode(list(tokens), skip_special_tokens=False)
            if decoded != text:
                yield text, f"{_first_difference(text, decoded)} {self._suspects()}".strip()

    def _suspects(self) -> str:
        found = list(_suspicious(json.loads(self.tokenizer.to_str())))
        return f"In its file, {', '.join(found)} may do so." if found else ""


def wholeness_of(tokenizer: Tokenizer) -> Wholeness:
    """Prepare the check of what ``tokenizer`` encodes."""
    byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    added = tokenizer.get_added_tokens_decoder()
    for token, index in vocabulary.items():
        spelled = index in added or any(letter not in byte_of for letter in token)
        table[index] = token.encode() if spelled else bytes(byte_of[letter] for letter in token)
    return Wholeness(tokenizer, tuple(table))


def _first_difference(text: str, decoded: str) -> str:
    at = next(
        (i for i, (a, b) in enumerate(zip(text, decoded, strict=False)) if a != b),
        min(len(text), len(decoded)),
    )
    comes = excerpt(decoded[at : at + _SHOWN]) if at < len(decoded) else "nothing"
    if at == len(text):
        return f"behind its end its tokens give {comes} more."
    letter = text[at]
    name = unicodedata.name(letter, "")
    return (
        f"for its character {at + 1:,}, {letter!r} (U+{ord(letter):04X}{name and ' '}{name}), its "
        f"tokens give {comes}."
    )


def _suspicious(raw: Mapping[str, Any]) -> Iterator[str]:
    """The settings of a ``tokenizer.json`` that can lose text or add to it."""
    if raw["normalizer"]:
        yield f"`normalizer` ({', '.join(_types(raw['normalizer']))})"
    for one in _nested(raw["pre_tokenizer"]):
        removes = str(one.get("behavior", "")).lower() == "removed"
        if one.get("type") in _DROPPING or removes:
            yield f"`pre_tokenizer` ({one['type']}, which drops what it splits at)"
        if one.get("add_prefix_space") or one.get("prepend_scheme") in ("first", "always"):
            yield f"`pre_tokenizer` ({one['type']}, which puts a space before the text)"
    model = raw["model"]
    bytes_alone = "ByteLevel" in _types(raw["pre_tokenizer"]) and all(
        letter in model["vocab"] for letter in byte_letters()
    )
    if not bytes_alone and not model.get("byte_fallback"):
        known = model.get("unk_token") is not None or model.get("unk_id") is not None
        unknown = "a token for the unknown" if known else "nothing"
        yield f"`model` ({model.get('type')}, which has {unknown} for what its vocabulary lacks)"
    if any(token["lstrip"] or token["rstrip"] for token in raw["added_tokens"]):
        yield "`added_tokens` (with lstrip or rstrip, which drop spaces)"
    if not raw["decoder"]:
        yield "`decoder` (there is none)"


def _nested(raw: Any) -> Iterator[Mapping[str, Any]]:
    """A part of a tokenizer and the parts of which it is made."""
    if isinstance(raw, Mapping):
        if "type" in raw:
            yield raw
        for value in raw.values():
            yield from _nested(value)
    elif isinstance(raw, list):
        for value in raw:
            yield from _nested(value)


def _types(raw: Any) -> list[str]:
    return [one["type"] for one in _nested(raw) if one["type"] != "Sequence"]
