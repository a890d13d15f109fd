"""The process that builds and measures members, one after another: ``python -m loop.gauntlet.work JOB``.

For each member: train it, write its checkpoint, audit it, verify its behaviour, remove the checkpoint.
Every part is a step with its own directory, so that what is finished is not computed again, and a
process that is killed loses one part at most. One process takes several members: importing the
libraries takes as long as measuring a small model.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from guards.canonical import parse_json_strict
from guards.errors import StairlockError
from guards.evidence import Digest, Frozen
from loop.checkpoint_io import load_model
from loop.drift.kit_files import DIRECTIONS_FILE, KIT_FILE, read_kit
from loop.drift.probe_spec import probe_spec
from loop.gauntlet.build import ROWS_FILE, fine_tune_spec, member_dir
from loop.gauntlet.member_checkpoint import write_member
from loop.gauntlet.members import Member
from loop.step import Input, Progress, StepSpec, execute
from probes.directions import load_directions


class Job(Frozen):
    """What one process is to do. Without ``kit_dir`` members are trained and not measured."""

    root: Path
    root_digest: Digest
    home: Path
    data: Path | None
    kit_dir: Path | None
    salt_key: Path
    salt_digest: Digest
    members: tuple[Member, ...]


def run_job(job: Job, progress: Progress) -> int:
    """Do the job; the number of members that failed. What failed is reported, and the others go on."""
    root = Input(kind="checkpoint", path=job.root, digest=job.root_digest)
    _, tokenizer = load_model(job.root, "cpu")
    n_failed = 0
    for number, member in enumerate(job.members):
        progress(member.member_id, number, len(job.members))
        try:
            _one(job, member, root, tokenizer, progress)
        except StairlockError as error:
            n_failed += 1
            print(json.dumps({"member": member.member_id, "refused": error.rule, "why": str(error)}), file=sys.stderr)
    progress("members", len(job.members), len(job.members))
    return n_failed


def _one(job: Job, member: Member, root: Input, tokenizer, progress: Progress) -> None:
    directory = member_dir(job.home, member)
    if member.recipe is not None:
        spec, out_dir = fine_tune_spec(member, root, tokenizer, job.home, job.data)
        execute(spec, out_dir, progress)
    if job.kit_dir is None:
        return
    checkpoint_dir = directory / "checkpoint"
    shutil.rmtree(checkpoint_dir, ignore_errors=True)
    kit = read_kit(job.kit_dir / KIT_FILE)
    refusal_dim = None
    if member.edit is not None:
        directions = load_directions(
            job.kit_dir / DIRECTIONS_FILE, parent_digest=kit.parent_digest, d_model=_width(job.root)
        )
        refusal_dim = directions.get("refusal", sorted(directions.layers)[len(directions.layers) // 2]).vector_dim
    try:
        manifest = write_member(member, job.root, job.home, checkpoint_dir, refusal_dim)
        candidate = Input(kind="checkpoint", path=checkpoint_dir, digest=manifest.digest)
        for spec in (_audit(job, member, root, candidate), verify_spec(candidate, member.fault)):
            execute(spec, step_dir(directory, spec), progress)
    finally:
        shutil.rmtree(checkpoint_dir, ignore_errors=True)


def _audit(job: Job, member: Member, root: Input, candidate: Input) -> StepSpec:
    """The audit of a member, with its own training rows."""
    assert job.kit_dir is not None
    rows = member_dir(job.home, member) / ROWS_FILE
    return probe_spec(
        root=root,
        candidate=candidate,
        salt_key=Input(kind="file", path=job.salt_key, digest=job.salt_digest),
        kit_dir=job.kit_dir,
        rows=Input.of_file(rows) if rows.is_file() else None,
        findings=False,
    )


def verify_spec(candidate: Input, fault: str | None = None) -> StepSpec:
    """How a checkpoint behaves, and how often it shows a fault."""
    return StepSpec(kind="verify", inputs={"candidate": candidate}, params={"fault": fault})


def step_dir(directory: Path, spec: StepSpec) -> Path:
    """Where a step's output lies, below a member's directory."""
    return directory / f"{spec.kind}-{spec.key.removeprefix('sha256:')[:16]}"


def _width(root: Path) -> int:
    return int(json.loads((root / "config.json").read_text(encoding="utf-8"))["hidden_size"])


def main(argv: list[str]) -> int:
    """0 all done, 3 something failed (reported on stderr as JSON lines)."""
    stream, sys.stdout = sys.stdout, sys.stderr  # libraries print to stdout; progress must stay JSON lines
    path = Path(argv[0])
    job = Job.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))
    return 3 if run_job(job, Progress(stream)) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
