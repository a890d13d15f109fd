"""What was measured of members, read back from a home.

A member counts as measured when its probe with this kit and its verification are there; what is not there yet is
left out, and said to be. A kit names its way to measure by a number (``measurement``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from guards.canonical import parse_json_strict
from guards.drift.components import DriftVector, vector_of_run
from guards.drift.kit import DriftKit
from guards.evidence import EvidenceRun, read_run
from loop.drift.probe_spec import PROBE_NAME
from loop.gauntlet.build import STEP_DIR, member_dir
from loop.gauntlet.members import Member
from loop.gauntlet.verify import Measurement, why_not_faulty, why_not_harmless
from loop.step import STEP_MANIFEST
from loop.steps.verify import BEHAVIOUR_FILE
from loop.train_record import read_train_record


@dataclass(frozen=True)
class MeasuredMember:
    """A member with its evidence. ``reasons`` say why it is not what it should be; empty if it is."""

    member: Member
    run: EvidenceRun
    vector: DriftVector
    measurement: Measurement
    reasons: tuple[str, ...]
    n_steps: int

    @property
    def is_verified(self) -> bool:
        return not self.reasons


def read_measured(
    home: Path, members: Iterable[Member], kit: DriftKit, root: Measurement
) -> tuple[list[MeasuredMember], list[Member]]:
    """(members that are measured with this kit, members that are not yet).

    Raises:
        EvidenceError: a run is there and cannot be read, or is not of the kit's documents.
        StepError: an output is not what the step wrote.
    """
    found: list[MeasuredMember] = []
    missing: list[Member] = []
    for member in members:
        one = _read_one(home, member, kit, root)
        if one is None:
            missing.append(member)
        else:
            found.append(one)
    return found, missing


def _read_one(home: Path, member: Member, kit: DriftKit, root: Measurement) -> MeasuredMember | None:
    directory = member_dir(home, member)
    run = _run_of_kit(directory, kit)
    vector = None if run is None else vector_of_run(run, kit)
    if vector is not None and vector.unsupported and member.recipe is not None:
        return None  # measured without its rows, which are there: measure it again
    measurement = read_behaviour(directory)
    if run is None or vector is None or measurement is None:
        return None
    if member.edit is not None:
        reasons: tuple[str, ...] = ()
    elif member.fault is None:
        reasons = why_not_harmless(measurement, root)
    else:
        reasons = why_not_faulty(measurement, member.fault)
    n_steps = 0
    if member.recipe is not None:
        n_steps = len(read_train_record(directory / STEP_DIR).batch_digests)
    return MeasuredMember(member, run, vector, measurement, reasons, n_steps)


def _run_of_kit(directory: Path, kit: DriftKit) -> EvidenceRun | None:
    for path in _finished(directory, "probe"):
        run = read_run(path / PROBE_NAME)
        if run.manifest.suite_digest == kit.digest:
            return run
    return None


def read_behaviour(directory: Path) -> Measurement | None:
    """What the last finished verify step below a directory left; None where there is none."""
    finished = _finished(directory, "verify")
    if not finished:
        return None
    path = finished[0] / BEHAVIOUR_FILE
    return Measurement.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))


def _finished(directory: Path, kind: str) -> Sequence[Path]:
    """The directories of finished steps of a kind, the newest first."""
    found = [path for path in directory.glob(f"{kind}-*") if (path / STEP_MANIFEST).is_file()]
    return sorted(found, key=lambda path: (path / STEP_MANIFEST).stat().st_mtime_ns, reverse=True)
