"""The port that every backend implements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from loop.step import StepManifest, StepSpec

ReportProgress = Callable[[str, int, int], None]
"""Called with (what, done, total)."""


class Backend(Protocol):
    """Runs one step to its end.

    A local subprocess today. Ray and SLURM take the same argv (``python -m loop.step SPEC OUT``),
    because a step needs nothing but its spec, its inputs' paths and a directory to write to.
    """

    def run(self, spec: StepSpec, out_dir: Path, report: ReportProgress) -> StepManifest:
        """Run the step, or return at once if ``out_dir`` holds its finished output.

        Raises:
            StepError: the step refused or died; the message says what to do.
        """
        ...
