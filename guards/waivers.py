"""Waivers: what lets one inconclusive gate of one exact candidate count as passed, for a time.

A waiver is a set of signed statements that agree: the same candidate, evidence and policy, the same
gate, ticket and expiry. It is live once as many people have signed it as the policy asks approvals
of (one at least), from the same roles, until it expires, and unless somebody who may sign objects.
It never helps a failed gate: :func:`guards.decision.decide` asks for it only where a verdict is
inconclusive.

:func:`standing_waivers` is the one place that decides what is live. It is pure, so that the actions,
``stairlock show`` and the replay of a log ask the same thing of the same entries.

Not covered: whether the reason is a good one; a clock that lies about now (one that was set back
revives nothing, because the log remembers how late it once was).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError, model_validator

from guards.approval_terms import MAX_CLOCK_SKEW, terms_met
from guards.canonical import canonical_bytes, parse_json_strict
from guards.entries import WaiverSigned
from guards.errors import ActionRefused, EvidenceError, SignatureRefused, StairlockError
from guards.evidence import Digest, Frozen
from guards.ledger import Label, RealTime, parse_time
from guards.policy import Approvals, Waiver
from guards.signing import Envelope, PublicKey, sign_payload, unverified_payload, verified_payload

PAYLOAD_TYPE = "application/vnd.stairlock.waiver+json"
MAX_TERM = timedelta(days=90)
"""From the moment that a person signs. What must last longer is an edit of the policy."""

RolesOf = Callable[[WaiverSigned], frozenset[str]]
"""The roles with which a signature counts; raises :class:`StairlockError` if it does not count (any more)."""


class WaiverStatement(Frozen):
    """What one person signs: that a gate is waived until ``expires`` (grant), or must not be (reject)."""

    schema_: Literal["stairlock/waiver/v1"] = Field(default="stairlock/waiver/v1", alias="schema")
    candidate: Digest
    evidence: Digest
    policy: Digest
    gate: Label
    decision: Literal["grant", "reject"]
    ticket: Annotated[str, Field(pattern=r"^[^\x00-\x20\x7f]([^\x00-\x1f\x7f]{0,198}[^\x00-\x20\x7f])?$")] | None
    expires: RealTime | None
    reason: Annotated[str, Field(min_length=1, max_length=1000, pattern=r"\S")]
    time: RealTime
    signer: Label

    @model_validator(mode="after")
    def _a_grant_ends(self) -> WaiverStatement:
        is_objection = self.decision == "reject"
        if (self.ticket is None) != is_objection or (self.expires is None) != is_objection:
            raise ValueError("a grant has a ticket and an expiry, an objection has neither")
        return self

    def payload(self) -> bytes:
        """The bytes that are signed."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True))


@dataclass(frozen=True)
class Subject:
    """What a waiver must be about to count now; ``evidence`` is None where none is recorded."""

    candidate: str
    evidence: str | None
    policy: str


@dataclass(frozen=True)
class WaiverStanding:
    """One waiver as it stands at a moment. ``why_not`` says why it is not live; it is empty where it is."""

    waiver: Waiver
    why_not: tuple[str, ...]

    @property
    def is_live(self) -> bool:
        return not self.why_not

    @property
    def summary(self) -> str:
        """One line for people."""
        one = self.waiver
        state = "waived" if self.is_live else f"not waived ({'; '.join(self.why_not)})"
        return f"{one.gate} is {state} {waiver_text(one)}"

    def as_json(self) -> dict[str, Any]:
        """For programs: the waiver, whether it is live, and why not."""
        return {**self.waiver.model_dump(mode="json"), "is_live": self.is_live, "why_not": list(self.why_not)}


def waiver_text(waiver: Waiver) -> str:
    """Until when, for which ticket, by whom and why; follows the words "is waived"."""
    by = f", by {', '.join(waiver.approvers)}" if waiver.approvers else ""
    return f"until {waiver.expires.isoformat()} ({waiver.ticket}{by}): {waiver.reason}"


def sign_waiver(statement: WaiverStatement, private_key: Ed25519PrivateKey) -> bytes:
    """A signed envelope around ``statement``, as bytes."""
    return sign_payload(statement.payload(), private_key, payload_type=PAYLOAD_TYPE)


def verify_waiver(envelope: Envelope, key: PublicKey) -> WaiverStatement:
    """Check the envelope's signature with ``key``, and return the statement under it.

    Raises:
        SignatureRefused: as :func:`guards.signing.verified_payload`, and ``signing.bad-statement``.
    """
    return _statement(verified_payload(envelope, key, payload_type=PAYLOAD_TYPE))


def unverified_waiver(envelope: Envelope) -> WaiverStatement:
    """What the envelope says; who signed it is not checked.

    Raises:
        SignatureRefused: ``signing.other-type``, ``signing.bad-envelope``, ``signing.bad-statement``.
    """
    return _statement(unverified_payload(envelope, payload_type=PAYLOAD_TYPE))


def live_waivers(
    terms: Approvals,
    subject: Subject,
    signed: Sequence[WaiverSigned],
    *,
    now: datetime,
    log_time: datetime,
    roles_of: RolesOf,
) -> tuple[Waiver, ...]:
    """The waivers of :func:`standing_waivers` that are live."""
    standing = standing_waivers(terms, subject, signed, now=now, log_time=log_time, roles_of=roles_of)
    return tuple(one.waiver for one in standing if one.is_live)


