"""What was listed when a preparation began, kept beside its progress: whether a file has changed.

Names and sizes of a source's files are part of its digest. A text that is changed in place keeps
both, so the stamps of the files are kept here too: modification times on this machine, entity tags
or modification times at URLs. They are no part of a corpus, whose bytes do not depend on where its
files lie or when they were copied there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from optbench.data.corpus import DataError
from optbench.data.parts import Listing
from optbench.durable import write_durably

LISTED_FILE = "listed.json"
_MOST_NAMED = 3


def keep_listings(folder: Path, listings: Mapping[str, Listing]) -> None:
    """Write down the files of every source; on the disk when this returns."""
    values = {
        name: {part.label: [part.size, part.stamp] for part in listing.parts}
        for name, listing in listings.items()
    }
    write_durably(folder / LISTED_FILE, json.dumps(values).encode())


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
        more = f", and {len(changes) - _MOST_NAMED} more" if len(changes) > _MOST_NAMED else ""
        raise DataError(
            f"The text changed since the preparation in {folder} began: "
            f"{', '.join(changes[:_MOST_NAMED])}{more}. Restore the files, or begin again with "
            f"--restart.{known}"
        )


def _changes_since(path: Path, listings: Mapping[str, Listing]) -> list[str]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        return [
            f"{change} (source '{name}')"
            for name, listing in listings.items()
            for change in _changes(known.get(name, {}), listing)
        ]
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{path} cannot be read ({error}). Begin again with --restart.") from error


def _changes(known: Mapping[str, list[object]], listing: Listing) -> list[str]:
    now = {part.label: part for part in listing.parts}
    changed = [f"{label} is gone" for label in known if label not in now]
    for label, part in now.items():
        if label not in known:
            changed.append(f"{label} is new")
            continue
        size, stamp = known[label]
        if size != part.size:
            changed.append(f"{label} had {size} bytes and has {part.size}")
        elif stamp and part.stamp and stamp != part.stamp:
            changed.append(f"{label} was written again ({stamp}, now {part.stamp})")
    return changed
