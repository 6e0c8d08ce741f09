"""CheckpointRoot: where the runs of a store keep their checkpoints, and their removal."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from optbench.checkpoints.checkpoint import checkpoint_directory, discard, discard_finished
from optbench.checkpoints.manifest import CheckpointError
from optbench.store.store import RunRecord, RunStore

FOLDER = "checkpoints"
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CheckpointRoot:
    """The root of all runs' checkpoints; a run that is in the store needs its own no more.

    What cannot be removed is logged and left.

    Args:
        root: a folder or an fsspec URL, absolute.
    """

    root: Path | str

    @classmethod
    def of(cls, store: Path, url: str | None) -> CheckpointRoot:
        """The root that was asked for, or the folder in the store; the same for every process.

        Raises:
            CheckpointError: nothing, or a URL of a kind that is unknown or lacks its package.
        """
        if url == "":  # it would be the working directory
            raise CheckpointError("Checkpoints cannot be kept in '': give a folder or a URL.")
        root: Path | str = store / FOLDER if url is None else url
        if "://" not in str(root):  # a worker may have another working directory
            root = Path(root).expanduser().absolute()
        checkpoint_directory(root, "any")
        return cls(root)

    def discard(self, record: RunRecord) -> None:
        """Remove the checkpoints of a run whose record is stored; a failed run goes on from its."""
        if record.status == "failed":
            return
        try:
            discard(self.root, record.run_id)
        except Exception as error:  # a store at a URL raises any class
            self._warn(error)

    def is_in(self, store: Path) -> bool:
        """Whether it is a folder of a store's own, which is out of sight where the store is."""
        return isinstance(self.root, Path) and self.root.resolve().is_relative_to(store.resolve())

    def discard_finished(self, store: RunStore, besides: Collection[str] = ()) -> None:
        """Remove those that a driver died before removing.

        Args:
            besides: runs that are to be trained again, and may go on from theirs.
        """
        finished = {run_id for run_id in store.records if store.has_finished(run_id)}
        try:
            discard_finished(self.root, finished - {*besides})
        except Exception as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        _LOG.warning("Checkpoints of finished runs stay in %s: %s", self.root, error)
