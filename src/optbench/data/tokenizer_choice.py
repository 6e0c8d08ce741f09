"""The tokenizer that a recipe asks for: a published file, a ``tokenizer.json``, or one to train."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from optbench.data.corpus import DataError
from optbench.data.llama_tokenizer import llama3_file, llama3_tokenizer
from optbench.data.mixture_recipe import LLAMA3, MixtureRecipe
from optbench.data.retries import describe
from optbench.data.tokenizer import (
    END_OF_DOCUMENT,
    check_vocab_size,
    make_plain,
    train_tokenizer,
)
from optbench.files.text_files import read_user_bytes, user_text
from optbench.space import did_you_mean

_ENDS = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")


@dataclass(frozen=True, slots=True)
class TokenizerChoice:
    """A tokenizer before it is made.

    Args:
        name: as the manifest reports it.
        given: read from its file; None for one that is trained on the text.
        sha256: of that file; empty for one that is trained.
        switched_off: settings of the file that would cut, fill or randomise documents.
    """

    name: str
    given: Tokenizer | None
    sha256: str
    vocab_size: int
    switched_off: tuple[str, ...] = ()

    def make(self, sample: Iterable[str]) -> Tokenizer:
        """The one that was given, or one trained on ``sample``.

        Raises:
            DataError: the sample is too small for the vocabulary.
        """
        if self.given is not None:
            return self.given
        return train_tokenizer(sample, self.vocab_size)


def choose_tokenizer(recipe: MixtureRecipe) -> TokenizerChoice:
    """What the recipe asks for.

    Raises:
        DataError: the file is missing or no tokenizer, or the size to train is out of range.
    """
    if recipe.vocab_size:
        check_vocab_size(recipe.vocab_size)
        return TokenizerChoice("trained on the text", None, "", recipe.vocab_size)
    path = llama3_file() if recipe.tokenizer == LLAMA3 else recipe.base / recipe.tokenizer
    if not path.is_file():
        raise DataError(
            f"There is no tokenizer file {path}. Give a tokenizer.json, a tokenizer.model in "
            f"tiktoken format, or '{LLAMA3}'."
        )
    raw = read_user_bytes(path)
    tokenizer = _read(path, raw)
    return TokenizerChoice(
        name=LLAMA3 if recipe.tokenizer == LLAMA3 else path.name,
        given=tokenizer,
        sha256=hashlib.sha256(raw).hexdigest(),
        switched_off=make_plain(tokenizer),
        vocab_size=max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1,
    )


def end_of_document(tokenizer: Tokenizer, asked: str) -> int:
    """Id of the token that ends documents.

    Args:
        asked: its text as the recipe names it; empty for the one that the tokenizer is known for.

    Raises:
        DataError: the tokenizer has no such token.
    """
    for name in [asked] if asked else _ENDS:
        if (found := tokenizer.token_to_id(name)) is not None:
            return found
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    if asked:
        raise DataError(did_you_mean(asked, added, what="token for `end_of_document`"))
    raise DataError(
        f"The tokenizer has none of the usual tokens that end a document ({', '.join(_ENDS)}). "
        f"Name one of its own: `end_of_document` in the recipe. "
        f"Available: {', '.join(added) or 'none'}."
    )


def _read(path: Path, raw: bytes) -> Tokenizer:
    if path.suffix.lower() != ".json":
        return llama3_tokenizer(path)
    text = user_text(raw, path)
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{path} is no tokenizer.json ({describe(error)}).") from error
