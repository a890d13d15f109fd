"""Sign-offs: what was signed, by which key, and whether the recorded ones were enough.

What the log alone shows: that an envelope is one, and says what its entry says. It holds no
public keys: signatures are checked only against roles files that the caller has, one of them
preferably the version that the entry names by ``roles_digest``.

Not covered without a roles file: whether anybody signed. With one: whether a key belonged to
whom the file says. That a person was excluded under one of their ``accounts`` shows only with
the very version of the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import permutations

from guards.canonical import sha256_bytes
from guards.entries import Body, Logged, SignedOff
from guards.errors import LedgerError, SignatureRefused, StairlockError
from guards.ledger import parse_time, timestamp
from guards.policy import Approvals
from guards.replay.decisions import decision_at
from guards.replay.own_work import own_part
from guards.replay.past import LookSoFar, Past, not_allowed, require_same
from guards.roles import Person, Roles
from guards.signing import Envelope, PublicKey, parse_envelope, unverified_statement, verify

# How far a signer's clock may be ahead of the log's.
MAX_CLOCK_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class RecordedApprovals:
    """The approvals of a look that count by the log, each with its roles, and who objects."""

    roles_by_approver: dict[str, frozenset[str]]
    rejecters: tuple[str, ...]

    def suffice(self, terms: Approvals, *, only: Sequence[str] | None = None) -> bool:
        """True if they (or, with ``only``, those by these people) are what ``terms`` ask for."""
        held = [roles for who, roles in self.roles_by_approver.items() if only is None or who in only]
        return (
            not self.rejecters
            and len(held) >= terms.required
            and any(
                all(role in has for role, has in zip(terms.roles, chosen, strict=True))
                for chosen in permutations(held, len(terms.roles))
            )
        )

    @property
    def summary(self) -> str:
        """Who approves with which roles, and who rejects."""
        approvers = [f"{who} ({', '.join(sorted(roles))})" for who, roles in self.roles_by_approver.items()]
        rejections = [f"rejected by {who}" for who in self.rejecters]
        return "; ".join((*approvers, *rejections)) or "no approvals"


def approvals_at(past: Past, look: LookSoFar, moment: datetime, roles: Sequence[Roles]) -> RecordedApprovals:
    """The recorded approvals of a look that could count at ``moment``.

    Of one person the latest counts; a rejection stands whatever look it was about, until the same
    person approves that look or a later one. ``roles`` adds the roles that people have in these files to
    those that they had when they signed.
    """
    terms = past.policies[look.body.policy].approvals
    signoffs = past.signoffs[look.body.candidate]
    rejecters = {one.person for one in signoffs if one.decision == "reject" and not _is_taken_back(one, signoffs)}
    triple = (look.evidence_digest, look.body.policy)
    about_this = [one for one in signoffs if (one.evidence, one.policy) == triple]
    ordered = sorted(about_this, key=lambda one: (one.signed_time, one.decision == "reject"))
    approvers: dict[str, frozenset[str]] = {}
    for body in {one.person: one for one in ordered}.values():
        if body.decision == "reject" or body.person in rejecters:
            continue
        if not _untimely(body, terms, moment) and not _own_part(past, body, terms, None):
            known = [person.roles for file in roles for person in file.people if person.id == body.person]
            approvers[body.person] = frozenset(body.roles).union(*known)
    return RecordedApprovals(approvers, tuple(sorted(rejecters)))


def _is_taken_back(rejection: SignedOff, signoffs: Sequence[SignedOff]) -> bool:
    """True if the same person approved the same look or a later one, later."""
    return any(
        one.decision == "approve"
        and one.person == rejection.person
        and one.look_seq >= rejection.look_seq
        and one.signed_time > rejection.signed_time
        for one in signoffs
    )


def check_signoff(past: Past, entry: Logged[Body], body: SignedOff, roles: Sequence[Roles]) -> None:
    """A sign-off is about the decision that stood, says what its envelope says, and could be given.

    Raises:
        LedgerError: ``ledger.not-allowed``; ``ledger.unknown-signer`` if there are ``roles``, and
            none of them knows the key.
    """
    # (1) it is about the latest look of a sealed candidate, as it was decided
    look = past.looks.get(body.look_seq)
    if look is None or past.latest_look.get(body.candidate) is not look or look.decision is None:
        raise not_allowed(entry, "it is about no decided look of this candidate", got=f"look {body.look_seq}")
    require_same(entry, "policy", body.policy, past.seals[body.candidate][-1].policy)
    require_same(entry, "policy", body.policy, look.body.policy)
    require_same(entry, "evidence", body.evidence, look.decision.body.evidence)
    if body.candidate in past.recalls:
        raise not_allowed(entry, "the candidate was recalled before", got=body.candidate)
    # (2) its envelope is one, and says what the entry says
    envelope = _envelope(entry, body)
    if body.statement_digest in past.statements:
        raise not_allowed(entry, "this statement was recorded before", got=body.statement_digest)
    # (3) it was signed in time, by somebody who is not judging their own work
    terms = past.policies[body.policy].approvals
    untimely = _untimely(body, terms, entry.time)
    if untimely is not None:
        raise not_allowed(entry, untimely, got=body.signed_time, expected=f"near {timestamp(entry.time)}")
    exact = _check_signature(entry, body, envelope, roles) if roles else None
    part = _own_part(past, body, terms, exact)
    if part is not None:
        raise not_allowed(entry, f"{body.person} is the {part} of this candidate", got=body.person)
    # (4) an approval can release only what waits for approvals
    if body.decision == "approve" and decision_at(past, look, entry.time, approvals_ok=True).outcome != "promote":
        raise not_allowed(
            entry,
            "it approves a candidate whose gates did not pass",
            got=look.decision.body.outcome,
            expected="verdicts that wait for nothing but approvals",
        )


def _envelope(entry: Logged[Body], body: SignedOff) -> Envelope:
    try:
        envelope = parse_envelope(body.envelope.encode("utf-8"))
        statement = unverified_statement(envelope)
    except StairlockError as refusal:
        raise not_allowed(
            entry, f"its envelope is no signed statement: {refusal.message}", got=body.envelope, expected="DSSE"
        ) from refusal
    for what, got, expected in (
        ("envelope", body.envelope, envelope.to_bytes().decode("utf-8")),
        ("candidate", body.candidate, statement.candidate),
        ("evidence", body.evidence, statement.evidence),
        ("policy", body.policy, statement.policy),
        ("decision", body.decision, statement.decision),
        ("reason", body.reason, statement.reason),
        ("person", body.person, statement.signer),
        ("signed_time", body.signed_time, statement.time),
        ("key_id", body.key_id, envelope.key_id),
        ("statement_digest", body.statement_digest, sha256_bytes(statement.payload())),
    ):
        if got != expected:
            raise not_allowed(entry, f"its {what} is not what its envelope says", got=got, expected=expected)
    return envelope


def _check_signature(entry: Logged[Body], body: SignedOff, envelope: Envelope, roles: Sequence[Roles]) -> Roles | None:
    """The very version of the roles file that the sign-off was recorded with, if it is there."""
    exact = [file for file in roles if file.digest == body.roles_digest]
    person, key = key_owner(entry, envelope, exact or roles)
    try:
        verify(envelope, key)
    except SignatureRefused as refusal:
        raise not_allowed(entry, refusal.message, got=refusal.got, expected=f"a signature by {key.id}") from refusal
    if person.id != body.person:
        raise not_allowed(entry, "the key that signed it is somebody else's", got=body.person, expected=person.id)
    if exact and person.roles != body.roles:
        raise not_allowed(
            entry, "its signer had other roles", got=", ".join(body.roles), expected=", ".join(person.roles)
        )
    return exact[0] if exact else None


def key_owner(entry: Logged[Body], envelope: Envelope, roles: Sequence[Roles]) -> tuple[Person, PublicKey]:
    """Whose key an entry's envelope names, by the first of the roles files that knows it.

    Raises:
        LedgerError: ``ledger.unknown-signer``.
    """
    for file in roles:
        try:
            return file.owner_of(envelope.key_id)
        except SignatureRefused:
            continue
    raise LedgerError(
        "ledger.unknown-signer",
        f"entry {entry.seq} ({entry.kind}) is signed with a key that is in none of the roles files given",
        got=envelope.key_id,
        expected="a key of somebody in a roles file",
        fix="give the version of the roles file that it was recorded with, too (roles_digest in the entry names it)",
    )


def _untimely(body: SignedOff, terms: Approvals, moment: datetime) -> str | None:
    signed = parse_time(body.signed_time)
    if signed > moment + MAX_CLOCK_SKEW:
        return "it was signed in the future"
    if moment - signed > timedelta(hours=terms.valid_for_h):
        return f"it was signed more than {terms.valid_for_h} hours before"
    return None


def _own_part(past: Past, body: SignedOff, terms: Approvals, exact: Roles | None) -> str | None:
    return own_part(
        past,
        candidate=body.candidate,
        policy=body.policy,
        person_id=body.person,
        terms=terms,
        exact=exact,
        helps=body.decision == "approve",
    )
