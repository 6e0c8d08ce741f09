"""The Llama-3 tokenizer from its file of ranks (tiktoken format), as a ``tokenizers.Tokenizer``.

The file has one token per line: its bytes in base64, and its rank. A piece of text that is itself a
token stays whole; in any other the adjacent pair that joins to the token of the lowest rank is
joined until no pair is a token. The split into pieces and the special tokens are those of the
published model, and no part of the file.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from optbench.data.corpus import DataError, package_folder

LLAMA3_SHA256 = "82e9d31979e92ab929cd544440f129d9ecd797b69e327f80f17e1c50d5551b55"
END_OF_TEXT = "<|end_of_text|>"
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NUM_SPECIAL = 256
_NAMED_SPECIAL = (
    "<|begin_of_text|>",
    END_OF_TEXT,
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    "<|image|>",
)


def llama3_file() -> Path:
    """The published file of ranks, found in the installed package ``llama-models``.

    Raises:
        DataError: the package is missing, or its file is another one.
    """
    try:
        path = package_folder("llama_models") / "llama3" / "tokenizer.model"
    except DataError:
        raise DataError(
            "The Llama-3 tokenizer is read from the package 'llama-models', which is not "
            "installed. Install it without what it needs to run models: "
            "pip install --no-deps llama-models; or give the file: --tokenizer tokenizer.model"
        ) from None
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != LLAMA3_SHA256:
        raise DataError(
            f"{path} is not the Llama-3 tokenizer (its SHA-256 must be {LLAMA3_SHA256}). Install "
            f"llama-models 0.3.0, or give the file: --tokenizer tokenizer.model"
        )
    return path


def read_ranks(path: Path) -> dict[bytes, int]:
    """Tokens and ranks of a file in tiktoken format.

    Raises:
        DataError: it is none, or its ranks are not 0, 1, 2, … in order, or a byte is missing.
    """
    ranks: dict[bytes, int] = {}
    try:
        for line in path.read_bytes().splitlines():
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
    except (ValueError, binascii.Error):
        raise DataError(
            f"{path} is no tokenizer in tiktoken format: every line must hold a token in base64 "
            f"and its rank."
        ) from None
    if list(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise DataError(f"{path} is damaged: its {len(ranks)} ranks do not count up from 0.")
    if any(bytes([byte]) not in ranks for byte in range(256)):
        raise DataError(f"{path} is damaged: it lacks tokens for some single bytes.")
    return ranks


def llama3_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a file of ranks; special tokens follow the ranks, 256 of them.

    Raises:
        DataError: see :func:`read_ranks`.
    """
    ranks = read_ranks(path)
    vocab = {_spelled(token): rank for token, rank in ranks.items()}
    model = models.BPE(vocab=vocab, merges=_merges(ranks), ignore_merges=True)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    reserved = range(2, 2 + _NUM_SPECIAL - len(_NAMED_SPECIAL))
    names = [*_NAMED_SPECIAL, *(f"<|reserved_special_token_{i}|>" for i in reserved)]
    tokenizer.add_special_tokens(names)
    return tokenizer


def _merges(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """Every way to join two tokens to a third, lowest rank first.

    A file of ranks does not say which pair made a token, so all pairs may.
    """
    merges: list[tuple[str, str]] = []
    for token in ranks:
        pairs = ((token[:at], token[at:]) for at in range(1, len(token)))
        both = [pair for pair in pairs if pair[0] in ranks and pair[1] in ranks]
        both.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(_spelled(left), _spelled(right)) for left, right in both]
    return merges


def _spelled(token: bytes) -> str:
    letters = byte_letters()
    return "".join(letters[byte] for byte in token)


@functools.cache
def byte_letters() -> tuple[str, ...]:
    """The letter that byte-level BPE writes for each byte: itself if it prints, else U+0100 on."""
    prints = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in prints]
    return tuple(
        chr(byte) if byte in prints else chr(256 + hidden.index(byte)) for byte in range(256)
    )
