"""The command line: verbs that parse, call and print.

torch and the plotting code are imported inside the verbs that need them, so ``optbench --help``
answers at once.
"""

from __future__ import annotations

from typing import Any

import click

from optbench import __version__
from optbench.cli import (
    data_verbs,
    model_verbs,
    paper_verbs,
    recommend_verbs,
    run_verbs,
    study_verbs,
)
from optbench.cli.output import forgiving_output

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
    study_verbs.run,
    study_verbs.plan,
    run_verbs.train,
    run_verbs.bench,
    run_verbs.show,
    study_verbs.report,
    study_verbs.explain,
    recommend_verbs.recommend,
    paper_verbs.paper,
    paper_verbs.compare_to_paper,
    model_verbs.export,
    model_verbs.evaluate,
    data_verbs.data,
):
    main.add_command(_verb)
