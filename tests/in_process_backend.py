"""Steps in the test's own process, and kills that a test can catch.

A step takes a second here, and several in a process of its own. What the processes have to do
with it is tested with the real backend, in tests/loop/test_run.py and test_kill.py.
"""

from __future__ import annotations

from pathlib import Path

from loop.backends.port import ReportProgress
from loop.step import Progress, StepManifest, StepSpec, execute


class Killed(BaseException):
    """Raised where a test lets the program die: no ``except Exception`` on the way stops it."""


class InProcessBackend:
    """Implements :class:`loop.backends.port.Backend`."""

    def run(self, spec: StepSpec, out_dir: Path, report: ReportProgress) -> StepManifest:
        return execute(spec, out_dir, Progress())


def quiet(_title: str) -> ReportProgress:
    """A stage that shows nothing."""
    return lambda _what, _done, _total: None
