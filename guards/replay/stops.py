"""Halts, lifts, recalls, clean-ups and rollbacks.

Not covered: who halted or lifted; ``actor`` is what the caller said. A clean-up of a candidate
that still waited for its promotion (the root, champions and anchors are covered).
"""

from __future__ import annotations

from guards.entries import Body, CleanedUp, Lifted, Logged, Recalled, RolledBack
from guards.replay.past import Past, not_allowed, require_same

ALLOWED_WHILE_HALTED = frozenset(
    {
        "halt",
        "lift",
        "recall",
        "rollback",
        "signoff",
        "policy_signoff",
        "waiver",
        "step_finished",
        "run_finished",
        "measured",
    }
)


def check_halts(past: Past, entry: Logged[Body]) -> None:
    """While anything is halted, only stopping, opinions and the ends of what runs are written."""
    if past.owes_halt and entry.kind != "halt":
        raise not_allowed(
            entry,
            "the champion or the root was just recalled, and that halts everything",
            got=entry.kind,
            expected="halt",
        )
    if past.halts and entry.kind not in ALLOWED_WHILE_HALTED:
        since = min(past.halts)
        raise not_allowed(entry, f"everything was halted since entry {since}", got=entry.kind, expected="lift first")


def check_lift(past: Past, entry: Logged[Body], body: Lifted) -> None:
    """A lift names pending halts, and nothing in use is a recalled checkpoint."""
    if len(set(body.halts)) != len(body.halts) or not set(body.halts) <= past.halts.keys():
        pending = ", ".join(map(str, past.halts)) or None
        raise not_allowed(entry, "it lifts what was not halted", got=", ".join(map(str, body.halts)), expected=pending)
    recalled = past.in_use & past.recalls
    if recalled:
        raise not_allowed(entry, "the champion or the root is a recalled checkpoint", got=", ".join(sorted(recalled)))


def check_recall(past: Past, entry: Logged[Body], body: Recalled) -> None:
    """What is recalled is the root or was sealed, and was not recalled before."""
    _refuse_unknown(past, entry, body.checkpoint)
    if body.checkpoint in past.recalls:
        raise not_allowed(entry, "the checkpoint was recalled before", got=body.checkpoint)


def check_rollback(past: Past, entry: Logged[Body], body: RolledBack) -> None:
    """Only a past champion comes back, that was not recalled and whose files were kept."""
    require_same(entry, "champion", body.champion_before, past.champion)
    if body.checkpoint == past.champion:
        raise not_allowed(entry, "this checkpoint was the champion in use", got=body.checkpoint)
    if body.checkpoint not in past.champions:
        raise not_allowed(
            entry,
            "only a past champion can come back",
            got=body.checkpoint,
            expected=" or ".join(dict.fromkeys(past.champions)) or None,
        )
    if body.checkpoint in past.recalls:
        raise not_allowed(entry, "the checkpoint was recalled before", got=body.checkpoint)
    if body.checkpoint in past.cleanups:
        raise not_allowed(entry, "the checkpoint's files were deleted before", got=body.checkpoint)


def check_cleanup(past: Past, entry: Logged[Body], body: CleanedUp) -> None:
    """Files of the root, of champions and of anchors are kept."""
    _refuse_unknown(past, entry, body.checkpoint)
    if body.checkpoint in past.cleanups:
        raise not_allowed(entry, "the checkpoint's files were deleted before", got=body.checkpoint)
    kept = set(past.in_use)
    if body.checkpoint not in past.recalls:
        kept |= {*past.champions, *past.current_anchors}
    if body.checkpoint in kept:
        raise not_allowed(entry, "the root, champions and anchors are kept", got=body.checkpoint)


def _refuse_unknown(past: Past, entry: Logged[Body], checkpoint: str) -> None:
    if checkpoint != past.root and not past.seals[checkpoint]:
        raise not_allowed(entry, "this checkpoint was never sealed, and is not the root", got=checkpoint)
