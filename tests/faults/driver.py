"""``python -m tests.faults.driver run ...``: the real command, with its runs counted.

Step times are made up, because measuring them takes longer than the runs of these studies. With
OPTBENCH_TEST_FILE_BYTES no file may grow beyond that size, as on a full disk.
"""

from __future__ import annotations

import os
import resource

from optbench.cli import main
from optbench.cli import run as session
from optbench.study.planning import plan
from tests.faults import jobs


def drive() -> None:
    jobs.prepare_process()
    if limit := os.environ.get("OPTBENCH_TEST_FILE_BYTES"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    session.run = jobs.counted_run
    session.measure_interleaved = jobs.no_comparison
    plan.measure_step = jobs.no_step_cost
    plan.matmul_flops_per_s = jobs.no_matmul
    main()


if __name__ == "__main__":
    drive()
