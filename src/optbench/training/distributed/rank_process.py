"""The process of one rank of a run, which the agent starts as a module."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from optbench.config import RunConfig
from optbench.execution import Execution
from optbench.training.distributed.elastic import RankJob, as_rank
from optbench.training.distributed.process_group import joined
from optbench.training.run import run_as, use_one_thread
from optbench.training.trainer import Progress


def main(job: RankJob) -> None:
    """Train this rank's part; the first rank reports and leaves the record."""
    use_one_thread()
    given = job.job
    weights_path = given["weights_path"]

    def report(at: Progress) -> None:
        job.report(dataclasses.asdict(at))

    with joined() as ranks:
        record = run_as(
            ranks,
            RunConfig.from_dict(given["config"]),
            Path(given["corpus_directory"]),
            on_progress=report if ranks.is_first else lambda _: None,
            weights_path=None if weights_path is None else Path(weights_path),
            execution=Execution(**given["execution"]),
            checkpoints=given["checkpoints"],
            restarts=job.restarts,
        )
        if ranks.is_first:
            job.answer(dataclasses.asdict(record))


if __name__ == "__main__":
    as_rank(main)
