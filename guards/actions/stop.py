"""Stopping: halt, lift, recall, and the clean-up of checkpoints that nothing needs any more.

Anyone may halt and recall. ``actor`` is what the caller says: neither is signed, because
stopping must never wait for a key. Lifting a halt only lets the gates and approvals decide again.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from guards.actions.outcome import decision_now
from guards.actions.preconditions import refuse_if_halted
from guards.actions.signoff import home_roles
from guards.entries import CleanedUp, Halted, Lifted, Logged, Recalled
from guards.errors import ActionRefused
from guards.history import History
from guards.roles import Roles
from guards.store import Store


def halt(store: Store, *, reason: str, actor: str) -> Logged[Halted]:
    """Stop everything until it is lifted. Said twice by the same actor with the same reason, it is one halt."""
    with store.write() as transaction:
        for pending in transaction.history.halts():
            if (pending.actor, pending.body.reason) == (actor, reason):
                return pending
        return transaction.append(actor, Halted(reason=reason))


def lift(store: Store, *, reason: str, actor: str, halts: Sequence[int] | None = None) -> Logged[Lifted]:
    """End pending halts: those with these entry numbers, or all.

    Raises:
        ActionRefused: ``actions.not-halted``, ``actions.recalled-in-use`` while the champion or the
            root is a recalled checkpoint.
    """
    with store.write() as transaction:
        history = transaction.history
        pending = [item.seq for item in history.halts()]
        chosen = sorted(set(pending if halts is None else halts))
        if not chosen or not set(chosen) <= set(pending):
            raise ActionRefused(
                "actions.not-halted",
                "there is no such halt to lift",
                got=", ".join(map(str, chosen)) or "none",
                expected=f"among {', '.join(map(str, pending))}" if pending else "a pending halt",
            )
        root = history.root()
        for place, checkpoint in (
            ("champion", history.champion()),
            ("root", None if root is None else root.body.checkpoint),
        ):
            if checkpoint is not None and history.is_recalled(checkpoint):
                raise ActionRefused(
                    "actions.recalled-in-use",
                    f"the {place} is a recalled checkpoint",
                    got=checkpoint,
                    fix="roll back to a past champion first; with a recalled root, start another home",
                )
        return transaction.append(actor, Lifted(halts=tuple(chosen), reason=reason))


def recall(store: Store, *, checkpoint: str, reason: str, actor: str) -> Logged[Recalled]:
    """Forbid a checkpoint for good: it is never promoted, rolled back to, or an anchor again.

    If it is the champion in use or the root, everything is halted in the same transaction: what
    replaces it is for people to choose. Recalled again, it is the entry that exists.

    Not covered: copies already in use elsewhere.

    Raises:
        ActionRefused: ``actions.unknown-checkpoint``.
    """
    with store.write() as transaction:
        history = transaction.history
        existing = history.recall(checkpoint)
        if existing is not None:
            return existing
        is_champion, is_root = _in_use(history, checkpoint)
        if not is_root and history.candidate(checkpoint) is None:
            raise ActionRefused(
                "actions.unknown-checkpoint",
                "this checkpoint was neither sealed here nor is it the root",
                got=checkpoint,
            )
        recalled = transaction.append(actor, Recalled(checkpoint=checkpoint, reason=reason))
        if is_champion or is_root:
            place = "champion" if is_champion else "root"
            transaction.append(actor, Halted(reason=f"the {place} was recalled in entry {recalled.seq}"))
        return recalled


def record_cleanup(store: Store, *, checkpoint: str, rule: str, actor: str) -> Logged[CleanedUp]:
    """Write that a checkpoint's files are being deleted by ``rule``; call it before deleting them.

    Recorded again, it is the entry that exists.

    Raises:
        ActionRefused: ``actions.halted``, ``actions.unknown-checkpoint``, ``actions.still-needed`` for
            the root, every champion that was not recalled (rollback needs it), anchors, and
            candidates that are being gated or wait for their promotion.
    """
    known = home_roles(store)
    with store.write() as transaction:
        history = transaction.history
        existing = history.cleanup(checkpoint)
        if existing is not None:
            return existing
        refuse_if_halted(history)
        needed_as = _needed_as(history, checkpoint, known, transaction.now)
        if needed_as is not None:
            raise ActionRefused(
                "actions.still-needed", f"the checkpoint is still needed as {needed_as}", got=checkpoint
            )
        return transaction.append(actor, CleanedUp(checkpoint=checkpoint, rule=rule))


def _in_use(history: History, checkpoint: str) -> tuple[bool, bool]:
    """(is the champion, is the root)."""
    root = history.root()
    return history.champion() == checkpoint, root is not None and root.body.checkpoint == checkpoint


def _needed_as(history: History, checkpoint: str, roles: Roles | None, now: datetime) -> str | None:
    is_champion, is_root = _in_use(history, checkpoint)
    if is_root:
        return "the root"
    if is_champion:
        return "the champion"
    if history.candidate(checkpoint) is None:
        raise ActionRefused("actions.unknown-checkpoint", "this checkpoint was never sealed here", got=checkpoint)
    if history.is_recalled(checkpoint):
        return None
    if checkpoint in history.anchors().values():
        return "an anchor"
    if checkpoint in {term.checkpoint for term in history.champions()}:
        return "a past champion, for a rollback"
    look = history.latest_look(checkpoint)
    if look is None or look.body.champion != history.champion():
        return None  # never gated, or against a champion that is gone: only another look could promote it
    decision = history.decision(look.seq)
    if decision is None:
        return "a candidate that is being gated"
    gates_say = decision_now(history, look, now, approvals_ok=True, roles=roles)
    waits = decision.body.outcome != "reject" and gates_say.outcome == "promote"
    return "a candidate that waits for its promotion" if waits else None
