"""Who may sign about a candidate: nobody about their own work, and nobody with a statement that is not of now.

Shared by everything that people sign about a candidate (:mod:`guards.actions.signoff`,
:mod:`guards.actions.waive`).

Not covered: one human with two accounts, of which the roles file knows one.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from guards.approval_terms import MAX_CLOCK_SKEW
from guards.errors import ActionRefused
from guards.history import History
from guards.ledger import parse_time, timestamp
from guards.policy import Approvals
from guards.roles import Person, Roles


def refuse_own_work(history: History, person: Person, candidate: str, policy: str, terms: Approvals) -> None:
    """Raises ``actions.own-work`` if the person had a part in the candidate, or its policy, that is excluded."""
    for part, name in _excluded_accounts(history, candidate, policy, terms):
        if person.is_known_as(name):
            raise ActionRefused(
                "actions.own-work",
                f"{person.id} is the {part} of this candidate, and nobody signs off their own work",
                got=name,
                fix="ask somebody else with the role",
            )


def refuse_unknown_accounts(history: History, roles: Roles, candidate: str, policy: str, terms: Approvals) -> None:
    """Raises ``actions.unknown-account``: an account that the roles file does not know could be the signer's own."""
    for part, name in _excluded_accounts(history, candidate, policy, terms):
        if not roles.knows(name):
            raise ActionRefused(
                "actions.unknown-account",
                f"the {part} of this candidate is nobody in the roles file, so nobody is known not to be them",
                got=name,
                expected="an account of a person, or a service, in the roles file",
                fix="add the account to its person's accounts in roles.yaml, or to services if it is no person's",
            )


def refuse_untimely(signed_time: str, terms: Approvals, now: datetime) -> None:
    """Raises ``actions.signed-in-future`` or ``actions.signoff-expired`` for a statement that is not of now."""
    signed = parse_time(signed_time)
    if signed > now + MAX_CLOCK_SKEW:
        raise ActionRefused(
            "actions.signed-in-future",
            "the statement was signed in the future",
            got=signed_time,
            expected=f"at most {timestamp(now + MAX_CLOCK_SKEW)}",
            fix="set the signer's clock",
        )
    if now - signed > timedelta(hours=terms.valid_for_h):
        raise ActionRefused(
            "actions.signoff-expired",
            f"it was signed more than {terms.valid_for_h} hours ago",
            got=signed_time,
            expected=f"at least {timestamp(now - timedelta(hours=terms.valid_for_h))}",
            fix="read the packet again, and sign again",
        )


def policy_authors(history: History, policy: str) -> tuple[str, ...]:
    """Who recorded a policy, brought it into force, or signed a bundle that it came in; as the log names them."""
    recorded = history.policy(policy)
    names = [] if recorded is None else [recorded.actor]
    names += [adoption.actor for adoption in history.adoptions(policy)]
    for bundle in history.bundles_of(policy):
        names += [name for name in (bundle.actor, bundle.body.author) if name is not None]
    return tuple(dict.fromkeys(names))


def _excluded_accounts(history: History, candidate: str, policy: str, terms: Approvals) -> list[tuple[str, str]]:
    """(part, recorded name) of everyone who may not sign."""
    accounts: list[tuple[str, str]] = []
    # Every seal counts: sealing a candidate again must not make anyone forget who trained it.
    for seal in history.seals(candidate):
        accounts.append(("submitter", seal.body.submitter))
        if seal.body.trainer is not None:
            accounts.append(("trainer", seal.body.trainer))
    if "policy_author" in terms.exclude:
        accounts += [("policy_author", name) for name in policy_authors(history, policy)]
    return [(part.replace("_", " "), name) for part, name in accounts if part in terms.exclude]
