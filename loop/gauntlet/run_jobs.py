"""Running the processes that build and measure members; finished members are not given to any."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from guards.canonical import canonical_bytes
from guards.durable import write_whole
from guards.errors import StepError
from loop.backends.port import ReportProgress
from loop.gauntlet.members import Member
from loop.gauntlet.work import Job

MEMBERS_PER_PROCESS = 5
"""Training leaves memory behind that grows from member to member; a new process begins with none."""


def run_members(job: Job, members: Sequence[Member], report: ReportProgress, python: str = sys.executable) -> list[str]:
    """Build and measure ``members``; returns why some could not be, one line each.

    Interrupted, it goes on where it stopped when it is called again: every part is a step.

    Raises:
        StepError: ``gauntlet.process-died``.
    """
    work_dir = job.home / "jobs"
    work_dir.mkdir(parents=True, exist_ok=True)
    refusals: list[str] = []
    for start in range(0, len(members), MEMBERS_PER_PROCESS):
        part = tuple(members[start : start + MEMBERS_PER_PROCESS])
        path = work_dir / f"{part[0].member_id}.json"
        write_whole(path, canonical_bytes(job.model_copy(update={"members": part}).model_dump(mode="json")))
        names = frozenset({*(member.member_id for member in part), "members"})
        refusals += _run_one(path, python, report, names, start, len(members))
    return refusals


def _run_one(
    path: Path, python: str, report: ReportProgress, names: frozenset[str], n_before: int, n_all: int
) -> list[str]:
    log_path = path.with_suffix(".log")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [python, "-P", "-m", "loop.gauntlet.work", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            n_done = 0
            for line in process.stdout:
                n_done = _passed_on(line, report, names, n_before, n_done, n_all)
            code = process.wait()
        except BaseException:  # Ctrl-C too: the child must not go on
            process.kill()
            process.wait()
            raise
    refusals = _refusals(log_path)
    if code not in (0, 3) or (code == 3 and not refusals):
        raise StepError(
            "gauntlet.process-died",
            "a process that builds members did not finish",
            got=f"killed by signal {-code}" if code < 0 else f"exit code {code}",
            fix=f"read {log_path}, then run the same command again: finished members are not built again",
        )
    return refusals


def _passed_on(line: str, report: ReportProgress, names: frozenset[str], n_before: int, n_done: int, n_all: int) -> int:
    """Members done in this process so far; the name of the one at work is shown."""
    try:
        event = json.loads(line)
        what, done = str(event["what"]), int(event["done"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError):
        return n_done
    if what in names:
        report(what, n_before + done, n_all)
        return done
    return n_done


def _refusals(log_path: Path) -> list[str]:
    found = []
    for line in log_path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith('{"member"'):
            try:
                event = json.loads(line)
                found.append(f"{event['member']}: {event['why'].splitlines()[0]}")  # it begins with its rule
            except (json.JSONDecodeError, KeyError, IndexError):
                found.append(f"a line that was cut off: {line}")
    return found
