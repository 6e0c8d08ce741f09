"""``python -m optbench.cli``."""

from optbench.cli import main

main()
