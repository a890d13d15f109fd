"""Waivers: what was signed about a gate, by which key, and whether it could be signed then.

Whether recorded signatures were enough, and whether the waiver was live at some moment, is asked
where something rests on it (:mod:`guards.replay.decisions`).

Not covered without a roles file: whether anybody signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from guards.canonical import sha256_bytes
from guards.entries import Body, Logged, WaiverSigned
from guards.errors import SignatureRefused, StairlockError
from guards.ledger import parse_time, timestamp
from guards.replay.approvals import key_owner
from guards.replay.own_work import own_part
from guards.replay.past import LookSoFar, Past, not_allowed, require_same
from guards.roles import Roles
from guards.signing import Envelope, parse_envelope
from guards.waivers import unverified_waiver, verify_waiver

# The same as in guards.waivers, written again: a mistake there must not excuse itself here.
MAX_CLOCK_SKEW = timedelta(minutes=5)
MAX_TERM = timedelta(days=90)


def check_waiver(past: Past, entry: Logged[Body], body: WaiverSigned, roles: Sequence[Roles]) -> None:
    """It is about a gate that was inconclusive in what was decided, says what its envelope says, and could be given.

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
    _refuse_useless(entry, body, look)
    # (2) its envelope is one, and says what the entry says
    envelope = _envelope(entry, body)
    if body.statement_digest in past.statements:
        raise not_allowed(entry, "this statement was recorded before", got=body.statement_digest)
    # (3) it was signed in time, ends in time, and by somebody who is not judging their own work
    terms = past.policies[body.policy].approvals
    signed = parse_time(body.signed_time)
    near = f"near {timestamp(entry.time)}"
    if signed > entry.time + MAX_CLOCK_SKEW:
        raise not_allowed(entry, "it was signed in the future", got=body.signed_time, expected=near)
    if entry.time - signed > timedelta(hours=terms.valid_for_h):
        message = f"it was signed more than {terms.valid_for_h} hours before"
        raise not_allowed(entry, message, got=body.signed_time, expected=near)
    if body.expires is not None:
        expires = parse_time(body.expires)
        if expires <= max(entry.time, signed):
            raise not_allowed(
                entry, "it was over before it began", got=body.expires, expected=f"after {body.signed_time}"
            )
        if expires - signed > MAX_TERM:
            latest = timestamp(signed + MAX_TERM)
            raise not_allowed(entry, "it lasts too long", got=body.expires, expected=f"at most {latest}")
    exact = _check_signature(entry, body, envelope, roles) if roles else None
    part = own_part(
        past,
        candidate=body.candidate,
        policy=body.policy,
        person_id=body.person,
        terms=terms,
        exact=exact,
        helps=body.decision == "grant",
    )
    if part is not None:
        raise not_allowed(entry, f"{body.person} is the {part} of this candidate", got=body.person)


def _refuse_useless(entry: Logged[Body], body: WaiverSigned, look: LookSoFar) -> None:
    verdict = look.verdicts.get(body.gate)
    if verdict is None or verdict.outcome != "inconclusive":
        raise not_allowed(
            entry,
            "the gate was not inconclusive",
            got=f"{body.gate} {'has no verdict' if verdict is None else verdict.outcome}",
            expected="inconclusive",
        )
    if look.rejects or any(one.outcome == "fail" for one in look.verdicts.values()):
        raise not_allowed(entry, "the candidate was rejected before", got=body.candidate)
    if look.promoted_seq is not None:
        raise not_allowed(entry, f"the candidate was promoted in entry {look.promoted_seq}", got=body.candidate)


def _envelope(entry: Logged[Body], body: WaiverSigned) -> Envelope:
    try:
        envelope = parse_envelope(body.envelope.encode("utf-8"))
        statement = unverified_waiver(envelope)
    except StairlockError as refusal:
        raise not_allowed(
            entry, f"its envelope is no signed waiver: {refusal.message}", got=body.envelope, expected="DSSE"
        ) from refusal
    for what, got, expected in (
        ("envelope", body.envelope, envelope.to_bytes().decode("utf-8")),
        ("candidate", body.candidate, statement.candidate),
        ("evidence", body.evidence, statement.evidence),
        ("policy", body.policy, statement.policy),
        ("gate", body.gate, statement.gate),
        ("decision", body.decision, statement.decision),
        ("ticket", body.ticket, statement.ticket),
        ("expires", body.expires, statement.expires),
        ("reason", body.reason, statement.reason),
        ("person", body.person, statement.signer),
        ("signed_time", body.signed_time, statement.time),
        ("key_id", body.key_id, envelope.key_id),
        ("statement_digest", body.statement_digest, sha256_bytes(statement.payload())),
    ):
        if got != expected:
            raise not_allowed(entry, f"its {what} is not what its envelope says", got=got, expected=expected)
    return envelope


def _check_signature(
    entry: Logged[Body], body: WaiverSigned, envelope: Envelope, roles: Sequence[Roles]
) -> Roles | None:
    """The very version of the roles file that the signature was recorded with, if it is there."""
    exact = [file for file in roles if file.digest == body.roles_digest]
    person, key = key_owner(entry, envelope, exact or roles)
    try:
        verify_waiver(envelope, key)
    except SignatureRefused as refusal:
        raise not_allowed(entry, refusal.message, got=refusal.got, expected=f"a signature by {key.id}") from refusal
    if person.id != body.person:
        raise not_allowed(entry, "the key that signed it is somebody else's", got=body.person, expected=person.id)
    if exact and person.roles != body.roles:
        raise not_allowed(
            entry, "its signer had other roles", got=", ".join(body.roles), expected=", ".join(person.roles)
        )
    return exact[0] if exact else None
