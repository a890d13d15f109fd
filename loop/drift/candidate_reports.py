"""The drift reports of a look: one for every drift gate whose evidence is there.

They are made from the evidence that the look was judged by, for people to read after it was decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from guards.drift.assessment import assess
from guards.drift.bank import BankFile
from guards.drift.components import vector_of_run
from guards.errors import StairlockError
from guards.evidence import EvidenceRun
from guards.policy import DriftGate, ResolvedPolicy, resolve_policy
from loop.drift.audit import read_findings
from loop.drift.report import DriftReport, drift_report, write_drift_report
from loop.terminal_text import short

REPORTS_DIR = "reports"


def candidate_reports(policy: ResolvedPolicy, runs: Mapping[tuple[str, str], EvidenceRun]) -> tuple[DriftReport, ...]:
    """In the order of the gates. ``runs`` are a look's, by role and by suite or bank.

    A gate whose evidence is missing, or cannot be assessed, has no report: its verdict says why.
    """
    reports: list[DriftReport] = []
    for gate in policy.policy.leaf_gates():
        if not isinstance(gate, DriftGate):
            continue
        run = runs.get(("candidate", gate.bank))
        bank = policy.banks.get(gate.bank)
        if run is None or bank is None or run.manifest.suite_digest != bank.kit.digest:
            continue
        try:
            reports.append(_report(gate, BankFile(bank, policy.resolved.banks[gate.bank]), run))
        except StairlockError:
            continue
    return tuple(reports)


def reports_under(policy: Path, digest: str, runs: Mapping[tuple[str, str], EvidenceRun]) -> tuple[DriftReport, ...]:
    """:func:`candidate_reports` under a policy's file; none where it is no longer the policy of that digest.

    It is read after the decision, which must not fail on account of a view of it.
    """
    try:
        resolved = resolve_policy(policy)
    except StairlockError:
        return ()
    return candidate_reports(resolved, runs) if resolved.digest == digest else ()


def write_candidate_reports(reports: tuple[DriftReport, ...], home: Path) -> tuple[Path, ...]:
    """Write each as ``HOME/reports/drift-CANDIDATE/GATE/``; the paths of the pages.

    Raises:
        OSError: the disk is full.
    """
    paths: list[Path] = []
    for one in reports:
        gate = one.levels.gate if one.levels is not None else "audit"
        paths.append(write_drift_report(one, home / REPORTS_DIR / f"drift-{short(one.candidate)}" / gate)[1])
    return tuple(paths)


def _report(gate: DriftGate, file: BankFile, run: EvidenceRun) -> DriftReport:
    vector = vector_of_run(run, file.bank.kit)
    return drift_report(
        file,
        vector,
        assess(file.bank, vector),
        candidate=run.manifest.checkpoint_digest,
        findings=read_findings(run.directory.parent),
        gate=gate,
    )