def standing_waivers(
    terms: Approvals,
    subject: Subject,
    signed: Sequence[WaiverSigned],
    *,
    now: datetime,
    log_time: datetime,
    roles_of: RolesOf,
) -> tuple[WaiverStanding, ...]:
    """Every waiver that was signed about ``subject``, by gate, the one that ends last at the end.

    ``signed`` are all waiver entries of the candidate, in order. ``log_time`` is the latest time of
    any entry so far: at a clock that was set back, a waiver that has expired before stays expired.
    At ``expires`` itself it is over.

    Raises:
        ActionRefused: ``waiver.naive-time``.
    """
    for moment in (now, log_time):
        if moment.tzinfo is None:
            raise ActionRefused(
                "waiver.naive-time", "the time has no time zone", got=str(moment), expected="an aware datetime"
            )
    triple = (subject.candidate, subject.evidence, subject.policy)
    groups: dict[tuple[str, datetime, str], list[WaiverSigned]] = {}
    for one in signed:
        if one.decision == "grant" and (one.candidate, one.evidence, one.policy) == triple:
            assert one.ticket is not None and one.expires is not None  # the entry's own validator says so
            groups.setdefault((one.gate, parse_time(one.expires), one.ticket), []).append(one)
    return tuple(
        _standing(terms, signed, grants, now=now, log_time=log_time, roles_of=roles_of)
        for _key, grants in sorted(groups.items())
    )


def standing_objectors(signed: Sequence[WaiverSigned], candidate: str, gate: str) -> tuple[str, ...]:
    """Who objects to waiving a gate of a candidate, on whatever evidence, and did not take it back.

    What takes it back is a grant by the same person, signed later, on the same look or a later one.
    """
    about = [one for one in signed if (one.candidate, one.gate) == (candidate, gate)]
    standing = [
        one.person for one in about if one.decision == "reject" and not any(_takes_back(other, one) for other in about)
    ]
    return tuple(sorted(set(standing)))


def _takes_back(other: WaiverSigned, objection: WaiverSigned) -> bool:
    return (
        other.decision == "grant"
        and other.person == objection.person
        and other.look_seq >= objection.look_seq
        and other.signed_time > objection.signed_time
    )


def _standing(
    terms: Approvals,
    signed: Sequence[WaiverSigned],
    grants: Sequence[WaiverSigned],
    *,
    now: datetime,
    log_time: datetime,
    roles_of: RolesOf,
) -> WaiverStanding:
    first = grants[0]
    assert first.ticket is not None and first.expires is not None
    expires = parse_time(first.expires)
    why_not = [f"{who} objects" for who in standing_objectors(signed, first.candidate, first.gate)]
    if max(now, log_time) >= expires:
        why_not.append("it has expired")
    counted: dict[str, frozenset[str]] = {}
    void: list[str] = []
    for one in grants:
        try:
            roles = _roles_now(one, now, roles_of)
        except StairlockError as refusal:
            void.append(f"{one.person}'s signature does not count: {refusal.message}")
            continue
        if roles:
            counted[one.person] = roles
        else:
            void.append(f"{one.person}'s signature does not count: they lost the roles that they signed with")
    if len(counted) < needed_signers(terms) or not terms_met(terms, list(counted.values())):
        why_not += [_missing(terms, len(counted)), *void]
    by = [one for one in grants if one.person in counted] or grants
    waiver = Waiver(
        candidate=first.candidate,
        gate=first.gate,
        reason=by[0].reason,
        ticket=first.ticket,
        approvers=tuple(dict.fromkeys(one.person for one in by)),
        expires=expires,
    )
    return WaiverStanding(waiver=waiver, why_not=tuple(why_not))


def needed_signers(terms: Approvals) -> int:
    """How many people a waiver needs: where nobody has to approve a promotion, somebody must sign this all the same."""
    return max(1, terms.required)


def _missing(terms: Approvals, n_signed: int) -> str:
    roles = f", with a person of its own for each of {', '.join(terms.roles)}" if terms.roles else ""
    return f"{n_signed} of {needed_signers(terms)} signatures{roles}"


def _roles_now(one: WaiverSigned, now: datetime, roles_of: RolesOf) -> frozenset[str]:
    assert one.expires is not None
    signed = parse_time(one.signed_time)
    if signed > now + MAX_CLOCK_SKEW:
        raise ActionRefused("actions.signed-in-future", "it was signed in the future", got=one.signed_time)
    if parse_time(one.expires) - signed > MAX_TERM:
        raise ActionRefused("actions.waiver-too-long", f"it would last more than {MAX_TERM.days} days")
    return roles_of(one)


def _statement(payload: bytes) -> WaiverStatement:
    """A statement, written in the one canonical way."""
    try:
        statement = WaiverStatement.model_validate(parse_json_strict(payload, source="statement"))
    except (ValidationError, EvidenceError, ValueError, RecursionError) as error:
        raise SignatureRefused("signing.bad-statement", "what was signed is no waiver statement") from error
    if statement.payload() != payload:
        raise SignatureRefused("signing.bad-statement", "the signed statement is not canonical JSON")
    return statement
