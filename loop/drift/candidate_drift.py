"""The drift audit of a candidate in a look: a probe step for every bank that the policy's drift gates read."""

from __future__ import annotations

from collections.abc import Sequence

from guards.canonical import canonical_lines
from guards.contamination import TrainingRow
from guards.evidence import EvidenceRun, read_run
from guards.policy import DriftGate, ResolvedPolicy, banks_of
from loop.drift.probe_spec import probe_spec
from loop.home import Home
from loop.recorded_steps import RecordedSteps
from loop.rows import Row
from loop.sealed_checkpoints import sealed_directory
from loop.step import Input


def banks_needed(policy: ResolvedPolicy) -> tuple[str, ...]:
    """The banks that the policy's gates read, in order of names."""
    return tuple(sorted({name for gate in policy.policy.leaf_gates() for name in banks_of(gate)}))


def audit_candidate(
    home: Home,
    steps: RecordedSteps,
    policy: ResolvedPolicy,
    seed: bytes,
    *,
    candidate: str,
    root: str | None,
    training_rows: Sequence[TrainingRow] | None,
    name: str,
    device: str,
    dtype: str,
) -> dict[str, EvidenceRun]:
    """The candidate's run with each bank's kit, by the bank's name; nothing where there is no root to compare with.

    Triggers are searched for in ``training_rows``; without them the run says that they were not.

    Raises:
        StepError: the step refused or died.
        ProbeError: ``drift.no-kit-file``, ``drift.bad-kit-file``.
    """
    if root is None:
        return {}
    runs: dict[str, EvidenceRun] = {}
    for bank in banks_needed(policy):
        path = policy.source.parent / policy.policy.banks[bank]
        spec = probe_spec(
            root=Input(kind="checkpoint", path=sealed_directory(home.path, root), digest=root),
            candidate=Input(kind="checkpoint", path=sealed_directory(home.path, candidate), digest=candidate),
            salt_key=home.salt_key(),
            kit_dir=path.resolve().parent,
            rows=home.keep_file(canonical_lines(_as_rows(training_rows))) if training_rows else None,
            name=bank,
            draw_seed=seed,
            triggers=_needs_triggers(policy, bank),
            findings=True,
            device=device,
            dtype=dtype,
        )
        out_dir, _ = steps.run(f"{name}: audit drift", spec, candidate=candidate)
        runs[bank] = read_run(out_dir / bank, expect_checkpoint=candidate)
    return runs


def _as_rows(rows: Sequence[TrainingRow]) -> list[Row]:
    return [Row(row_id=row.row_id, source="training", prompt=row.prompt, answer=row.answer) for row in rows]


def _needs_triggers(policy: ResolvedPolicy, bank: str) -> bool:
    """Whether the bank scores triggers, or a gate on it asks for the training rows."""
    gates = [g for g in policy.policy.leaf_gates() if isinstance(g, DriftGate) and g.bank == bank]
    scored = "triggers" in policy.banks[bank].scoring.stages
    return scored or any(gate.training_rows == "required" for gate in gates)
