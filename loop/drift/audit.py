"""An audit of any checkpoint directory against a bank: outside of any policy, and recorded in no ledger.

The same probe step as in a look, in a process of its own; finished, it is found again and not repeated. A gate
never reads what is measured here: in a look the candidate is measured for that look.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from guards.canonical import parse_json_strict
from guards.drift.assessment import Assessment, assess
from guards.drift.bank import BankFile, read_bank
from guards.drift.components import DriftVector, vector_of_run
from guards.errors import ProbeError, StepError
from guards.evidence import EvidenceRun, read_run
from guards.manifest import scan_checkpoint
from loop.backends.port import Backend
from loop.drift.findings import Findings
from loop.drift.kit_files import KIT_FILE, read_kit
from loop.drift.probe_spec import PROBE_NAME, probe_spec
from loop.home import Home
from loop.recorded_steps import Stage
from loop.step import Input
from loop.steps.probe import FINDINGS_FILE


@dataclass(frozen=True)
class AuditResult:
    """What was measured and what came of it. ``findings`` is None where the step left none."""

    candidate: str
    bank: BankFile
    run: EvidenceRun
    vector: DriftVector
    assessment: Assessment
    findings: Findings | None


def audit_directory(
    home: Home,
    *,
    root: Path,
    candidate: Path,
    bank: Path,
    rows: Path | None,
    backend: Backend,
    stage: Stage,
    device: str = "auto",
    dtype: str = "auto",
) -> AuditResult:
    """Measure ``candidate`` beside ``root`` with the kit that lies beside the bank's file, and assess it.

    Triggers are searched for in ``rows``; without them that stage is unsupported, and left out for all models.

    Raises:
        CheckpointError: a directory is no whole, safe checkpoint.
        ConfigError: as :func:`guards.drift.bank.read_bank`.
        ProbeError: ``drift.other-parent`` (the bank is of another root), ``drift.other-kit-file`` (it was not
            measured with this kit), ``drift.no-kit-file``, ``drift.bad-kit-file``.
        EvidenceError: as :func:`guards.drift.components.vector_of_run` and :func:`guards.drift.assessment.assess`;
            ``drift.too-few-others`` comes before anything is measured.
        StepError: the step refused or died; ``step.no-input`` (there are no such rows).
    """
    file = read_bank(bank)
    kit_dir = bank.resolve().parent
    _refuse_other_kit(file, kit_dir)
    # A fine-tune as it usually is: what cannot be assessed even for it is refused now, and not after minutes.
    assess(file.bank, DriftVector(file.bank.median_vector(), n_documents=len(file.bank.kit.documents)))
    root_digest = scan_checkpoint(root).digest
    if root_digest != file.bank.parent_digest:
        raise ProbeError(
            "drift.other-parent",
            "the bank is of fine-tunes of another root",
            got=file.bank.parent_digest,
            expected=root_digest,
            fix="use the bank of this root",
        )
    candidate_digest = scan_checkpoint(candidate).digest
    spec = probe_spec(
        root=Input(kind="checkpoint", path=root.resolve(), digest=root_digest),
        candidate=Input(kind="checkpoint", path=candidate.resolve(), digest=candidate_digest),
        salt_key=home.salt_key(),
        kit_dir=kit_dir,
        rows=None if rows is None else _rows_input(rows),
        findings=True,
        device=device,
        dtype=dtype,
    )
    out_dir = home.step_dir(spec)
    backend.run(spec, out_dir, stage("audit drift"))
    run = read_run(out_dir / PROBE_NAME, expect_checkpoint=candidate_digest)
    vector = vector_of_run(run, file.bank.kit)
    return AuditResult(candidate_digest, file, run, vector, assess(file.bank, vector), read_findings(out_dir))


def read_findings(step_dir: Path) -> Findings | None:
    """What a probe step found, for people; None where it left nothing to read.

    Raises:
        StepError: ``step.bad-manifest`` where the file is not what such a step writes.
        EvidenceError: the file is no strict JSON.
    """
    path = step_dir / FINDINGS_FILE
    if not path.is_file():
        return None
    try:
        return Findings.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))
    except ValidationError as error:
        raise StepError(
            "step.bad-manifest", f"{path}: {error.errors()[0]['msg']}", fix=f"remove {step_dir} and run again"
        ) from error


def _refuse_other_kit(file: BankFile, kit_dir: Path) -> None:
    kit = read_kit(kit_dir / KIT_FILE)
    if kit.digest != file.bank.kit.digest:
        raise ProbeError(
            "drift.other-kit-file",
            f"the bank was not measured with the kit that lies in {kit_dir}",
            got=kit.digest,
            expected=file.bank.kit.digest,
            fix="restore the directory as it was published",
        )


def _rows_input(rows: Path) -> Input:
    if not rows.is_file():
        raise StepError("step.no-input", f"there are no training rows at {rows}", fix="give the rows' file")
    return Input.of_file(rows.resolve())
