"""What gates are given, and the checks that every piece of evidence passes before a gate reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from pydantic import Field

from guards.contamination import TrainingRow
from guards.drift.components import DriftVector
from guards.errors import EvidenceError
from guards.evidence import EvidenceRun, Frozen
from guards.gates.alpha import LookPlan
from guards.gates.score_table import ScoreTable
from guards.manifest import CheckpointFacts
from guards.policy import EvalGate, ResolvedPolicy

Role = Literal["candidate", "champion", "root", "anchor"]


class TableSource(Protocol):
    """Where eval gates' score tables come from, if not from the runs (:mod:`guards.gates.eval_table`)."""

    def table(self, gate: EvalGate, inputs: GateInputs) -> ScoreTable:
        """The table that :func:`guards.gates.eval_table.table_from_runs` would make, with the same refusals."""
        ...


class BudgetState(Frozen):
    """What the loop has used, this candidate's making included."""

    cycles_without_person: int = Field(ge=0)
    cost_s: float = Field(ge=0, allow_inf_nan=False)
    tokens_trained: int = Field(ge=0)


@dataclass(frozen=True, kw_only=True)
class GateInputs:
    """Everything that the gates of one look may read. What is absent makes a gate inconclusive.

    ``checkpoints`` maps each role to the digest that it has, and ``anchors`` a gate's id to that of
    its own anchor, where that is not ``checkpoints["anchor"]``. ``runs`` is keyed by role and suite;
    an anchor's run may stand under its digest instead, or under another role that has this digest.
    ``draw_seed_digest`` is that of the seed that entered the ledger for this look; looks count from 1.
    ``earlier_looks`` are the plans of those before it (:func:`guards.gates.alpha.earlier_looks`), and
    ``holdout_reads`` says by a suite's digest in how many looks of any policy it was read before
    (:func:`guards.gates.holdouts.holdout_reads`); a holdout that it does not name cannot be tested on.
    ``tables`` and ``drift_vectors`` (by bank) are None wherever something is decided: both are then made from
    ``runs``.
    """

    policy: ResolvedPolicy
    look: int
    draw_seed_digest: str
    checkpoints: Mapping[Role, str]
    runs: Mapping[tuple[str, str], EvidenceRun]
    anchors: Mapping[str, str] = field(default_factory=dict[str, str])
    facts: Mapping[Role, CheckpointFacts] = field(default_factory=dict[Role, CheckpointFacts])
    training_rows: tuple[TrainingRow, ...] | None = None
    template_texts: tuple[str, ...] = ()
    budget: BudgetState | None = None
    earlier_looks: tuple[LookPlan, ...] = ()
    holdout_reads: Mapping[str, int] = field(default_factory=dict[str, int])
    tables: TableSource | None = None
    drift_vectors: Mapping[str, DriftVector] | None = None


def required_run(
    inputs: GateInputs, role: Role, suite: str, *, gate_id: str = "", may_be_partial: bool = False
) -> EvidenceRun:
    """The run of ``suite`` (or of a bank's kit) by the checkpoint in ``role``, if it is evidence for this look.

    With ``may_be_partial`` also a run that says itself how many items it has not answered; what follows
    from it is then for :mod:`guards.gates.early_stop` to say.

    Raises:
        EvidenceError: ``gate.no-checkpoint``, ``gate.missing-run``, ``gate.other-checkpoint``,
            ``gate.other-suite``, ``gate.other-draw``, ``gate.partial-run``.
    """
    checkpoint = inputs.anchors.get(gate_id) if role == "anchor" else None
    checkpoint = checkpoint or inputs.checkpoints.get(role)
    if checkpoint is None:
        raise EvidenceError("gate.no-checkpoint", f"there is no {role} to compare with")
    run = inputs.runs.get((role, suite))
    if role == "anchor" and (run is None or run.manifest.checkpoint_digest != checkpoint):
        run = _run_of_checkpoint(inputs, checkpoint, suite) or run
    if run is None:
        raise EvidenceError(
            "gate.missing-run", f"there is no evidence of the {role} on suite {suite!r}", fix="evaluate it"
        )
    manifest = run.manifest
    suite_digest = inputs.policy.run_digests.get(suite, "no such suite")
    n_records = str(len(run.records))
    n_items = str(manifest.n_items if may_be_partial else manifest.n_drawn or manifest.n_items)
    for rule, what, got, expected in (
        ("gate.other-checkpoint", f"not of the {role}", manifest.checkpoint_digest, checkpoint),
        ("gate.other-suite", "not of the policy's suite", manifest.suite_digest, suite_digest),
        ("gate.other-draw", "not of this look's draw", manifest.draw_seed_digest, inputs.draw_seed_digest),
        ("gate.partial-run", "without some of the items that were drawn", n_records, n_items),
    ):
        if got != expected:
            raise EvidenceError(
                rule, f"the evidence given for the {role} on suite {suite!r} is {what}", got=got, expected=expected
            )
    return run


def _run_of_checkpoint(inputs: GateInputs, checkpoint: str, suite: str) -> EvidenceRun | None:
    """A run that stands under the checkpoint's digest, or under a role that the checkpoint has."""
    keys = [checkpoint, *(role for role, digest in inputs.checkpoints.items() if digest == checkpoint)]
    return next((inputs.runs[key, suite] for key in keys if (key, suite) in inputs.runs), None)


def comparable_runs(
    inputs: GateInputs, reference: Role, suite: str, *, gate_id: str = "", may_be_partial: bool = False
) -> tuple[EvidenceRun, EvidenceRun]:
    """The candidate's and the reference's run of ``suite``: the same items, measured the same way.

    Raises:
        EvidenceError: as :func:`required_run`, and ``gate.other-items``, ``gate.other-engine``.
    """
    candidate = required_run(inputs, "candidate", suite, may_be_partial=may_be_partial)
    other = required_run(inputs, reference, suite, gate_id=gate_id, may_be_partial=may_be_partial)
    items = {record.item_id: (record.prompt_digest, record.cluster) for record in candidate.records}
    others = {record.item_id: (record.prompt_digest, record.cluster) for record in other.records}
    if items != others or candidate.manifest.unanswered != other.manifest.unanswered:
        raise EvidenceError(
            "gate.other-items", f"candidate and {reference} did not answer the same items of suite {suite!r}"
        )
    for name in ("engine", "device", "dtype", "batch_plan", "code_digest"):
        got, expected = str(getattr(candidate.manifest, name)), str(getattr(other.manifest, name))
        if got != expected:
            raise EvidenceError(
                "gate.other-engine",
                f"candidate and {reference} were measured differently on suite {suite!r}: {name}",
                got=got,
                expected=expected,
                fix="evaluate both with the same engine, device, dtype, batch plan and version of this program",
            )
    return candidate, other
