"""Reading the evidence of a look from disk, as the log recorded it.

Not covered: evidence that is gone; reading it raises what :func:`guards.evidence.read_run` raises.
"""

from __future__ import annotations

import re
from pathlib import Path

from guards.entries import EvidenceRecorded, Logged
from guards.errors import EvidenceError
from guards.evidence import RECORDS_FILE, EvidenceRun, read_checked, read_manifest, read_run

_PROMPT = re.compile(rb'"prompt_digest":"(sha256:[0-9a-f]{64})"')


def read_recorded_run(home: Path, recorded: Logged[EvidenceRecorded]) -> EvidenceRun:
    """The run that an entry recorded.

    Raises:
        EvidenceError: ``evidence.not-recorded`` (it is another run), or what reading a run refuses.
    """
    body = recorded.body
    run = read_run(home / body.path, expect_checkpoint=body.checkpoint)
    if run.manifest.evidence_digest != body.evidence:
        raise _other_run(recorded, run.manifest.evidence_digest)
    return run


def prompts_of_recorded_run(home: Path, recorded: Logged[EvidenceRecorded]) -> frozenset[str]:
    """Digests of the prompts that a recorded run asked, without reading the rest of its records.

    Raises:
        EvidenceError: ``evidence.not-recorded``, ``evidence.no-manifest``, ``evidence.bad-manifest``,
            ``evidence.digest-mismatch``, where the run that is there is not the recorded one.
    """
    body = recorded.body
    directory = home / body.path
    manifest = read_manifest(directory)
    if manifest.evidence_digest != body.evidence:
        raise _other_run(recorded, manifest.evidence_digest)
    data = read_checked(directory / RECORDS_FILE, manifest.records_sha256)
    return frozenset(found.decode("ascii") for found in _PROMPT.findall(data))


def _other_run(recorded: Logged[EvidenceRecorded], got: str) -> EvidenceError:
    return EvidenceError(
        "evidence.not-recorded",
        f"the run in {recorded.body.path} is not the one that entry {recorded.seq} recorded",
        got=got,
        expected=recorded.body.evidence,
        fix="restore the evidence from a copy",
    )
