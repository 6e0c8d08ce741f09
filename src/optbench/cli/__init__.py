"""The command line: verbs that parse, call and print.

torch and the plotting code are imported inside the verbs that need them, so ``optbench --help``
answers at once.
"""

from __future__ import annotations

from typing import Any

import click

from optbench import __version__
from optbench.cli.data_verbs import data
from optbench.cli.model_verbs import evaluate, export
from optbench.cli.output import forgiving_output
from optbench.cli.paper_verbs import compare_to_paper, paper
from optbench.cli.recommend_verbs import recommend
from optbench.cli.run_verbs import bench, show, train
from optbench.cli.study_verbs import explain, plan, report, run

EPILOG = """\b
Examples:
  optbench run nano               tune and compare four optimizers, 12 minutes on 2 cores
  optbench plan nano              what that will cost on this machine
  optbench show --store runs/nano list its runs
  optbench recommend --params 760M --tokens 60B
                                  which optimizer, which hyperparameters, how sure
"""


class _Verbs(click.Group):
    def main(self, *args: Any, **settings: Any) -> Any:
        with forgiving_output():
            super().main(*args, **settings)


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EPILOG,
)
@click.version_option(__version__, prog_name="optbench")
def main() -> None:
    """How much faster is an optimizer really than a well-tuned AdamW, with error bars?"""


for _verb in (
    run,
    plan,
    train,
    bench,
    show,
    report,
    explain,
    recommend,
    paper,
    compare_to_paper,
    export,
    evaluate,
    data,
):
    main.add_command(_verb)
