"""Building and measuring a set of members in a home, from the root's package and the kit's directory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guards.drift.kit import DriftKit
from guards.errors import ProbeError
from loop.backends.local import LocalBackend
from loop.drift.kit_files import KIT_FILE, read_kit
from loop.gauntlet.measured import MeasuredMember, read_behaviour, read_measured
from loop.gauntlet.members import Member
from loop.gauntlet.run_jobs import run_members
from loop.gauntlet.verify import Measurement
from loop.gauntlet.work import Job, step_dir, verify_spec
from loop.home import Home
from loop.recorded_steps import Stage
from loop.root import shipped_root
from loop.step import Input


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
    root = shipped_root(home, package, stage)
    if kit.parent_digest != root.digest:
        raise ProbeError(
            "drift.other-parent",
            "the kit was made for another root",
            got=kit.parent_digest,
            expected=root.digest,
            fix="make the kit again (stairlock bank kit)",
        )
    salt = home.salt_key()
    gauntlet_home = (home.path / "gauntlet").resolve()
    behaviour = verified_root(gauntlet_home, root, stage)
    measured, missing = read_measured(gauntlet_home, members, kit, behaviour)
    if not missing:
        return BuiltSet(kit, behaviour, measured, [])
    job = Job(
        root=root.path.resolve(),
        root_digest=root.digest,
        home=gauntlet_home,
        data=None if data is None else data.resolve(),
        kit_dir=kit_dir.resolve(),
        salt_key=salt.path.resolve(),
        salt_digest=salt.digest,
        members=(),
    )
    refusals = run_members(job, missing, stage(title))
    measured, _ = read_measured(gauntlet_home, members, kit, behaviour)
    return BuiltSet(kit, behaviour, measured, refusals)


def measured_so_far(home: Home, kit_dir: Path, members: Sequence[Member]) -> tuple[list[MeasuredMember], list[Member]]:
    """(those that were built and measured, those that were not), without building any.

    Raises:
        ProbeError: ``drift.bad-kit-file``; ``gauntlet.root-not-verified``.
    """
    gauntlet_home = (home.path / "gauntlet").resolve()
    kit = read_kit(kit_dir / KIT_FILE)
    root = read_behaviour(_root_dir(gauntlet_home, kit.parent_digest))
    if root is None:
        raise ProbeError(
            "gauntlet.root-not-verified",
            "nothing was built in this home yet of the kit's root",
            fix="run stairlock bank build first",
        )
    return read_measured(gauntlet_home, members, kit, root)


def verified_root(gauntlet_home: Path, root: Input, stage: Stage) -> Measurement:
    """How the root behaves: what harmless members are compared with."""
    directory = _root_dir(gauntlet_home, root.digest)
    found = read_behaviour(directory)
    if found is None:
        spec = verify_spec(root)
        LocalBackend().run(spec, step_dir(directory, spec), stage("verify the root"))
        found = read_behaviour(directory)
    assert found is not None  # the step ended well
    return found


def _root_dir(gauntlet_home: Path, digest: str) -> Path:
    """A home may hold several roots, and members are compared with their own."""
    return gauntlet_home / "root" / digest.removeprefix("sha256:")[:16]
