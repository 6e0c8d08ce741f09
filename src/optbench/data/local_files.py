"""Files on this machine that a path or a pattern names; links are followed, folders are literal.

A pattern is matched below the folder at which it starts and never against that folder's own name.
``*``, ``?`` and ``[…]`` match within one name, hidden ones too, ``**`` any number of folders. A
name that is there as it is written is that file, even where it could be read as a pattern; a name
with ``*`` is that file and what it matches.
"""

from __future__ import annotations

import fnmatch
import os
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from optbench.data.corpus import DataError

_MAGIC = frozenset("*?[")
_ANY_DEPTH = "**"


def local_files(pattern: str, base: Path) -> list[str]:
    """Paths of all files that ``pattern`` names, in order; none if there are none.

    Args:
        base: the folder at which relative patterns start.

    Raises:
        DataError: it names a folder, a link that leads nowhere, or what is neither file nor folder.
        OSError: a folder cannot be listed.
    """
    path = Path(pattern)
    if pattern.startswith("~") and not os.path.lexists(base / path.parts[0]):
        path = _at_home(path)
    start = path.anchor or _absolute(base)
    last = path.name
    found = sorted(set(_expanded(start, path.parts[1:] if path.anchor else path.parts)))
    return [one for one in found if _is_file(one, named=os.path.basename(one) == last)]


def file_identity(path: str) -> object:
    """Equal for all names of one file: links, hard links, names that differ in case alone."""
    info = os.stat(path)
    if info.st_nlink > 1:
        return info.st_dev, info.st_ino
    # Network folders may number their files badly, so the number alone is not enough.
    return _composed(os.path.realpath(path)).casefold(), info.st_dev, info.st_ino


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise DataError(f"{path} cannot be found: {error} Write the whole path.") from None


def _absolute(base: Path) -> str:
    # A folder's parent is not the one before it in its name where that is a link.
    return os.path.realpath(base) if ".." in base.parts else os.path.abspath(base)


def _expanded(folder: str, names: tuple[str, ...]) -> Iterator[str]:
    if not names:
        yield folder
        return
    name, rest = names[0], names[1:]
    if name == _ANY_DEPTH:
        for below in _folders_below(folder):
            yield from _expanded(below, rest or ("*",))
    elif name == "..":
        yield from _expanded(_parent(folder), rest)
    else:
        for one in _named(folder, name):
            yield from _expanded(os.path.join(folder, one), rest)


def _named(folder: str, name: str) -> list[str]:
    """The entries of a folder that a name or pattern stands for."""
    if "*" not in name:
        if os.path.lexists(os.path.join(folder, name)):
            return [name]
        # An accented letter is one character or two, as the system that wrote the name has it.
        if same := [one for one in _listed(folder) if _composed(one) == _composed(name)]:
            return same
    if not _MAGIC & set(name):
        return []
    pattern = _composed(name)
    return [
        one
        for one in _listed(folder)
        if one == name or fnmatch.fnmatchcase(_composed(one), pattern)
    ]


def _folders_below(folder: str) -> Iterator[str]:
    """A folder and all below it, each once, however links lead to it."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop(0)
        info = os.stat(current)
        if (info.st_dev, info.st_ino) in seen:
            continue
        seen.add((info.st_dev, info.st_ino))
        yield current
        below = [os.path.join(current, name) for name in _listed(current)]
        folders = [one for one in below if os.path.isdir(one)]
        # Links last, so that files have the names of the folders in which they are.
        linked = [one for one in folders if os.path.islink(one)]
        waiting = [one for one in folders if one not in set(linked)] + waiting + linked


def _listed(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        _refuse_dangling(folder)
        return []


def _is_file(path: str, *, named: bool) -> bool:
    _refuse_dangling(path)
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        if named:
            raise DataError(
                f"The folder {path} is named as a file. Name its files by a pattern: {path}/*"
            )
        return False
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is neither a file nor a folder. Name files alone.")
    return True


def _refuse_dangling(path: str) -> None:
    if os.path.islink(path) and not os.path.exists(path):
        raise DataError(
            f"{path} is a symbolic link to {os.readlink(path)}, which is not there. Restore that "
            f"file, or remove the link."
        )


def _parent(folder: str) -> str:
    return os.path.realpath(f"{folder}/..") if os.path.islink(folder) else os.path.dirname(folder)


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
