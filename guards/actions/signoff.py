"""Sign-offs: what a person signs, recording it, and counting approvals.

A sign-off is about one exact triple: candidate, evidence, policy. A new look has other evidence,
so that every approval signed before is void without anyone having to say so. A rejection is not:
it counts against the candidate, whatever evidence or policy comes after it, until the same person
approves what there is then. Of one person only the latest sign-off counts, by the time that they
signed.

Not covered: whether the person read what they signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from guards.actions.eligibility import refuse_own_work, refuse_unknown_accounts, refuse_untimely
from guards.actions.outcome import decision_now
from guards.actions.preconditions import (
    bound_policy,
    decided,
    latest_look,
    refuse_if_policy_moved,
    refuse_if_recalled,
    sealed,
)
from guards.approval_terms import terms_met
from guards.canonical import sha256_bytes
from guards.entries import DecisionMade, Logged, SeedDrawn, SignedOff, typed_as
from guards.errors import ActionRefused, SignatureRefused
from guards.history import History
from guards.ledger import timestamp
from guards.policy import Approvals
from guards.roles import Person, Roles, load_roles
from guards.signing import Statement, parse_envelope, verify
from guards.store import Store


@dataclass(frozen=True)
class ApprovalStatus:
    """How far the approvals of one look have come. ``void`` says why recorded approvals do not count."""

    required: int
    approvers: tuple[str, ...]
    rejecters: tuple[str, ...]
    meets_terms: bool
    roles: tuple[str, ...]
    void: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """True if enough people approved, with every role among them, and nobody who may sign objects."""
        return not self.rejecters and self.meets_terms

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.rejecters:
            return f"rejected by {', '.join(self.rejecters)}"
        given = f"{len(self.approvers)} of {self.required} approvals"
        names = f" ({', '.join(self.approvers)})" if self.approvers else ""
        roles = f"each of {', '.join(self.roles)} needs a person of its own" if self.roles else ""
        return "; ".join(part for part in (f"{given}{names}", "" if self.meets_terms else roles, *self.void) if part)


def draft_statement(
    store: Store, *, candidate: str, decision: Literal["approve", "reject"], reason: str, signer: str
) -> Statement:
    """The statement that ``signer`` (a person's id) has to sign now about a decided candidate.

    Raises:
        ActionRefused: ``actions.not-sealed``, ``actions.no-look``, ``actions.not-decided``,
            ``actions.other-policy``.
    """
    with store.read() as history:
        look, decision_made = _signable(history, candidate)
        return Statement(
            candidate=candidate,
            evidence=decision_made.body.evidence,
            policy=look.body.policy,
            decision=decision,
            reason=reason,
            time=timestamp(store.now()),
            signer=signer,
        )


def sign_off(store: Store, *, envelope: bytes, actor: str, roles: Roles | None = None) -> Logged[SignedOff]:
    """Verify a signed statement and record it. It has no effect until :func:`promote` counts it.

    ``roles`` default to the home's roles file. The same statement again is the entry that exists.
    Allowed while halted: it only says what somebody thinks.

    Raises:
        SignatureRefused: an envelope, signature or key that does not verify
            (:mod:`guards.signing`, ``roles.unknown-key``), ``signing.other-signer``.
        ActionRefused: ``actions.other-triple`` (the candidate was gated again, or bound to another
            policy, since), ``actions.own-work``, ``actions.unknown-account``,
            ``actions.signed-in-future``, ``actions.signoff-expired``, ``actions.cannot-approve``,
            and as for :func:`draft_statement`.
    """
    known = load_roles(store.roles_path) if roles is None else roles
    parsed = parse_envelope(envelope)
    # (1) the key belongs to somebody, and signed this
    person, key = known.owner_of(parsed.key_id)
    statement = verify(parsed, key)
    # (2) they sign as themselves
    if statement.signer != person.id:
        raise SignatureRefused(
            "signing.other-signer",
            "the statement names another signer than the key's owner",
            got=statement.signer,
            expected=person.id,
        )
    with store.write() as transaction:
        history = transaction.history
        # (3) the statement is about what is decided now, and nothing else
        look, decision = _signable(history, statement.candidate)
        current = (statement.candidate, decision.body.evidence, look.body.policy)
        signed = (statement.candidate, statement.evidence, statement.policy)
        if signed != current:
            raise ActionRefused(
                "actions.other-triple",
                "the sign-off is about other evidence or another policy than the candidate's latest look",
                got=f"evidence {statement.evidence}, policy {statement.policy}",
                expected=f"evidence {current[1]}, policy {current[2]}",
                fix="read the packet again, and sign what it says now",
            )
        statement_digest = sha256_bytes(statement.payload())
        existing = history.signoff(statement_digest)
        if existing is not None:
            return existing
        refuse_if_recalled(history, statement.candidate)
        # (4) this person may sign for this candidate
        terms = bound_policy(history, look.body.policy).approvals
        refuse_own_work(history, person, statement.candidate, statement.policy, terms)
        # (5) it was signed lately
        refuse_untimely(statement.time, terms, transaction.now)
        # (6) an approval is by somebody who is known not to have made it, and releases only what waits for approvals
        if statement.decision == "approve":
            refuse_unknown_accounts(history, known, statement.candidate, statement.policy, terms)
            _refuse_idle_approval(history, look, decision, known, transaction.now)
        body = SignedOff(
            candidate=statement.candidate,
            policy=statement.policy,
            evidence=statement.evidence,
            look_seq=look.seq,
            decision=statement.decision,
            reason=statement.reason,
            person=person.id,
            roles=person.roles,
            key_id=key.id,
            signed_time=statement.time,
            envelope=parsed.to_bytes().decode("utf-8"),
            statement_digest=statement_digest,
            roles_digest=known.digest,
        )
        return transaction.append(actor, body)


def home_roles(store: Store) -> Roles | None:
    """The home's roles file, or None if there is none (nobody may sign then)."""
    return load_roles(store.roles_path) if store.roles_path.exists() else None


def approval_status(history: History, look: Logged[SeedDrawn], roles: Roles | None, now: datetime) -> ApprovalStatus:
    """Count a look's approvals as they stand at ``now``, verifying every signature again.

    An approval counts only if it is about this look, its key still belongs to the same person, who
    is not excluded, signed no longer ago than the policy allows, and the roles file knows every
    account that the policy excludes. Every role that the policy names needs an approver of its
    own. A rejection by somebody who was eligible when they signed blocks, whatever happened to
    them since, and whichever look at the candidate it was about.
    """
    terms = bound_policy(history, look.body.policy).approvals
    evidence = history.evidence_digest(look.seq)
    recorded = () if evidence is None else history.signoffs(look.body.candidate, evidence, look.body.policy)
    rejecters = [signoff.body.person for signoff in standing_rejections(history, look.body.candidate)]
    approvers: list[Person] = []
    void: list[str] = []
    for signoff in _latest_by_person(recorded):
        if signoff.body.person in rejecters or signoff.body.decision == "reject":
            continue
        try:
            approvers.append(_still_approves(history, signoff, roles, terms, now))
        except (ActionRefused, SignatureRefused) as refusal:
            void.append(f"{signoff.body.person}'s approval does not count: {refusal.message}")
    return ApprovalStatus(
        required=terms.required,
        approvers=tuple(person.id for person in approvers),
        rejecters=tuple(rejecters),
        meets_terms=terms_met(terms, [frozenset(person.roles) for person in approvers]),
        roles=terms.roles,
        void=tuple(void),
    )


def standing_rejections(history: History, candidate: str) -> tuple[Logged[SignedOff], ...]:
    """The rejections of a candidate that their signers did not take back, of each person the last.

    About any evidence and under any policy. What takes one back is the same person's approval,
    signed later, of the same look or a later one.
    """
    entries = history.entries(kind="signoff", candidate=candidate)
    signoffs = [typed_as(logged.entry, SignedOff) for logged in entries]
    standing = [
        one.body.decision == "reject" and not any(_takes_back(other.body, one.body) for other in signoffs)
        for one in signoffs
    ]
    return tuple({one.body.person: one for one, stands in zip(signoffs, standing, strict=True) if stands}.values())


def _takes_back(other: SignedOff, rejection: SignedOff) -> bool:
    return (
        other.decision == "approve"
        and other.person == rejection.person
        and other.look_seq >= rejection.look_seq
        and other.signed_time > rejection.signed_time
    )


def _latest_by_person(signoffs: Sequence[Logged[SignedOff]]) -> list[Logged[SignedOff]]:
    """Each person's latest sign-off by the time they wrote; at the same time, a rejection wins.

    Not by the order of entries: a sign-off that was held back must not undo a later one.
    """
    ordered = sorted(signoffs, key=lambda item: (item.body.signed_time, item.body.decision == "reject"))
    latest = {item.body.person: item for item in ordered}
    return sorted(latest.values(), key=lambda item: item.seq)


def _still_approves(
    history: History, signoff: Logged[SignedOff], roles: Roles | None, terms: Approvals, now: datetime
) -> Person:
    if roles is None:
        raise ActionRefused("actions.no-roles", "there is no roles file to check it against")
    envelope = parse_envelope(signoff.body.envelope.encode("utf-8"))
    person, key = roles.owner_of(envelope.key_id)
    statement = verify(envelope, key)
    body = signoff.body
    signed = (statement.signer, statement.candidate, statement.evidence, statement.policy, statement.decision)
    if signed != (person.id, body.candidate, body.evidence, body.policy, body.decision) or person.id != body.person:
        raise SignatureRefused("signing.other-signer", "its envelope says something else than its entry")
    refuse_own_work(history, person, body.candidate, body.policy, terms)
    refuse_unknown_accounts(history, roles, body.candidate, body.policy, terms)
    refuse_untimely(statement.time, terms, now)
    return person


def _signable(history: History, candidate: str) -> tuple[Logged[SeedDrawn], Logged[DecisionMade]]:
    seal = sealed(history, candidate)
    look = latest_look(history, candidate)
    refuse_if_policy_moved(look, seal)
    return look, decided(history, look)


def _refuse_idle_approval(
    history: History, look: Logged[SeedDrawn], decision: Logged[DecisionMade], roles: Roles, now: datetime
) -> None:
    gates_say = decision_now(history, look, now, approvals_ok=True, roles=roles)
    if decision.body.outcome == "reject" or gates_say.outcome != "promote":
        raise ActionRefused(
            "actions.cannot-approve",
            "a sign-off never releases a candidate whose gates did not pass",
            got=f"decision {decision.body.outcome}: {'; '.join(gates_say.reasons)}",
            fix="new evidence (another look) or a live waiver releases a hold; nothing releases a reject",
        )
