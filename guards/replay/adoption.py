"""Policies coming into force: what people signed about it, who let it happen, and what it binds.

Not covered without roles files: whether anybody signed, and which accounts are whose. A bundle's own
signature, which is in the bundle and not in the log.
"""

from __future__ import annotations

from collections.abc import Sequence

from guards.canonical import sha256_bytes
from guards.entries import Body, BundleReceived, Logged, PolicyInForce, PolicySignedOff, SeedDrawn
from guards.errors import SignatureRefused, StairlockError
from guards.ledger import parse_time, timestamp
from guards.policy_approvals import count_approvals, untimeliness
from guards.policy_order import compare
from guards.policy_signing import unverified_policy_statement, verify_policy_statement
from guards.replay.approvals import key_owner
from guards.replay.past import Past, not_allowed, require_same
from guards.roles import Roles, is_same_name
from guards.signing import Envelope, parse_envelope


def check_policy_signoff(past: Past, entry: Logged[Body], body: PolicySignedOff, roles: Sequence[Roles]) -> None:
    """It is about an edit of the policy in force, says what its envelope says, and could be given.

    Raises:
        LedgerError: ``ledger.not-allowed``; ``ledger.unknown-signer`` if there are ``roles``, and
            none of them knows the key.
    """
    require_same(entry, "policy in force", body.old, past.adoptions.current)
    if body.new not in past.policies or body.new == body.old:
        raise not_allowed(entry, "no other policy of this digest was recorded before", got=body.new)
    envelope = _envelope(entry, body)
    if body.statement_digest in past.adoptions.statements:
        raise not_allowed(entry, "this statement was recorded before", got=body.statement_digest)
    untimely = untimeliness(body.signed_time, past.policies[body.old].approvals, entry.time)
    if untimely is not None:
        raise not_allowed(entry, untimely, got=body.signed_time, expected=f"near {timestamp(entry.time)}")
    own = [name for name in past.adoptions.authors[body.new] if is_same_name(name, body.person)]
    if roles:
        own += _own_accounts(past, entry, body, envelope, roles)
    if own:
        raise not_allowed(entry, f"{body.person} recorded, adopted or packed this policy", got=own[0])


def check_policy_in_force(past: Past, entry: Logged[Body], body: PolicyInForce) -> None:
    """It replaces the policy in force, and is no looser, or was approved as that one asks for."""
    new = past.policies.get(body.policy)
    if new is None:
        raise not_allowed(entry, "no policy of this digest was recorded before", got=body.policy)
    require_same(entry, "policy name", body.name, new.name)
    require_same(entry, "policy in force", body.replaces, past.adoptions.current)
    if body.policy == body.replaces:
        raise not_allowed(entry, "this policy was in force already", got=body.policy)
    _refuse_after_bad_bundle(past, entry)
    if body.replaces is None:
        require_same(entry, "change", body.change, "first")
        require_same(entry, "set of approvers", body.approvers, ())
        return
    old = past.policies[body.replaces]
    comparison = compare(old, new)
    if body.change == "first":
        raise not_allowed(entry, "a policy was in force already", got=body.change, expected=comparison.overall)
    # Another version may know of more edits that they are no looser; whichever asks for approvals gets them.
    needs_approvals = comparison.needs_approvals or body.change in ("looser", "incomparable")
    if not needs_approvals or old.approvals.required == 0:
        require_same(entry, "set of approvers", body.approvers, ())
        return
    authors = (*past.adoptions.authors[body.policy], entry.actor)

    def roles_of(signoff: PolicySignedOff) -> frozenset[str]:
        own = [name for name in authors if is_same_name(name, signoff.person)]
        if own:
            raise not_allowed(entry, f"{signoff.person} recorded, adopted or packed this policy", got=own[0])
        return frozenset(signoff.roles)

    signed = past.adoptions.signoffs[body.policy]
    since_seq = past.adoptions.in_force[-1][0]
    approvals = count_approvals(old.approvals, signed, entry.time, roles_of, old=body.replaces, since_seq=since_seq)
    if not approvals.suffice(body.approvers):
        raise not_allowed(
            entry,
            f"the policy was {body.change} compared with the one in force, and the approvals for that are not there",
            got=f"{', '.join(body.approvers) or 'nobody'}; recorded: {approvals.summary}",
            expected=f"{old.approvals.required} approvals, with the roles {', '.join(old.approvals.roles) or '(none)'}",
        )


