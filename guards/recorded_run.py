"""Reading the evidence of a look from disk, as the log recorded it.

Not covered: evidence that is gone; reading it raises what :func:`guards.evidence.read_run` raises.
"""

from __future__ import annotations

from pathlib import Path

from guards.entries import EvidenceRecorded, Logged
from guards.errors import EvidenceError
from guards.evidence import EvidenceRun, read_run


def read_recorded_run(home: Path, recorded: Logged[EvidenceRecorded]) -> EvidenceRun:
    """The run that an entry recorded.

    Raises:
        EvidenceError: ``evidence.not-recorded`` (it is another run), or what reading a run refuses.
    """
    body = recorded.body
    run = read_run(home / body.path, expect_checkpoint=body.checkpoint)
    if run.manifest.evidence_digest != body.evidence:
        raise EvidenceError(
            "evidence.not-recorded",
            f"the run in {body.path} is not the one that entry {recorded.seq} recorded",
            got=run.manifest.evidence_digest,
            expected=body.evidence,
            fix="restore the evidence from a copy",
        )
    return run
