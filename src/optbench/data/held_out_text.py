"""The message for a corpus whose held-out text is less than a run reads of it."""

from __future__ import annotations

from collections.abc import Mapping

from optbench.data.corpus import DataError, Split

# What a run calls the tokens that it reads of a split.
_SETTINGS: Mapping[Split, str] = {"validation": "eval_tokens", "test": "test_tokens"}


def too_little_text(
    corpus: str, split: Split, held: Mapping[str, int], *, needed: int, most: int, seq_len: int
) -> DataError:
    """How many tokens there are, how many are needed, and what to do.

    Args:
        held: tokens of each source in the split.
        needed: tokens to be predicted.
        most: how many of them the split can give, in whole sequences at the mixture's weights.
    """
    sources = ", ".join(f"{name} {tokens:,}" for name, tokens in held.items())
    setting = _SETTINGS.get(split, "tokens")
    lower = (
        f"Lower `{setting}` to at most {most} ([run] in a study file; optbench train --set "
        f"{setting}={most}), or prepare"
        if most
        else "Prepare"
    )
    return DataError(
        f"The {split} split of the corpus '{corpus}' holds {sum(held.values()):,} tokens "
        f"({sources}), which give {most:,} in whole sequences of {seq_len} at the weights of the "
        f"mixture, but {needed:,} are needed. {lower} a corpus with more text or a larger "
        f"`{split}_share`."
    )
