"""What a running study shows: runs done, the best of each optimizer, tokens per second, time left.

On a terminal a live panel; elsewhere (a log file, CI) one line per finished run.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TypeAlias

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optbench.config import RunConfig
from optbench.executors.failures import last_lines
from optbench.run_axes import axis_values
from optbench.space import Value
from optbench.store.store import RunRecord
from optbench.units import format_seconds, format_value

Kind: TypeAlias = tuple[str, int]  # optimizer, token budget


@dataclass(slots=True)
class _Best:
    runs: int = 0
    loss: float | None = None
    config: RunConfig | None = None


@dataclass(slots=True)
class StudyProgress:
    """A `SweepObserver` that draws.

    Args:
        expected: runs that the study expects, by optimizer and token budget; an entry grows when
            the study asks for more.
        planned_s: seconds of the whole plan, for the time left before the first run has ended.
        axes: the searched axes of each optimizer, with their candidates if these are known, to name
            a configuration by what varies.
        tuned_tokens: budget of the tuned cell; "best" means best among runs of that budget.
    """

    console: Console
    expected: Mapping[Kind, int]
    planned_s: float
    axes: Mapping[str, Sequence[str] | Mapping[str, Sequence[Value]]]
    tuned_tokens: int
    _started: float = field(default_factory=time.monotonic)
    _asked: dict[str, RunConfig] = field(default_factory=dict)
    _asked_of: Counter[Kind] = field(default_factory=Counter)
    _done: int = 0
    _kept: int = 0
    _tokens: int = 0
    _tokens_now: int = 0
    _best: dict[str, _Best] = field(default_factory=dict)
    _live: Live | None = None

    def __enter__(self) -> Self:
        self._best = {name: _Best() for name in self.axes}
        if self.console.is_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=4)
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    @property
    def runs_trained(self) -> int:
        """Runs that this session trained itself."""
        return self._done - self._kept

    def queued(self, configs: Sequence[RunConfig]) -> None:
        """See `SweepObserver`."""
        self._asked.update({config.run_id: config for config in configs})
        self._asked_of.update((config.optimizer.name, config.num_tokens) for config in configs)

    def finished(self, record: RunRecord, *, from_store: bool) -> None:
        """See `SweepObserver`."""
        config = self._asked[record.run_id]
        self._done += 1
        self._kept += from_store
        self._tokens += record.num_tokens
        self._tokens_now += 0 if from_store else record.num_tokens
        best = self._best[config.optimizer.name]
        best.runs += 1
        better = record.val_loss is not None and (best.loss is None or record.val_loss < best.loss)
        if config.num_tokens == self.tuned_tokens and better:
            best.loss, best.config = record.val_loss, config
        if self._live is None and not from_store:
            self.console.print(self._line(record, config), highlight=False)

    def failed(self, config: RunConfig, error: str, *, final: bool) -> None:
        """See `SweepObserver`; one line, above the panel if there is one."""
        reason = " ".join(last_lines(error, 1))
        then = "abandoned" if final else "tried again"
        self.console.print(
            f"{config.optimizer.name} {self._describe(config)} failed, {then}: {reason}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def tick(self) -> None:
        """See `SweepObserver`; the live panel refreshes itself."""

    @property
    def planned(self) -> int:
        """Runs that the study will have made, as far as is known now."""
        return sum(self._needed().values())

    @property
    def seconds_left(self) -> float:
        """From the pace of this session, or from the plan before the first run has ended."""
        whole = sum(runs * num_tokens for (_, num_tokens), runs in self._needed().items())
        left = max(0, whole - self._tokens)
        elapsed = time.monotonic() - self._started
        if self._tokens_now == 0:
            return max(0.0, self.planned_s * left / max(1, whole) - elapsed)
        return left * elapsed / self._tokens_now

    def _needed(self) -> Mapping[Kind, int]:
        """Runs of each kind: those asked for, and those still expected."""
        return Counter(self.expected) | self._asked_of

    @property
    def tokens_per_s(self) -> float:
        """Training tokens per second over all workers, evaluation time included."""
        return self._tokens_now / max(1e-9, time.monotonic() - self._started)

    def _line(self, record: RunRecord, config: RunConfig) -> str:
        loss = "diverged" if record.val_loss is None else f"{record.val_loss:.4f}"
        return (
            f"[{self._done:3d}/{self.planned}] {config.optimizer.name:<9} "
            f"{self._describe(config):<58} val {loss}   "
            f"{self.tokens_per_s / 1e3:.0f}k tok/s, {format_seconds(self.seconds_left)} left"
        )

    def _describe(self, config: RunConfig) -> str:
        values = describe_configuration(config, self.axes[config.optimizer.name])
        return f"{values} tokens={config.num_tokens / 1e6:.2f}M seed={config.seed}"

    def __rich__(self) -> RenderableType:
        planned = self.planned
        head = Text.assemble(
            (f"{self._done} of {planned} runs", "bold"),
            f"  ·  {self.tokens_per_s / 1e3:.0f}k tokens/s",
            f"  ·  {format_seconds(time.monotonic() - self._started)} so far",
            f"  ·  {format_seconds(self.seconds_left)} left",
            f"  ·  {self._kept} kept from before" if self._kept else "",
        )
        table = Table(box=None, padding=(0, 2, 0, 0))
        for title in ("optimizer", "runs", "best val loss", "with"):
            table.add_column(
                title, justify="right" if title in ("runs", "best val loss") else "left"
            )
        for name, best in self._best.items():
            known = best.loss is not None and best.config is not None
            table.add_row(
                name,
                str(best.runs),
                f"{best.loss:.4f}" if known else "–",
                describe_configuration(best.config, self.axes[name]) if best.config else "",
            )
        # A bar does not end its line by itself; the padding does.
        bar = Padding(ProgressBar(total=planned, completed=self._done, width=72), 0)
        return Group(head, bar, table)


def describe_configuration(
    config: RunConfig, axes: Sequence[str] | Mapping[str, Sequence[Value]]
) -> str:
    """The searched values of a run, such as ``lr=0.016 beta2=0.98``.

    Args:
        config: the run.
        axes: names, or the candidates by name, which distinguish shares that give the same steps.
    """
    values = axis_values(config, axes if isinstance(axes, Mapping) else {})
    return " ".join(f"{axis}={format_value(values[axis])}" for axis in axes)
