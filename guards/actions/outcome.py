"""What the record of a look calls for at a moment: :func:`guards.decision.decide`, fed from the log alone."""

from __future__ import annotations

from datetime import datetime

from guards.actions.preconditions import bound_policy
from guards.decision import Decision, decide
from guards.entries import Logged, SeedDrawn, VerdictRecorded
from guards.errors import ActionRefused
from guards.gates.verdict import Verdict
from guards.history import History
from guards.policy import live_waivers


def decision_now(history: History, look: Logged[SeedDrawn], now: datetime, *, approvals_ok: bool) -> Decision:
    """The design's table over the recorded verdicts and the waivers that are live at ``now``.

    Whatever was decided before, this is what holds when something is about to take effect.

    Raises:
        StairlockError: ``decision.no-verdicts`` and the like (:func:`guards.decision.decide`).
        ActionRefused: ``actions.no-evidence``, ``actions.evidence-changed``.
    """
    evidence = evidence_of(history, look)
    recorded = history.verdicts(look.seq)
    if any(item.body.evidence != evidence for item in recorded):
        raise ActionRefused(
            "actions.evidence-changed",
            "the verdicts are about other evidence than is recorded",
            fix="gate the candidate again (another look)",
        )
    policy = bound_policy(history, look.body.policy)
    return decide(
        policy,
        [read_verdict(item) for item in recorded],
        approvals_ok=approvals_ok,
        waivers=live_waivers(policy, look.body.candidate, now),
    )


def read_verdict(recorded: Logged[VerdictRecorded]) -> Verdict:
    """The verdict that an entry holds; raises :class:`EvidenceError` ``gate.bad-verdict``."""
    return Verdict.from_ledger(dict(recorded.body.figures))


def evidence_of(history: History, look: Logged[SeedDrawn]) -> str:
    """Digest over all evidence of a look; raises ``actions.no-evidence``."""
    digest = history.evidence_digest(look.seq)
    if digest is None:
        raise ActionRefused(
            "actions.no-evidence",
            f"no evidence is recorded for the look that began in entry {look.seq}",
            fix="evaluate the candidate on the items of this look first",
        )
    return digest
