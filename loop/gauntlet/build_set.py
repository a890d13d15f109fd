"""Building and measuring a set of members in a home, from the root's package and the kit's directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guards.canonical import parse_json_strict
from guards.drift.kit import DriftKit
from guards.errors import ProbeError
from loop.backends.local import LocalBackend
from loop.drift.kit_files import KIT_FILE, read_kit
from loop.gauntlet.measured import MeasuredMember, latest, read_measured
from loop.gauntlet.members import Member
from loop.gauntlet.run_jobs import run_members
from loop.gauntlet.verify import Measurement
from loop.gauntlet.work import Job, step_dir, verify_root_spec
from loop.home import Home
from loop.recorded_steps import Stage
from loop.root import shipped_root
from loop.root_package import load_root_spec
from loop.step import Input
from loop.steps.verify import BEHAVIOUR_FILE


@dataclass(frozen=True)
class BuiltSet:
    """``refusals`` say which members could not be built or measured, and why."""

    kit: DriftKit
    root: Measurement
    measured: list[MeasuredMember]
    refusals: list[str]


def build_set(
    home: Home,
    package: Path,
    kit_dir: Path,
    members: Sequence[Member],
    *,
    data: Path | None,
    stage: Stage,
    title: str,
) -> BuiltSet:
    """Build and measure what is missing of ``members``, and read all of them.

    Raises:
        ProbeError: ``drift.bad-kit-file``, ``drift.other-parent`` (a kit of another root).
        ModelError, StepError: as the root's package, and the processes.
    """
    kit = read_kit(kit_dir / KIT_FILE)
    root_dir = shipped_root(home, package, stage)
    digest = load_root_spec(package).digest
    assert digest is not None  # shipped_root refuses a package without one
    if kit.parent_digest != digest:
        raise ProbeError(
            "drift.other-parent",
            "the kit was made for another root",
            got=kit.parent_digest,
            expected=digest,
            fix="make the kit again (stairlock bank kit)",
        )
    salt = home.salt_key()
    gauntlet_home = (home.path / "gauntlet").resolve()
    root = verified_root(gauntlet_home, Input(kind="checkpoint", path=root_dir, digest=digest), stage)
    _, missing = read_measured(gauntlet_home, members, kit, root)
    job = Job(
        root=root_dir.resolve(),
        root_digest=digest,
        home=gauntlet_home,
        data=None if data is None else data.resolve(),
        kit_dir=kit_dir.resolve(),
        salt_key=salt.path.resolve(),
        salt_digest=salt.digest,
        members=(),
    )
    refusals = run_members(job, missing, stage(title)) if missing else []
    measured, _ = read_measured(gauntlet_home, members, kit, root)
    return BuiltSet(kit, root, measured, refusals)


def measured_so_far(home: Home, kit_dir: Path, members: Sequence[Member]) -> tuple[list[MeasuredMember], list[Member]]:
    """(those that were built and measured, those that were not), without building any.

    Raises:
        ProbeError: ``drift.bad-kit-file``; ``gauntlet.root-not-verified``.
    """
    gauntlet_home = (home.path / "gauntlet").resolve()
    kit = read_kit(kit_dir / KIT_FILE)
    path = latest(_root_dir(gauntlet_home, kit.parent_digest), "verify", BEHAVIOUR_FILE)
    if path is None:
        raise ProbeError(
            "gauntlet.root-not-verified",
            "nothing was built in this home yet of the kit's root",
            fix="run stairlock bank build first",
        )
    root = Measurement.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))
    return read_measured(gauntlet_home, members, kit, root)


def verified_root(gauntlet_home: Path, root: Input, stage: Stage) -> Measurement:
    """How the root behaves: what harmless members are compared with."""
    directory = _root_dir(gauntlet_home, root.digest)
    if latest(directory, "verify", BEHAVIOUR_FILE) is None:
        spec = verify_root_spec(root)
        LocalBackend().run(spec, step_dir(directory, spec), stage("verify the root"))
    path = latest(directory, "verify", BEHAVIOUR_FILE)
    assert path is not None
    return Measurement.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))


def _root_dir(gauntlet_home: Path, digest: str) -> Path:
    """A home may hold several roots, and members are compared with their own."""
    return gauntlet_home / "root" / digest.removeprefix("sha256:")[:16]
