"""Recipes of corpora that are prepared from files or from the Hugging Face hub."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from optbench.data.corpus import Split

Format: TypeAlias = Literal["text", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
Shares: TypeAlias = tuple[tuple[Split, float], ...]
LLAMA3 = "llama3"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubDataset:
    """A data set in the layout of the Hugging Face hub.

    Args:
        dataset: ``owner/name`` on the hub, or a folder on this machine.
        revision: commit, branch or tag; a branch is resolved to its commit once.
        config: the configuration, for data sets that have several.
        split: which split is read.
        files: patterns of the files inside; without, those of the data set's own card.
    """

    dataset: str
    revision: str = "main"
    config: str = ""
    split: str = "train"
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """Where the documents of one part of a mixture come from.

    Args:
        weight: parts of the mixture; only their proportions matter.
        files: paths, patterns or fsspec URLs; relative ones start at the recipe's folder.
        hub: a data set instead of files.
        format: of the files; without, by their endings.
        field: column or key that holds the text.
        separator: text files are one document each unless this divides them.
        documents: how many there must be when all are read; 0 is not known.
        tokens: read at least that many tokens, to the end of a document; 0 is everything.
        side_by_side: files that are read in turns, a document each, so that a part of a source
            that is sorted by language or date is no slice of it.
    """

    name: str
    weight: Fraction = Fraction(1)
    files: tuple[str, ...] = ()
    hub: HubDataset | None = None
    format: Format | None = None
    field: str = "text"
    separator: str = ""
    documents: int = 0
    tokens: int = 0
    side_by_side: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MixtureRecipe:
    """A corpus to be prepared from text.

    Args:
        sources: of the training split.
        validation: a source of its own; without, ``validation_share`` of the documents of each.
        test: as ``validation``; if that alone is given, its documents are halved between both.
        tokenizer: ``llama3``, a ``tokenizer.json`` or a file of ranks; empty to train one.
        vocab_size: of the tokenizer to train on the text; 0 if one is given.
        end_of_document: the token that ends documents; empty for the one the tokenizer has.
        tokens: of the training split in all, shared out by the weights; 0 is everything.
        shard_tokens: a file ends behind the document that reaches this size.
        base: folder at which relative paths start; no part of the corpus's identity.
    """

    name: str
    sources: tuple[TextSource, ...]
    validation: TextSource | None = None
    test: TextSource | None = None
    tokenizer: str = ""
    vocab_size: int = 0
    end_of_document: str = ""
    tokens: int = 0
    validation_share: float = 0.02
    test_share: float = 0.02
    shard_tokens: int = 2**26
    base: Path = Path()

    def weights(self) -> tuple[int, ...]:
        """The smallest whole numbers in the proportions of the weights, one per source."""
        return whole_weights([source.weight for source in self.sources])

    def streams(self) -> tuple[Stream, ...]:
        """Everything that is read, with the splits it goes to and the tokens it must give."""
        held_out: Shares = (
            ()
            if self.validation
            else (
                ("validation", self.validation_share),
                ("test", self.test_share),
            )
        )
        rest: tuple[Split, float] = ("train", 1 - sum(share for _, share in held_out))
        total = sum(source.weight for source in self.sources)
        streams = [
            Stream(
                source,
                (*held_out, rest),
                max(source.tokens, math.ceil(self.tokens * source.weight / total)),
            )
            for source in self.sources
        ]
        if self.validation:
            halves: Shares = (
                (("validation", 1.0),) if self.test else (("validation", 0.5), ("test", 0.5))
            )
            streams.append(Stream(self.validation, halves, self.validation.tokens))
        if self.test:
            streams.append(Stream(self.test, (("test", 1.0),), self.test.tokens))
        return tuple(streams)

    def digest(self) -> str:
        """SHA-256 over everything that decides the bytes, but for the text itself."""
        return hashlib.sha256(self._identifying_json().encode()).hexdigest()

    def settings(self) -> dict[str, str]:
        """Everything in :meth:`digest` by its key, such as ``sources.web.weight``, as texts."""
        values = json.loads(self._identifying_json())
        values["sources"] = {source["name"]: source for source in values["sources"]}
        return dict(_flat(values, ""))

    def _identifying_json(self) -> str:
        values = dataclasses.asdict(dataclasses.replace(self, base=Path(), tokenizer=""))
        return json.dumps(values, default=str, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Stream:
    """A source, the splits among which its documents are divided, and its quota.

    Args:
        shares: (split, share of the documents), in order; the shares sum to 1.
        tokens: at which reading ends; 0 is everything.
    """

    source: TextSource
    shares: Shares
    tokens: int

    @property
    def counted(self) -> frozenset[Split]:
        """The splits whose tokens the quota counts: training alone where there is such."""
        splits: frozenset[Split] = frozenset(split for split, _ in self.shares)
        return frozenset[Split](["train"]) if "train" in splits else splits


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value)


def whole_weights(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """The smallest whole numbers in the proportions of ``weights``."""
    scale = math.lcm(*(weight.denominator for weight in weights))
    whole = [int(weight * scale) for weight in weights]
    divisor = math.gcd(*whole)
    return tuple(weight // divisor for weight in whole)
