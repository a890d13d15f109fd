"""The local backend: every step is a subprocess of its own.

So a candidate's weights never share a process with the gate that judges it, memory goes back
when a step ends, and a killed step leaves nothing that is believed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from guards.canonical import canonical_bytes
from guards.durable import write_whole
from guards.errors import StepError
from loop.backends.port import ReportProgress
from loop.step import StepManifest, StepSpec, read_step

_LOG_TAIL_LINES = 15


class LocalBackend:
    """Implements :class:`loop.backends.port.Backend`. ``python`` may be another environment's."""

    def __init__(self, python: str = sys.executable) -> None:
        self._python = python

    def run(self, spec: StepSpec, out_dir: Path, report: ReportProgress) -> StepManifest:
        """See :class:`loop.backends.port.Backend`. The step's stderr is kept beside its output."""
        finished = read_step(out_dir, spec.key)
        if finished is not None:
            return finished
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        spec_path, log_path = out_dir.with_suffix(".spec.json"), out_dir.with_suffix(".log")
        write_whole(spec_path, canonical_bytes(spec.model_dump(mode="json")))
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [self._python, "-P", "-m", "loop.step", str(spec_path), str(out_dir)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    _report_line(line, report)
                code = process.wait()
            except BaseException:  # Ctrl-C too: the child must not go on writing
                process.kill()
                process.wait()
                raise
        if code != 0:
            raise _failed(spec, code, log_path)
        manifest = read_step(out_dir, spec.key)
        if manifest is None:
            raise StepError(
                "step.no-manifest", f"the step {spec.kind} ended without its manifest", fix=f"see {log_path}"
            )
        return manifest


def _report_line(line: str, report: ReportProgress) -> None:
    try:
        event = json.loads(line)
        report(str(event["what"]), int(event["done"]), int(event["total"]))
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        return  # a stray line of a library is no progress, and no reason to stop a step


def _failed(spec: StepSpec, code: int, log_path: Path) -> StepError:
    tail = log_path.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    for line in reversed(tail):
        try:
            refused = json.loads(line)["refused"]
            return StepError(
                refused["rule"],
                refused["message"],
                got=refused["got"],
                expected=refused["expected"],
                fix=refused["fix"],
            )
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    reason = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
    return StepError(
        "step.died",
        f"the step {spec.kind} did not finish",
        got=f"{reason}; {tail[-1] if tail else 'no output'}",
        fix=f"read {log_path}, then run the same command again: finished steps are not repeated",
    )
