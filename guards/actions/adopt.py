"""Bringing a policy into force. From then on, candidates must be sealed under it to be promoted.

A home has one policy in force, whatever it is called: the last one adopted. The first is adopted freely,
and so is one that is as strict as the one in force, or stricter (:mod:`guards.policy_order`). Any other
needs the approvals that the policy *in force* asks for, by people who had no part in the edit. Where it
asks for none, nobody has to be asked.

Not covered: whether the first policy is a good one; the roles file, which says who may approve.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from guards.actions.eligibility import policy_authors, refuse_untimely
from guards.actions.preconditions import bound_policy, refuse_if_halted
from guards.actions.signoff import home_roles
from guards.canonical import sha256_bytes
from guards.entries import Logged, PolicyInForce, PolicySignedOff, Sealed, SeedDrawn
from guards.errors import ActionRefused, SignatureRefused
from guards.history import History
from guards.ledger import timestamp
from guards.policy_approvals import EditApprovals, count_approvals
from guards.policy_order import compare
from guards.policy_signing import PolicyStatement, verify_policy_statement
from guards.roles import Person, Roles, load_roles
from guards.signing import parse_envelope
from guards.store import Store


def adopt_policy(store: Store, *, policy: str, actor: str, roles: Roles | None = None) -> Logged[PolicyInForce]:
    """Bring a recorded policy into force, if it is no looser than the one in force or enough people approve.

    ``roles`` default to the home's roles file, if there is one. The policy that is in force already is
    the entry that exists. What was sealed before stays bound to the policy that it was sealed under.

    Raises:
        ActionRefused: ``actions.policy-unknown``, ``actions.bad-policy``, ``actions.halted``,
            ``actions.bad-bundle``, ``actions.looser-policy``.
    """
    known = home_roles(store) if roles is None else roles
    with store.write() as transaction:
        history = transaction.history
        new = bound_policy(history, policy)
        current = history.policy_in_force()
        if current is not None and current.body.policy == policy:
            return current
        refuse_if_halted(history)
        refuse_if_bad_bundle(history)
        change: Literal["first", "same", "stricter", "looser", "incomparable"] = "first"
        approvers: tuple[str, ...] = ()
        if current is not None:
            old = bound_policy(history, current.body.policy)
            comparison = compare(old, new)
            change = comparison.overall
            if comparison.needs_approvals and old.approvals.required > 0:
                approvals = edit_approvals(history, policy, known, transaction.now, actor=actor)
                if not approvals.is_complete:
                    wheres = [item.where for item in comparison.items if item.change in ("looser", "incomparable")]
                    raise _looser(current, policy, change, wheres, approvals)
                approvers = tuple(approvals.roles_by_approver)
        body = PolicyInForce(
            policy=policy,
            name=new.name,
            replaces=None if current is None else current.body.policy,
            change=change,
            approvers=approvers,
        )
        return transaction.append(actor, body)


def draft_policy_statement(
    store: Store, *, new: str, decision: Literal["approve", "reject"], reason: str, signer: str
) -> PolicyStatement:
    """The statement that ``signer`` (a person's id) has to sign now about a recorded policy coming into force.

    Raises:
        ActionRefused: ``actions.policy-unknown``, ``actions.bad-policy``,
            ``actions.no-policy-in-force``, ``actions.other-pair``.
    """
    with store.read() as history:
        return PolicyStatement(
            old=_signable(history, new).body.policy,
            new=new,
            decision=decision,
            reason=reason,
            time=timestamp(store.now()),
            signer=signer,
        )


def sign_policy(store: Store, *, envelope: bytes, actor: str, roles: Roles | None = None) -> Logged[PolicySignedOff]:
    """Verify a signed statement about a policy edit and record it. :func:`adopt_policy` counts it.

    ``roles`` default to the home's roles file. The same statement again is the entry that exists.
    Allowed while halted: it only says what somebody thinks.

    Raises:
        SignatureRefused: an envelope, signature or key that does not verify (:mod:`guards.signing`,
            ``roles.unknown-key``), ``signing.other-signer``.
        ActionRefused: ``actions.other-pair`` (OLD is not the policy in force, or NEW is),
            ``actions.own-edit``, ``actions.unknown-author``, ``actions.signed-in-future``,
            ``actions.signoff-expired``, and as for :func:`draft_policy_statement`.
    """
    known = load_roles(store.roles_path) if roles is None else roles
    parsed = parse_envelope(envelope)
    # (1) the key belongs to somebody, and signed this
    person, key = known.owner_of(parsed.key_id)
    statement = verify_policy_statement(parsed, key)
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
        # (3) the statement is about an edit of the policy in force
        current = _signable(history, statement.new)
        if statement.old != current.body.policy:
            raise _other_pair(
                "the sign-off is about another policy than the one in force", statement.old, current.body.policy
            )
        statement_digest = sha256_bytes(statement.payload())
        existing = history.policy_signoff(statement_digest)
        if existing is not None:
            return existing
        # (4) this person had no part in the edit, and signed lately
        authors = policy_authors(history, statement.new)
        _refuse_own_edit(person, authors)
        if statement.decision == "approve":
            _refuse_unknown_authors(known, authors)
        refuse_untimely(statement.time, bound_policy(history, statement.old).approvals, transaction.now)
        body = PolicySignedOff(
            old=statement.old,
            new=statement.new,
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


def edit_approvals(
    history: History, new: str, roles: Roles | None, now: datetime, *, actor: str | None = None
) -> EditApprovals:
    """Count the approvals of ``new`` in place of the policy in force as they stand at ``now``.

    Every signature is verified again. ``actor`` is who brings it into force: an author like the others.

    Raises:
        ActionRefused: ``actions.no-policy-in-force``, ``actions.other-pair``, ``actions.policy-unknown``.
    """
    current = _signable(history, new)
    old = current.body.policy
    authors = (*policy_authors(history, new), *(() if actor is None else (actor,)))

    def roles_of(signoff: PolicySignedOff) -> frozenset[str]:
        return _still_approves(signoff, roles, authors)

    signed = [(item.seq, item.body) for item in history.policy_signoffs(new)]
    terms = bound_policy(history, old).approvals
    return count_approvals(terms, signed, now, roles_of, old=old, since_seq=current.seq)


def refuse_unless_in_force(history: History, seal: Logged[Sealed]) -> None:
    """Raises ``actions.policy-not-in-force`` unless a candidate was sealed under what was in force then.

    That holds for its latest seal. Where it was sealed before, too, the policy must be no looser than
    what was in force at those times: a policy that is chosen after a candidate was seen does not help it.
    """
    policy = seal.body.policy
    for earlier in history.seals(seal.body.candidate):
        then = history.policy_in_force(before_seq=earlier.seq)
        if then is not None and then.body.policy == policy:
            continue
        is_latest = earlier.seq == seal.seq
        if then is not None and not is_latest:
            change = compare(bound_policy(history, then.body.policy), bound_policy(history, policy))
            if not change.needs_approvals:
                continue
        raise ActionRefused(
            "actions.policy-not-in-force",
            f"the candidate was sealed in entry {earlier.seq}, when "
            + ("no policy was in force" if then is None else f"the policy {then.body.name!r} was in force")
            + ("" if is_latest else ", and the one that binds it now is not known to be as strict"),
            got=policy,
            expected="none" if then is None else then.body.policy,
            fix="bring the policy into force first (stairlock policy adopt FILE); it then binds candidates that are "
            "sealed afterwards"
            if is_latest
            else "an edit that is no stricter binds only candidates that are first sealed after it: make another one, "
            "or bring a policy into force that is as strict as both, and seal this one again under that",
        )


def refuse_under_policy(history: History, seal: Logged[Sealed], look_seq: int | None) -> None:
    """Raises what keeps a candidate from promotion, whatever its gates say.

    The policy that binds it was in force when it was sealed, and not tightened before it was looked at; no bundle of
    policies was refused since. ``look_seq`` is None where it was not looked at yet.
    """
    refuse_unless_in_force(history, seal)
    refuse_if_tightened(history, seal, look_seq=look_seq)
    refuse_if_bad_bundle(history)


def policy_obstacle(
    history: History, seal: Logged[Sealed], look: Logged[SeedDrawn] | None = None
) -> ActionRefused | None:
    """What :func:`refuse_under_policy` would refuse, for readers; None where it would not."""
    try:
        refuse_under_policy(history, seal, None if look is None else look.seq)
    except ActionRefused as refusal:
        return refusal
    return None


def refuse_if_tightened(history: History, seal: Logged[Sealed], *, look_seq: int | None = None) -> None:
    """Raises ``actions.policy-tightened`` if the policy in force changed between a seal and a look, and asks for more.

    The look that begins now, or the one that began in entry ``look_seq``. What was seen before an edit was
    adopted is decided as it would have been; but a seal is no store of older terms. Candidates that were
    sealed under another policy than the one in force can be looked at and not promoted, before and after.
    """
    at_seal, at_look = history.policy_in_force(before_seq=seal.seq), history.policy_in_force(before_seq=look_seq)
    if at_seal is None or at_look is None or at_seal.body.policy != seal.body.policy:
        return
    change = compare(bound_policy(history, seal.body.policy), bound_policy(history, at_look.body.policy)).overall
    if change in ("stricter", "incomparable"):
        raise ActionRefused(
            "actions.policy-tightened",
            f"since the candidate was sealed in entry {seal.seq}, a policy came into force in entry {at_look.seq} that "
            f"is {change} compared with its own",
            got=seal.body.policy,
            expected=at_look.body.policy,
            fix="seal it again under the policy in force, and gate it under that"
            if change == "stricter"
            else "make another candidate: an edit that is no stricter binds only those first sealed after it; or bring "
            "a policy into force that is as strict as both, and seal this one again under that",
        )


def refuse_if_bad_bundle(history: History) -> None:
    """Raises ``actions.bad-bundle`` while the latest bundle of policies was refused."""
    latest = history.latest_bundle()
    if latest is not None and latest.body.outcome == "refused":
        raise ActionRefused(
            "actions.bad-bundle",
            f"the bundle of policies in entry {latest.seq} was refused ({latest.body.reason}), and none after it was "
            "good; the policy in force stays, and nothing is promoted",
            got=latest.body.bundle,
            fix="find out who sent it, and install a good bundle that was signed since (stairlock policy pack)",
        )


def _signable(history: History, new: str) -> Logged[PolicyInForce]:
    """The policy in force, which ``new`` would replace."""
    bound_policy(history, new)
    current = history.policy_in_force()
    if current is None:
        raise ActionRefused(
            "actions.no-policy-in-force",
            "no policy is in force yet, so the first one needs no approval",
            got=new,
            fix="stairlock policy adopt FILE",
        )
    if current.body.policy == new:
        raise _other_pair("this policy is in force already", new, "another policy")
    return current


def _other_pair(message: str, got: str, expected: str) -> ActionRefused:
    return ActionRefused(
        "actions.other-pair",
        message,
        got=got,
        expected=expected,
        fix="compare the new policy with the one in force (stairlock policy diff), and sign that",
    )


def _looser(
    current: Logged[PolicyInForce], policy: str, change: str, wheres: Sequence[str], approvals: EditApprovals
) -> ActionRefused:
    shown = ", ".join(wheres[:8]) + (f" and {len(wheres) - 8} more" if len(wheres) > 8 else "")
    terms = approvals.terms
    roles = f", with the roles {', '.join(terms.roles)}" if terms.roles else ""
    return ActionRefused(
        "actions.looser-policy",
        f"the policy is {change} compared with the one in force since entry {current.seq} ({shown}), so it needs the "
        f"approvals that that one asks for: {approvals.summary}",
        got=policy,
        expected=f"{terms.required} approvals of it in place of {current.body.policy}{roles}, by people who did not "
        "record or adopt it",
        fix="a rejection is taken back only by who signed it"
        if approvals.rejecters
        else "stairlock policy sign NEW --approve --reason TEXT --key FILE, by people with the roles, "
        "and adopt it again",
    )


def _still_approves(signoff: PolicySignedOff, roles: Roles | None, authors: Sequence[str]) -> frozenset[str]:
    """The roles that count: those held when it was signed and now."""
    if roles is None:
        raise ActionRefused("actions.no-roles", "there is no roles file to check it against")
    envelope = parse_envelope(signoff.envelope.encode("utf-8"))
    person, key = roles.owner_of(envelope.key_id)
    statement = verify_policy_statement(envelope, key)
    said = (statement.signer, statement.old, statement.new, statement.decision, statement.time)
    recorded = (person.id, signoff.old, signoff.new, signoff.decision, signoff.signed_time)
    if said != recorded or person.id != signoff.person:
        raise SignatureRefused("signing.other-signer", "its envelope says something else than its entry")
    _refuse_own_edit(person, authors)
    _refuse_unknown_authors(roles, authors)
    return frozenset(signoff.roles) & frozenset(person.roles)


def _refuse_own_edit(person: Person, authors: Sequence[str]) -> None:
    for name in authors:
        if person.is_known_as(name):
            raise ActionRefused(
                "actions.own-edit",
                f"{person.id} recorded, adopted or packed this policy, and nobody signs off their own edit",
                got=name,
                fix="ask somebody else with the role",
            )


def _refuse_unknown_authors(roles: Roles, authors: Sequence[str]) -> None:
    """An account that the roles file does not know could be the approver's own."""
    for name in authors:
        if not roles.knows(name):
            raise ActionRefused(
                "actions.unknown-author",
                "who recorded or adopted this policy is nobody in the roles file, so nobody is known not to be them",
                got=name,
                expected="an account of a person, or a service, in the roles file",
                fix="add the account to its person's accounts in roles.yaml, or to services if it is no person's",
            )
