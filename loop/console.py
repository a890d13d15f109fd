"""What a command shows while it works: steps with their progress, on stderr.

On a terminal the running step is one live line with a bar, the count, the time so far and what is
left; a finished step stays as a line with its duration. Elsewhere (CI, a file) a step is a line at
its beginning, one at its end, and one every 30 seconds in between.

A step ends when the next one begins, or when the display is closed; if an exception closes it,
the step failed.
"""

from __future__ import annotations

import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.table import Column
from rich.text import Text

from loop.terminal_text import printable

if TYPE_CHECKING:
    from loop.backends.port import ReportProgress

Clock = Callable[[], float]

LINE_EVERY_S = 30.0
PLAIN_WIDTH = 120
_MIN_MEASURED_S = 1.0
_MAX_TITLE_CHARS = 80


def text_console(stream: TextIO | None = None) -> Console:
    """A console (default: stdout) that takes nothing in a text for markup, emoji or a link."""
    console = Console(file=stream or sys.stdout, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def show_steps(
    *, quiet: bool = False, stream: TextIO | None = None, is_live: bool | None = None, now_s: Clock = time.monotonic
) -> AbstractContextManager[Callable[[str], ReportProgress]]:
    """A context manager whose value is called with each step's title, and returns what to report to.

    ``is_live`` defaults to whether ``stream`` (stderr) is a terminal.
    """
    out = stream or sys.stderr
    if quiet:
        return _silent()
    if out.isatty() if is_live is None else is_live:
        return _LiveSteps(out, now_s)
    return _PlainSteps(out, now_s)


def duration_text(seconds: float) -> str:
    """``4.2 s``, ``42 s``, ``2 min 05 s``, ``1 h 07 min``; tenths only of what is not a whole number."""
    if seconds < 9.95 and seconds != round(seconds):
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@dataclass
class _Step:
    """One step. A step may report several things one after the other, each with its own total."""

    title: str
    now_s: Clock
    started_s: float = field(init=False)
    what: str = ""
    done: int = 0
    total: int | None = None
    _phase_from: tuple[float, int] = field(init=False, default=(0.0, 0))

    def __post_init__(self) -> None:
        self.started_s = self.now_s()

    @property
    def elapsed_s(self) -> float:
        return self.now_s() - self.started_s

    def update(self, what: str, done: int, total: int) -> None:
        what = printable(what, max_chars=_MAX_TITLE_CHARS)
        if what != self.what or total != self.total or done < self.done:
            self._phase_from = (self.now_s(), done)
        self.what, self.done, self.total = what, done, total

    def left_s(self) -> float | None:
        """Time left in the present phase at its speed so far; None while that cannot be said."""
        since_s, first = self._phase_from
        measured_s = self.now_s() - since_s
        if self.total is None or self.done <= first or measured_s < _MIN_MEASURED_S:
            return None
        return measured_s / (self.done - first) * max(0, self.total - self.done)

    def count_text(self) -> str:
        return "" if self.total is None else f"{self.done}/{self.total}"

    def time_text(self) -> str:
        left_s = self.left_s()
        # Rounded up: a step that says "0 s left" and goes on looks stuck.
        left = "" if left_s is None else f", {duration_text(max(1, math.ceil(left_s)))} left"
        return f"{duration_text(self.elapsed_s)}{left}"


class _Steps(ABC):
    """Keeps track of which step runs; subclasses show it."""

    def __init__(self, stream: TextIO, now_s: Clock) -> None:
        self._stream = stream
        self._now_s = now_s
        self._running: _Step | None = None

    def __enter__(self) -> Callable[[str], ReportProgress]:
        return self._begin

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end("done" if kind is None else "stopped" if kind is KeyboardInterrupt else "failed")

    def _begin(self, title: str) -> ReportProgress:
        self._end("done")
        step = _Step(printable(title, max_chars=_MAX_TITLE_CHARS), self._now_s)
        self._running = step
        self._show_begin(step)

        def report(what: str, done: int, total: int) -> None:
            if self._running is step:  # a late report of a step that ended changes nothing
                step.update(what, done, total)
                self._show_progress(step)

        return report

    def _end(self, how: str) -> None:
        if self._running is not None:
            step, self._running = self._running, None
            self._show_end(step, how)

    @abstractmethod
    def _show_begin(self, step: _Step) -> None: ...

    @abstractmethod
    def _show_progress(self, step: _Step) -> None: ...

    @abstractmethod
    def _show_end(self, step: _Step, how: str) -> None:
        """``how`` it ended: done, failed or stopped."""


class _PlainSteps(_Steps):
    """Lines, for logs."""

    _last_line_s = 0.0

    def _show_begin(self, step: _Step) -> None:
        self._line(f"begin   {step.title}")

    def _show_progress(self, step: _Step) -> None:
        if self._now_s() - self._last_line_s >= LINE_EVERY_S:
            self._line(f"        {step.title}: {step.what} {step.count_text()} ({step.time_text()})")

    def _show_end(self, step: _Step, how: str) -> None:
        self._line(f"{how:<7} {step.title} ({duration_text(step.elapsed_s)})")

    def _line(self, text: str) -> None:
        self._last_line_s = self._now_s()
        self._stream.write(text + "\n")
        self._stream.flush()


class _LiveSteps(_Steps):
    """One live line, and a line above it for every step that ended."""

    def __init__(self, stream: TextIO, now_s: Clock) -> None:
        super().__init__(stream, now_s)
        self._progress = Progress(
            _TitleColumn(table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=16),
            _StepColumn(lambda step: step.count_text()),
            _StepColumn(lambda step: step.time_text()),
            console=text_console(stream),
            refresh_per_second=4,
            transient=True,
            expand=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Callable[[str], ReportProgress]:
        self._progress.start()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        finally:
            self._progress.stop()

    def _show_begin(self, step: _Step) -> None:
        self._task = self._progress.add_task(step.title, total=None, step=step)

    def _show_progress(self, step: _Step) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=step.done, total=step.total)

    def _show_end(self, step: _Step, how: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        mark, style = {"done": ("✓", "green"), "failed": ("✗", "red")}.get(how, ("–", "yellow"))
        line = Text.assemble((mark, style), f" {step.title}", (f"  {duration_text(step.elapsed_s)}", "dim"))
        if how != "done":
            line.append(f"  {how}", style=style)
        self._progress.console.print(line)


class _TitleColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        step: _Step = task.fields["step"]
        return Text.assemble(step.title, (f"  {step.what}", "dim") if step.what else "")


class _StepColumn(ProgressColumn):
    """A text about the running step, made anew at every refresh."""

    def __init__(self, text_of: Callable[[_Step], str]) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self._text_of = text_of

    def render(self, task: Task) -> Text:
        return Text(self._text_of(task.fields["step"]))


@contextmanager
def _silent() -> Generator[Callable[[str], ReportProgress]]:
    yield lambda _title: lambda _what, _done, _total: None
