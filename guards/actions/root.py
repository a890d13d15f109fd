"""Setting the root: the checkpoint that training starts from, and the first champion."""

from __future__ import annotations

from collections.abc import Sequence

from guards.actions.preconditions import bound_policy, refuse_contradictions, refuse_if_halted, refuse_if_recalled
from guards.decision import decide
from guards.entries import Logged, RootSet
from guards.errors import ActionRefused
from guards.gates.verdict import Verdict
from guards.manifest import CheckpointManifest
from guards.store import Store


def set_root(
    store: Store,
    *,
    manifest: CheckpointManifest,
    policy: str,
    evidence: Sequence[str],
    verdicts: Sequence[Verdict],
    actor: str,
) -> Logged[RootSet]:
    """Make a checkpoint the root and the champion, on evidence that passed the root's policy.

    ``evidence`` are digests of runs; ``verdicts`` must pass every gate of the recorded policy, and
    no waiver helps here. A home has one root, for good: the same
    checkpoint again is the entry that exists.

    Not covered: the caller made the verdicts; the evidence digests say what anyone may check.

    Raises:
        ActionRefused: ``actions.root-exists``, ``actions.halted``, ``actions.recalled``,
            ``actions.policy-unknown``, ``actions.no-evidence``, ``actions.root-failed``,
            ``actions.verdict-contradicts``.
        StairlockError: the verdicts are not one for every gate (:func:`guards.decision.decide`).
    """
    checkpoint = manifest.digest
    with store.write() as transaction:
        history = transaction.history
        existing = history.root()
        if existing is not None and existing.body.checkpoint == checkpoint:
            return existing
        refuse_if_halted(history)
        if existing is not None:
            raise ActionRefused(
                "actions.root-exists",
                "this home has a root, and a root never changes",
                got=checkpoint,
                expected=existing.body.checkpoint,
                fix="start another home (--home DIR) for another root",
            )
        refuse_if_recalled(history, checkpoint)
        if not evidence:
            raise ActionRefused("actions.no-evidence", "a root without evidence", fix="evaluate it first")
        bound = bound_policy(history, policy)
        decision = decide(bound, verdicts, approvals_ok=True)
        if decision.outcome != "promote":
            raise ActionRefused(
                "actions.root-failed", "the root must pass every gate of its policy", got="; ".join(decision.reasons)
            )
        refuse_contradictions(bound, verdicts)
        body = RootSet(
            checkpoint=checkpoint,
            manifest=manifest.to_json(),
            policy=policy,
            evidence=tuple(evidence),
            verdicts=tuple(verdict.to_ledger() for verdict in decision.verdicts),
        )
        return transaction.append(actor, body)
