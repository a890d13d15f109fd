"""Waivers: what a person signs about an inconclusive gate, and recording it.

A waiver is about one gate of one exact triple: candidate, evidence, policy. It takes effect by
itself once enough people have signed the same (:mod:`guards.waivers`): sign-offs and promotion
then find the gate waived. The decision that is recorded stays a hold until the promotion.

An objection by somebody who may sign voids every waiver of that gate of that candidate, whatever
evidence comes after it, until the same person signs one.

Not covered: whether the people read the evidence.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import ValidationError

from guards.actions.eligibility import refuse_own_work, refuse_unknown_accounts, refuse_untimely
from guards.actions.preconditions import (
    bound_policy,
    decided,
    latest_look,
    refuse_if_policy_moved,
    refuse_if_recalled,
    sealed,
)
from guards.canonical import sha256_bytes
from guards.entries import DecisionMade, Logged, SeedDrawn, WaiverSigned
from guards.errors import ActionRefused, SignatureRefused
from guards.history import History
from guards.ledger import parse_time, timestamp
from guards.roles import Roles, load_roles
from guards.signing import parse_envelope
from guards.store import Store
from guards.waivers import MAX_TERM, WaiverStatement, verify_waiver


def draft_waiver(
    store: Store,
    *,
    candidate: str,
    gate: str,
    decision: Literal["grant", "reject"],
    reason: str,
    signer: str,
    ticket: str | None = None,
    expires: datetime | None = None,
) -> WaiverStatement:
    """The statement that ``signer`` (a person's id) has to sign now about a gate of a decided candidate.

    A grant needs ``ticket`` and ``expires``; an objection has neither. Everything that can be
    checked before somebody signs is checked.

    Raises:
        ActionRefused: ``waiver.naive-time``, ``waiver.bad-statement``, and as for :func:`waive`.
    """
    if expires is not None and expires.tzinfo is None:
        raise ActionRefused(
            "waiver.naive-time",
            "the expiry has no time zone",
            got=expires.isoformat(),
            expected="an ISO time with a time zone, as 2030-01-31T12:00:00Z",
        )
    with store.read() as history:
        look, decision_made = _waivable(history, candidate, gate)
        try:
            statement = WaiverStatement(
                candidate=candidate,
                evidence=decision_made.body.evidence,
                policy=look.body.policy,
                gate=gate,
                decision=decision,
                ticket=ticket,
                expires=None if expires is None else timestamp(expires),
                reason=reason,
                time=timestamp(store.now()),
                signer=signer,
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ActionRefused(
                "waiver.bad-statement",
                f"this cannot be signed: {f'{where}: ' if where else ''}{first['msg']}",
                got=str(first["input"])[:200] if where else "",
                fix="a grant says --reason, --ticket and --expires; an objection only --reason",
            ) from error
        _refuse_bad_term(statement, store.now())
        refuse_if_recalled(history, candidate)
        return statement


def waive(store: Store, *, envelope: bytes, actor: str, roles: Roles | None = None) -> Logged[WaiverSigned]:
    """Verify a signed statement about a gate and record it. It changes nothing before the promotion.

    ``roles`` default to the home's roles file. The same statement again is the entry that exists.
    Allowed while halted: it only says what somebody thinks.

    Raises:
        SignatureRefused: an envelope, signature or key that does not verify
            (:mod:`guards.signing`, ``roles.unknown-key``), ``signing.other-signer``.
        ActionRefused: ``actions.other-triple`` (the candidate was gated again, or bound to another
            policy, since), ``actions.no-such-gate``, ``actions.waiver-useless`` (the gate is not
            inconclusive, or the candidate is rejected, or champion already), ``actions.recalled``,
            ``actions.own-work``, ``actions.unknown-account``, ``actions.signed-in-future``,
            ``actions.signoff-expired``, ``actions.waiver-expired``, ``actions.waiver-too-long``,
            ``actions.not-sealed``, ``actions.no-look``, ``actions.not-decided``, ``actions.other-policy``.
    """
    known = load_roles(store.roles_path) if roles is None else roles
    parsed = parse_envelope(envelope)
    # (1) the key belongs to somebody, and signed this
    person, key = known.owner_of(parsed.key_id)
    statement = verify_waiver(parsed, key)
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
        statement_digest = sha256_bytes(statement.payload())
        existing = history.waiver(statement_digest)
        if existing is not None:
            return existing
        # (3) the statement is about a gate that is inconclusive now, in what is decided now
        look, decision = _signable(history, statement.candidate)
        _refuse_other_triple(statement, look, decision)
        _refuse_useless(history, look, decision, statement.gate)
        refuse_if_recalled(history, statement.candidate)
        # (4) this person may sign for this candidate
        terms = bound_policy(history, look.body.policy).approvals
        refuse_own_work(history, person, statement.candidate, statement.policy, terms)
        # (5) it was signed lately, and ends in time
        refuse_untimely(statement.time, terms, transaction.now)
        _refuse_bad_term(statement, transaction.now)
        # (6) whoever helps it is known not to have made it
        if statement.decision == "grant":
            refuse_unknown_accounts(history, known, statement.candidate, statement.policy, terms)
        body = WaiverSigned(
            candidate=statement.candidate,
            policy=statement.policy,
            evidence=statement.evidence,
            look_seq=look.seq,
            gate=statement.gate,
            decision=statement.decision,
            ticket=statement.ticket,
            expires=statement.expires,
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


def _signable(history: History, candidate: str) -> tuple[Logged[SeedDrawn], Logged[DecisionMade]]:
    seal = sealed(history, candidate)
    look = latest_look(history, candidate)
    refuse_if_policy_moved(look, seal)
    return look, decided(history, look)


def _waivable(history: History, candidate: str, gate: str) -> tuple[Logged[SeedDrawn], Logged[DecisionMade]]:
    look, decision = _signable(history, candidate)
    _refuse_useless(history, look, decision, gate)
    return look, decision


def _refuse_other_triple(statement: WaiverStatement, look: Logged[SeedDrawn], decision: Logged[DecisionMade]) -> None:
    expected = (decision.body.evidence, look.body.policy)
    if (statement.evidence, statement.policy) != expected:
        raise ActionRefused(
            "actions.other-triple",
            "the waiver is about other evidence or another policy than the candidate's latest look",
            got=f"evidence {statement.evidence}, policy {statement.policy}",
            expected=f"evidence {expected[0]}, policy {expected[1]}",
            fix="read what the gates say now, and sign a waiver of that",
        )


def _refuse_useless(history: History, look: Logged[SeedDrawn], decision: Logged[DecisionMade], gate: str) -> None:
    """Only an inconclusive gate of a candidate that can still be promoted is worth a signature."""
    outcomes = {item.body.gate: item.body.outcome for item in history.verdicts(look.seq)}
    if gate not in outcomes:
        raise ActionRefused(
            "actions.no-such-gate",
            "the policy that binds the candidate has no such gate",
            got=gate[:200],
            expected=", ".join(outcomes),
            fix="a gate within a composite one is waived with the whole: name the gate that has the verdict",
        )
    rejected_by = [name for name, outcome in outcomes.items() if outcome == "fail"]
    promotion = history.promotion(decision.seq)
    if outcomes[gate] != "inconclusive":
        why, got = f"the verdict of {gate} is {outcomes[gate]}, and a waiver helps only an inconclusive one", gate
    elif rejected_by or decision.body.outcome == "reject":
        why, got = "the candidate is rejected, and nothing releases a reject", ", ".join(rejected_by)
    elif promotion is not None:
        why, got = f"the candidate was promoted in entry {promotion.seq} on this evidence", look.body.candidate
    else:
        return
    raise ActionRefused(
        "actions.waiver-useless",
        why,
        got=got,
        expected="an inconclusive gate of a candidate that is held",
        fix="a waiver would change nothing here; propose another candidate where this one was rejected",
    )


def _refuse_bad_term(statement: WaiverStatement, now: datetime) -> None:
    if statement.expires is None:
        return
    expires, signed = parse_time(statement.expires), parse_time(statement.time)
    if expires <= max(now, signed):
        raise ActionRefused(
            "actions.waiver-expired",
            "the waiver would be over before it began",
            got=statement.expires,
            expected=f"later than {timestamp(max(now, signed))}",
        )
    if expires - signed > MAX_TERM:
        raise ActionRefused(
            "actions.waiver-too-long",
            f"a waiver ends at most {MAX_TERM.days} days after it was signed",
            got=statement.expires,
            expected=f"at most {timestamp(signed + MAX_TERM)}",
            fix="what must last longer is an edit of the policy, with its approvals",
        )
