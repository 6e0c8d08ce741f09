"""What was listed when a preparation began, kept beside the shards: whether a file has changed.

Names and sizes of a source's files are part of its digest. A text that is changed in place keeps
both, so the stamps of the files are kept here too: times on this machine, entity tags or
modification times at URLs. A time can be set back, but not that of the last change of a file's
status. When all is read, the checksums of the files that were read join them, so that files which
were only copied or touched are distinguished from others. None of this is part of a corpus, whose
bytes do not depend on where its files lie or when they were copied there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from optbench.data.corpus import DataError
from optbench.data.parts import Listing, check_stamp
from optbench.files.durable import write_durably

LISTED_FILE = "listed.json"
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class _Known:
    """A file as it was listed.

    Args:
        changed: when its status changed last, on this machine; 0 elsewhere.
        sha256: of its contents; empty before all is read, and for what was not.
    """

    size: int | None
    stamp: str
    changed: int = 0
    sha256: str = ""


def keep_listings(folder: Path, listings: Mapping[str, Listing]) -> None:
    """Write down the files of every source; on the disk when this returns."""
    _keep(folder, {name: _known(listing) for name, listing in listings.items()})


def keep_contents(folder: Path, listings: Mapping[str, Listing], opened: Mapping[str, int]) -> None:
    """Write down the files again with the checksums of those that were read.

    Args:
        opened: how many files of each source were, from the first on.

    Raises:
        DataError: one was written again since it was listed.
    """
    known: dict[str, dict[str, _Known]] = {}
    for name, listing in listings.items():
        known[name] = _known(listing)
        for part in listing.parts[: opened[name]]:
            if "://" not in part.url:
                check_stamp(part)
                one = known[name][part.label]
                known[name][part.label] = replace(one, sha256=_sha256(part.url))
                check_stamp(part)
    _keep(folder, known)


def refuse_other_contents(folder: Path, listing: Listing, source: str) -> None:
    """Compare the files of a source with those from which a finished corpus was made.

    Args:
        folder: of the corpus; an older one has no stamps, and is taken as it is.

    Raises:
        DataError: the text of a file is another one.
    """
    path = folder / LISTED_FILE
    if not path.exists():
        return
    known = _read(path)
    before, now = known.get(source, {}), _known(listing)
    changes: list[str] = []
    for part in listing.parts:
        was, one = before.get(part.label), now[part.label]
        if was is None or not _written_again(was, one):
            continue
        if was.sha256 and was.sha256 == _sha256(part.url):
            before[part.label] = replace(one, sha256=was.sha256)
        elif was.sha256 or not one.changed:
            changes.append(f"{part.label} ({was.stamp}, now {one.stamp})")
    if changes:
        raise DataError(
            f"The text of the source '{source}' changed since {folder} was prepared: "
            f"{_most(changes)}. Restore the files, give this recipe another `name`, or delete that "
            f"folder and prepare it again."
        )
    # The next time they need not be read; a cache that cannot be written is no error here.
    with contextlib.suppress(OSError):
        _keep(folder, {**known, source: before})


def refuse_changed(
    folder: Path, listings: Mapping[str, Listing], digests: Mapping[str, str]
) -> None:
    """Compare the files with those that were there when the preparation began.

    Args:
        folder: of the preparation; without a list of stamps in it, names and sizes are compared.
        digests: of names and sizes then, by source.

    Raises:
        DataError: files came, went or changed since, with their names and the remedies.
    """
    path = folder / LISTED_FILE
    if path.exists():
        changes = _changes_since(path, listings)
        known = (
            f" If you know that their text is the same, for example because they were only copied, "
            f"delete {path}; the same command then goes on."
        )
    else:
        others = [name for name, listing in listings.items() if listing.digest() != digests[name]]
        changes = [f"the names or sizes of the files of the source '{name}'" for name in others]
        known = ""
    if changes:
        raise DataError(
            f"The text changed since the preparation in {folder} began: {_most(changes)}. Restore "
            f"the files, or begin again with --restart.{known}"
        )


def _most(changes: list[str]) -> str:
    more = f", and {len(changes) - _MOST_NAMED} more" if len(changes) > _MOST_NAMED else ""
    return f"{', '.join(changes[:_MOST_NAMED])}{more}"


def _changes_since(path: Path, listings: Mapping[str, Listing]) -> list[str]:
    known = _read(path)
    return [
        f"{change} (source '{name}')"
        for name, listing in listings.items()
        for change in _changes(known.get(name, {}), listing)
    ]


def _changes(known: Mapping[str, _Known], listing: Listing) -> list[str]:
    now = _known(listing)
    changed = [f"{label} is gone" for label in known if label not in now]
    for label, one in now.items():
        if (was := known.get(label)) is None:
            changed.append(f"{label} is new")
        elif was.size != one.size:
            changed.append(f"{label} had {was.size} bytes and has {one.size}")
        elif was.stamp != one.stamp and was.stamp and one.stamp:
            changed.append(f"{label} was written again ({was.stamp}, now {one.stamp})")
        elif _written_again(was, one):
            changed.append(f"{label} was changed, though its time of modification is the same")
    return changed


def _written_again(was: _Known, one: _Known) -> bool:
    stamped = bool(was.stamp and one.stamp and was.stamp != one.stamp)
    return stamped or bool(was.changed and one.changed and was.changed != one.changed)


def _known(listing: Listing) -> dict[str, _Known]:
    return {
        part.label: _Known(
            part.size,
            part.stamp,
            0 if "://" in part.url else os.stat(part.url).st_ctime_ns,
        )
        for part in listing.parts
    }


def _keep(folder: Path, known: Mapping[str, Mapping[str, _Known]]) -> None:
    values = {
        name: {label: astuple(one) for label, one in files.items()} for name, files in known.items()
    }
    write_durably(folder / LISTED_FILE, json.dumps(values).encode())


def _read(path: Path) -> dict[str, dict[str, _Known]]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: {label: _Known(*one) for label, one in files.items()}
            for name, files in raw.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} cannot be read ({error}). Begin again with --restart, or delete the folder."
        ) from error


def _sha256(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).") from error