def check_bundle(past: Past, entry: Logged[Body], body: BundleReceived) -> None:
    """An installed bundle brought a policy that is recorded, and has an author; a refused one brought none.

    What lifts the hold of a refused one was signed after that came.
    """
    if body.outcome == "refused":
        require_same(entry, "policy", body.policy, None)
        require_same(entry, "statement", body.statement_digest, None)
        return
    if body.policy is None or body.author is None or body.policy not in past.policies:
        raise not_allowed(entry, "it brought no policy that was recorded before, or is nobody's", got=body.policy)
    if body.signed_time is None or body.statement_digest is None:
        raise not_allowed(entry, "it does not say what was signed, and when", got=body.bundle)
    if body.statement_digest in past.adoptions.bundles:
        raise not_allowed(entry, "this bundle was installed before", got=body.statement_digest)
    held = past.adoptions.refused_bundle
    if held is not None and parse_time(body.signed_time) <= held.time:
        raise not_allowed(
            entry,
            f"it was signed before the bundle of entry {held.seq} was refused",
            got=body.signed_time,
            expected=f"after {timestamp(held.time)}",
        )


def check_seed_policy(past: Past, entry: Logged[Body], body: SeedDrawn) -> None:
    """No policy came since the seal that may refuse what the candidate's own passes, where that was in force."""
    current, at_seal = past.adoptions.current, past.adoptions.at_seals[body.candidate][-1]
    if current is None or at_seal != body.policy:
        return
    change = compare(past.policies[body.policy], past.policies[current]).overall
    if change in ("stricter", "incomparable"):
        raise not_allowed(
            entry, f"a policy that is {change} came into force after its seal", got=body.policy, expected=current
        )


def check_binding_policy(past: Past, entry: Logged[Body], candidate: str, policy: str) -> None:
    """What is promoted was sealed under the policy in force, and no bundle of policies was refused since the last good.

    Where the candidate was sealed before, the policy is no looser than what was in force at those times.
    """
    _refuse_after_bad_bundle(past, entry)
    at_seals = past.adoptions.at_seals[candidate]
    for number, then in enumerate(at_seals, start=1):
        if then == policy:
            continue
        is_latest = number == len(at_seals)
        if then is None or is_latest or compare(past.policies[then], past.policies[policy]).needs_approvals:
            raise not_allowed(
                entry,
                f"its policy was not in force at seal {number} of the candidate",
                got=policy,
                expected=then,
            )


def _refuse_after_bad_bundle(past: Past, entry: Logged[Body]) -> None:
    held = past.adoptions.refused_bundle
    if held is not None:
        raise not_allowed(entry, f"the bundle of policies in entry {held.seq} was refused, and no later one was good")


def _envelope(entry: Logged[Body], body: PolicySignedOff) -> Envelope:
    try:
        envelope = parse_envelope(body.envelope.encode("utf-8"))
        statement = unverified_policy_statement(envelope)
    except StairlockError as refusal:
        raise not_allowed(
            entry, f"its envelope is no signed statement: {refusal.message}", got=body.envelope, expected="DSSE"
        ) from refusal
    for what, got, expected in (
        ("envelope", body.envelope, envelope.to_bytes().decode("utf-8")),
        ("old policy", body.old, statement.old),
        ("new policy", body.new, statement.new),
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


def _own_accounts(
    past: Past, entry: Logged[Body], body: PolicySignedOff, envelope: Envelope, roles: Sequence[Roles]
) -> list[str]:
    """Check the signature; return the authors' accounts that could be the signer's own by the very roles file."""
    exact = [file for file in roles if file.digest == body.roles_digest]
    person, key = key_owner(entry, envelope, exact or roles)
    try:
        verify_policy_statement(envelope, key)
    except SignatureRefused as refusal:
        raise not_allowed(entry, refusal.message, got=refusal.got, expected=f"a signature by {key.id}") from refusal
    if person.id != body.person:
        raise not_allowed(entry, "the key that signed it is somebody else's", got=body.person, expected=person.id)
    if not exact:
        return []
    if person.roles != body.roles:
        raise not_allowed(
            entry, "its signer had other roles", got=", ".join(body.roles), expected=", ".join(person.roles)
        )
    authors = past.adoptions.authors[body.new]
    unknown = [name for name in authors if body.decision == "approve" and not exact[0].knows(name)]
    return [name for name in authors if person.is_known_as(name)] + unknown
