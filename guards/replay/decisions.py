"""What the table gave for a look at a moment, from the verdicts and the waivers that the log holds.

A roles file may have changed meanwhile, which the log does not show: a signature under a waiver can
have stopped counting. So :func:`decision_at` says the most that can have been true, and
:func:`decisions_possible` also what was true if no waiver counted.
"""

from __future__ import annotations

from datetime import datetime

from guards.decision import Decision, decide
from guards.entries import WaiverSigned
from guards.errors import ActionRefused
from guards.replay.own_work import own_part
from guards.replay.past import LookSoFar, Past
from guards.waivers import Subject, live_waivers


def decision_at(past: Past, look: LookSoFar, moment: datetime, *, approvals_ok: bool) -> Decision:
    """The design's table over the look's verdicts and the waivers that were live at ``moment``.

    Raises:
        StairlockError: as :func:`guards.decision.decide`.
    """
    policy = past.policies[look.body.policy]
    waivers = live_waivers(
        policy.approvals,
        Subject(look.body.candidate, look.evidence_digest, look.body.policy),
        past.waivers[look.body.candidate],
        now=moment,
        log_time=past.latest_time or moment,
        roles_of=lambda one: _roles_of(past, one),
    )
    return decide(policy, look.verdicts.values(), approvals_ok=approvals_ok, waivers=waivers)


def decisions_possible(past: Past, look: LookSoFar, moment: datetime, *, approvals_ok: bool) -> tuple[Decision, ...]:
    """What could be decided at ``moment``: with the waivers that the log shows as live, and with none."""
    policy = past.policies[look.body.policy]
    without = decide(policy, look.verdicts.values(), approvals_ok=approvals_ok)
    return without, decision_at(past, look, moment, approvals_ok=approvals_ok)


def _roles_of(past: Past, signed: WaiverSigned) -> frozenset[str]:
    part = own_part(
        past,
        candidate=signed.candidate,
        policy=signed.policy,
        person_id=signed.person,
        terms=past.policies[signed.policy].approvals,
        exact=None,
        helps=True,
    )
    if part is not None:
        raise ActionRefused("actions.own-work", f"{signed.person} is the {part} of this candidate")
    return frozenset(signed.roles)
