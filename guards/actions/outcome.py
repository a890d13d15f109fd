"""What the record of a look calls for at a moment: :func:`guards.decision.decide`, fed from the log and the roles."""

from __future__ import annotations

from datetime import datetime

from guards.actions.eligibility import refuse_own_work, refuse_unknown_accounts
from guards.actions.preconditions import bound_policy
from guards.decision import Decision, decide, mark_waived
from guards.entries import Logged, SeedDrawn, VerdictRecorded, WaiverSigned
from guards.errors import ActionRefused, SignatureRefused
from guards.gates.verdict import Verdict
from guards.history import History
from guards.policy import Waiver
from guards.roles import Roles
from guards.signing import parse_envelope
from guards.waivers import Subject, WaiverStanding, standing_waivers, verify_waiver


def decision_now(
    history: History, look: Logged[SeedDrawn], now: datetime, *, approvals_ok: bool, roles: Roles | None
) -> Decision:
    """The design's table over the recorded verdicts and the waivers that are live at ``now``.

    Whatever was decided before, this is what holds when something is about to take effect. The
    signatures of waivers are verified again with ``roles``; without any, no waiver counts.

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
        waivers=_live(history, look, now, roles),
    )


def waivers_now(
    history: History, look: Logged[SeedDrawn], roles: Roles | None, now: datetime
) -> tuple[WaiverStanding, ...]:
    """Every waiver that was signed about a look, as it stands at ``now`` (:func:`guards.waivers.standing_waivers`).

    A signature counts while its key belongs to the same person, who is not excluded, and while the
    roles file knows every account that the policy excludes.
    """
    body = look.body
    signed = [entry.body for entry in history.waivers(body.candidate)]
    if not signed:
        return ()
    return standing_waivers(
        bound_policy(history, body.policy).approvals,
        Subject(body.candidate, history.evidence_digest(look.seq), body.policy),
        signed,
        now=now,
        log_time=history.latest_time(),
        roles_of=lambda one: _roles_of(history, one, roles),
    )


def verdicts_now(history: History, look: Logged[SeedDrawn], roles: Roles | None, now: datetime) -> tuple[Verdict, ...]:
    """The recorded verdicts of a look, those marked whose gate is waived at ``now``: for showing them."""
    recorded = [read_verdict(item) for item in history.verdicts(look.seq)]
    return mark_waived(recorded, _live(history, look, now, roles))


def _live(history: History, look: Logged[SeedDrawn], now: datetime, roles: Roles | None) -> tuple[Waiver, ...]:
    return tuple(one.waiver for one in waivers_now(history, look, roles, now) if one.is_live)


def _roles_of(history: History, signed: WaiverSigned, roles: Roles | None) -> frozenset[str]:
    """The roles with which a signature counts now; raises if it does not count."""
    if roles is None:
        raise ActionRefused("actions.no-roles", "there is no roles file to check it against")
    envelope = parse_envelope(signed.envelope.encode("utf-8"))
    person, key = roles.owner_of(envelope.key_id)
    said = verify_waiver(envelope, key).model_dump(exclude={"schema_"})
    same = {"candidate", "evidence", "policy", "gate", "decision", "ticket", "expires", "reason"}
    expected = {**signed.model_dump(include=same), "time": signed.signed_time, "signer": person.id}
    if said != expected or person.id != signed.person:
        raise SignatureRefused("signing.other-signer", "its envelope says something else than its entry")
    terms = bound_policy(history, signed.policy).approvals
    refuse_own_work(history, person, signed.candidate, signed.policy, terms)
    refuse_unknown_accounts(history, roles, signed.candidate, signed.policy, terms)
    # Both: no edit of the roles file makes a signature worth more than it was.
    return frozenset(person.roles) & frozenset(signed.roles)


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
