"""The documentation is true: links resolve, commands exist and run, names are those of the code."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from optbench.analysis.summary import StudySummary, summarise
from optbench.cli import main
from optbench.optimizers.registry import METHODS
from optbench.report.cells_table import markdown_cells_table
from optbench.report.text import markdown_table, mean_text, speedup_text
from optbench.store.store import RunStore
from optbench.study.file import read_study
from tests.smoke_study import SmokeStudy

ROOT = Path(__file__).parents[1]
PAGES = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").glob("*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [body for kind, body in found if kind == language]


def readme_commands() -> list[str]:
    lines = "\n".join(blocks(ROOT / "README.md", "sh")).replace("\\\n", " ").splitlines()
    return [line.split("#")[0].strip() for line in lines if line.split("#")[0].strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_is_short_enough_to_be_read() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert 100 <= len(lines) <= 200


def test_the_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [c.split()[1] for c in readme_commands() if c.startswith("make ")]
    assert {"nano", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("command", [c for c in readme_commands() if "optbench " in c])
def test_every_optbench_command_of_the_readme_parses(command: str) -> None:
    """Each is given `--help` as well, which checks its verb and that its options exist."""
    words = shlex.split(command.replace(".venv/bin/", ""))
    assert words[0] == "optbench"
    verb = main.commands[words[1]]
    options = {o for p in verb.params for o in (*p.opts, *p.secondary_opts)}
    for word in words[2:]:
        if word.startswith("--"):
            assert word in options, f"{command}: {word}"
    assert CliRunner().invoke(main, [words[1], "--help"]).exit_code == 0


def test_the_short_readme_commands_run(tmp_path: Path, smoke_study: SmokeStudy) -> None:
    """Those that a minute is enough for, one after another, where the smoke study was run."""
    shutil.copytree(smoke_study.store, tmp_path / "runs" / "nano-smoke")
    ran = 0
    for command in readme_commands():
        words = shlex.split(command.replace(".venv/bin/", ""))
        if words[0] != "optbench" or (words[1] == "run" and "--smoke" not in words):
            continue
        done = subprocess.run(
            [sys.executable, "-m", "optbench.cli", *words[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=os.environ,
        )
        assert done.returncode == 0, command + done.stdout + done.stderr
        assert words[1] != "plan" or os.listdir(tmp_path) == ["runs"]  # nothing is made
        ran += 1
    assert ran >= 4


def test_the_python_of_the_readme_runs() -> None:
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), {})


def test_the_readme_names_optimizers_of_the_package_and_every_module() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert named
    assert named <= {method.class_name for method in METHODS.values()}
    for module in (ROOT / "src" / "optbench").iterdir():
        if module.name not in ("__init__.py", "py.typed", "__pycache__"):
            assert module.name + "/" * module.is_dir() in text, module.name


def test_the_study_file_of_the_documentation_is_valid() -> None:
    (example,) = blocks(ROOT / "docs" / "studies.md", "toml")
    example = example.replace('baseline = "adamw"', 'baseline = "muon"')
    study = read_study(example)
    assert set(study.optimizers) == {"muon"}


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in main.commands:
        assert f"optbench {verb}" in text, verb


def committed(study: str) -> StudySummary:
    """A committed study: every optimizer that it names has its row, and is one of this package.

    An optimizer that is added to the package later is in none of them, until they are repeated.
    """
    summary = summarise(RunStore.read(ROOT / "results" / study))
    named = tomllib.loads((ROOT / "results" / study / "study.toml").read_text(encoding="utf-8"))
    found = {row.optimizer for row in summary.rows}
    assert found == set(named["optimizers"])
    assert found <= set(METHODS)
    return summary


def test_the_result_of_the_readme_is_recomputed_from_the_committed_records() -> None:
    summary = committed("nano_ladder")
    assert markdown_table(summary) in (ROOT / "README.md").read_text(encoding="utf-8")
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    section = log[log.index("· The ladder study") :]
    assert_in_log(summary, section)
    table = markdown_cells_table(summary).split("\n\n", 1)[1].strip()
    assert table in section


def test_the_table_of_the_nano_study_is_recomputed_from_the_committed_records() -> None:
    summary = committed("nano")
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    assert_in_log(summary, log[log.index("· The nano study with the new search") :])


def assert_in_log(summary: StudySummary, log: str) -> None:
    for row in summary.rows:
        if row.tokens is not None:
            assert speedup_text(row.tokens) in log
            assert speedup_text(row.seconds) in log
        assert mean_text(row.test) in log


def test_the_table_of_all_eleven_is_recomputed_from_the_committed_records() -> None:
    summary = committed("nano_all")
    log = (ROOT / "docs" / "log.md").read_text(encoding="utf-8")
    assert_in_log(summary, log[log.index("## 2026-11-22 · All eleven") :])
