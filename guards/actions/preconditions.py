"""Checks that several actions share; each raises :class:`ActionRefused` or returns what it found."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import ValidationError

from guards.entries import DecisionMade, Logged, Sealed, SeedDrawn
from guards.errors import ActionRefused
from guards.gates.contradictions import contradictions
from guards.gates.verdict import Verdict
from guards.history import History
from guards.policy import Policy


def refuse_if_halted(history: History) -> None:
    """Raises ``actions.halted`` while any halt is pending."""
    halts = history.halts()
    if halts:
        raise ActionRefused(
            "actions.halted",
            f"everything is halted since entry {halts[0].seq} ({halts[0].actor}: {halts[0].body.reason})",
            got=f"{len(halts)} pending halt(s)",
            fix="find out why, then lift the halt with a reason: stairlock lift --reason TEXT",
        )


def refuse_if_recalled(history: History, checkpoint: str) -> None:
    """Raises ``actions.recalled`` if the checkpoint must not be used any more."""
    recall = history.recall(checkpoint)
    if recall is not None:
        raise ActionRefused(
            "actions.recalled",
            f"the checkpoint was recalled in entry {recall.seq}: {recall.body.reason}",
            got=checkpoint,
            fix="a recall is final: use another checkpoint",
        )


def sealed(history: History, candidate: str) -> Logged[Sealed]:
    """The candidate's latest seal; raises ``actions.not-sealed``."""
    found = history.candidate(candidate)
    if found is None:
        raise ActionRefused(
            "actions.not-sealed",
            "the candidate was not sealed here",
            got=candidate,
            fix="seal it first: items are drawn only after the candidate's digest is in the log",
        )
    return found


def latest_look(history: History, candidate: str) -> Logged[SeedDrawn]:
    """The candidate's latest look; raises ``actions.no-look``."""
    look = history.latest_look(candidate)
    if look is None:
        raise ActionRefused(
            "actions.no-look", "no items were drawn for this candidate", got=candidate, fix="run its gate first"
        )
    return look


def decided(history: History, look: Logged[SeedDrawn]) -> Logged[DecisionMade]:
    """The look's latest decision; raises ``actions.not-decided``."""
    decision = history.decision(look.seq)
    if decision is None:
        raise ActionRefused(
            "actions.not-decided",
            f"the look that began in entry {look.seq} has no decision yet",
            got=look.body.candidate,
            fix="let the gate run finish (stairlock run --resume), or gate the candidate again",
        )
    return decision


def rejections(history: History, candidate: str) -> tuple[Logged[SeedDrawn], ...]:
    """The looks that rejected a candidate, under any policy.

    A failed verdict counts before it is decided: nothing else than a reject can come of it.
    """
    return tuple(look for look in history.looks(candidate) if _rejects(history, look))


def refuse_if_rejected_under(history: History, candidate: str, policy_name: str) -> None:
    """Raises ``actions.rejected-before`` if a policy of this name, in any version, rejected the candidate."""
    for look in rejections(history, candidate):
        if look.body.policy_name == policy_name:
            raise ActionRefused(
                "actions.rejected-before",
                f"the policy {policy_name!r} rejected this candidate in the look that began in entry {look.seq}",
                got=candidate,
                expected="a candidate that this policy did not reject",
                fix="make another candidate; a reject is final under this policy",
            )


def refuse_if_policy_moved(look: Logged[SeedDrawn], seal: Logged[Sealed]) -> None:
    """Raises ``actions.other-policy`` if the candidate was sealed again under another policy since."""
    if look.body.policy != seal.body.policy:
        raise ActionRefused(
            "actions.other-policy",
            "the candidate is bound to another policy than the look was made under",
            got=look.body.policy,
            expected=seal.body.policy,
            fix="gate the candidate again under the policy that binds it",
        )


def _rejects(history: History, look: Logged[SeedDrawn]) -> bool:
    decision = history.decision(look.seq)
    if decision is not None:
        return decision.body.outcome == "reject"
    return any(verdict.body.outcome == "fail" for verdict in history.verdicts(look.seq))


def refuse_if_champion_moved(history: History, look: Logged[SeedDrawn]) -> None:
    """Raises ``actions.champion-changed`` if another champion came into use since the look began."""
    champion = history.champion()
    if champion != look.body.champion:
        raise ActionRefused(
            "actions.champion-changed",
            "the champion changed since this candidate's items were drawn",
            got=str(champion),
            expected=str(look.body.champion),
            fix="gate the candidate again, against the champion in use (this counts as another look)",
        )


def bound_policy(history: History, policy: str) -> Policy:
    """A recorded policy, read from the log and not from the caller; raises ``actions.policy-unknown``."""
    recorded = history.policy(policy)
    if recorded is None:
        raise ActionRefused(
            "actions.policy-unknown",
            "the policy was not recorded here, so it binds nothing",
            got=policy,
            fix="record it first; it then binds candidates sealed afterwards",
        )
    return read_resolved(recorded.body.resolved)


def read_resolved(resolved: str) -> Policy:
    """A policy from its resolved JSON text; raises ``actions.bad-policy``."""
    try:
        return Policy.model_validate_json(resolved)
    except ValidationError as error:
        first = error.errors()[0]
        raise ActionRefused(
            "actions.bad-policy",
            f"the policy cannot bind anything: {'.'.join(str(part) for part in first['loc'])}: {first['msg']}",
            fix="this version reads other policies than the one that recorded it; use that one, or record it anew",
        ) from error


def refuse_contradictions(policy: Policy, verdicts: Iterable[Verdict]) -> None:
    """Raises ``actions.verdict-contradicts`` for verdicts that do not fit together.

    A composite says what follows from its members, and a test passes only with a bound that clears its threshold.
    """
    problems = list(contradictions(policy, verdicts))
    if problems:
        raise ActionRefused(
            "actions.verdict-contradicts",
            f"verdicts contradict their own figures: {'; '.join(problems)}",
            fix="let the gates judge this look (stairlock gate, stairlock run)",
        )
