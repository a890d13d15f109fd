"""Running steps through the ledger: started before the process, finished with its cost and digests."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from guards import actions
from guards.canonical import digest_of
from guards.errors import StairlockError
from guards.evidence import Cost
from loop.backends.port import Backend, ReportProgress
from loop.home import Home
from loop.step import STEP_MANIFEST, StepManifest, StepSpec, read_step

Stage = Callable[[str], ReportProgress]
"""Called with a step's title; returns what its progress is reported to."""


class RecordedSteps:
    """Runs steps for one run of the loop, and sums up what they cost."""

    def __init__(self, home: Home, backend: Backend, stage: Stage, *, actor: str, run: str | None) -> None:
        self._home = home
        self._backend = backend
        self._stage = stage
        self._actor = actor
        self._run = run
        self.costs: list[tuple[str, Cost]] = []

    def run(self, title: str, spec: StepSpec, *, candidate: str | None = None) -> tuple[Path, StepManifest]:
        """The step's output directory and manifest, computed now or found finished.

        Raises:
            StepError: the step refused or died. That it failed is in the ledger.
            ActionRefused: ``actions.halted``.
        """
        out_dir = self._home.step_dir(spec)
        # Outputs that were cleaned up are computed again, as another attempt.
        lost = not (out_dir / STEP_MANIFEST).is_file()
        attempt = actions.start_step(
            self._home.store,
            spec=spec.key,
            step=spec.kind,
            actor=self._actor,
            candidate=candidate,
            run=self._run,
            again=lost,
        )
        started_s = time.monotonic()
        try:
            manifest = self._backend.run(spec, out_dir, self._stage(title))
        except StairlockError as error:
            if not attempt.is_done:
                actions.finish_step(
                    self._home.store,
                    spec=spec.key,
                    attempt=attempt.number,
                    outcome="failed",
                    actor=self._actor,
                    cost=Cost(wall_ms=int(1000 * (time.monotonic() - started_s))),
                    reason=error.rule,
                )
            raise
        actions.finish_step(
            self._home.store,
            spec=spec.key,
            attempt=attempt.number,
            outcome="done",
            actor=self._actor,
            outputs=digest_of(dict(manifest.outputs)),
            cost=manifest.cost,
        )
        self.costs.append((title, manifest.cost))
        return out_dir, manifest

    def found(self, title: str, out_dir: Path) -> None:
        """Count what a finished step cost whose outputs are used as they are, whatever code wrote them.

        Raises:
            StepError: an output is not what the step wrote.
        """
        manifest = read_step(out_dir, None)
        if manifest is not None:
            self.costs.append((title, manifest.cost))
