"""Byte-level BPE, trained on the corpus itself and stored as JSON.

Parallelism is left to the ``tokenizers`` library: it uses every core it may, has no switch per
call, and its result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from optbench.data.corpus import DataError

END_OF_DOCUMENT = "<|endoftext|>"
TOKEN_DTYPE = np.dtype("<u2")
MIN_VOCAB_SIZE = 257  # every byte, and the end of a document
MAX_VOCAB_SIZE = 65_536


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn exactly ``vocab_size`` tokens, the end-of-document token among them.

    Raises:
        DataError: the size is out of range, or the text is too small to fill it.
    """
    check_vocab_size(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        show_progress=False,
        special_tokens=[END_OF_DOCUMENT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    learned = tokenizer.get_vocab_size()
    if learned == MIN_VOCAB_SIZE < vocab_size:
        raise DataError(
            f"There is no text to learn a vocabulary of {vocab_size} from. Are these the right "
            f"files?"
        )
    if learned != vocab_size:
        raise DataError(
            f"The text is too small for a vocabulary of {vocab_size}: only {learned} tokens could "
            f"be learned. Lower vocab_size to at most {learned}, or use a larger corpus."
        )
    make_plain(tokenizer)
    return tokenizer


def check_vocab_size(vocab_size: int) -> None:
    """Refuse a size that cannot be trained.

    Raises:
        DataError: it is out of range.
    """
    if not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise DataError(
            f"vocab_size must lie between {MIN_VOCAB_SIZE} (all bytes and the end of a document) "
            f"and {MAX_VOCAB_SIZE} (tokens are stored in 16 bits), but got {vocab_size}."
        )


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json`` written by :meth:`Tokenizer.save`."""
    tokenizer = Tokenizer.from_file(str(path))
    make_plain(tokenizer)
    return tokenizer


def end_of_document_id(tokenizer: Tokenizer) -> int:
    """Id of the token that ends every document; no text encodes to it."""
    eod = tokenizer.token_to_id(END_OF_DOCUMENT)
    assert eod is not None
    return eod


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str]) -> npt.NDArray[np.uint16]:
    """Tokens of all texts one after another, each ended by the end-of-document token.

    Returns:
        Little-endian unsigned 16-bit integers, (tokens,).
    """
    eod = np.array([end_of_document_id(tokenizer)], TOKEN_DTYPE)
    parts: list[npt.NDArray[np.uint16]] = []
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        parts += [np.array(encoding.ids, TOKEN_DTYPE), eod]
    return np.concatenate(parts) if parts else np.empty(0, TOKEN_DTYPE)


def make_plain(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Switch off what cuts, fills or randomises documents, and what ends them in their midst.

    Returns:
        The settings of its file that were on, and are needed for batches or for training alone.
    """
    # A text that spells out the end-of-document token is text: it must not end the document.
    tokenizer.encode_special_tokens = True
    found: list[str] = []
    if tokenizer.truncation:
        found.append("truncation")
        tokenizer.no_truncation()
    if tokenizer.padding:
        found.append("padding")
        tokenizer.no_padding()
    model: Any = tokenizer.model
    if getattr(model, "dropout", None):  # of BPE models alone
        found.append("dropout")
        model.dropout = None
    return tuple(found)
