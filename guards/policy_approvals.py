"""Approvals of a policy edit: who lets NEW come into force in place of OLD.

An approval is about one exact pair of policies. It counts for as long as OLD says, if its signer had no
part in the edit, and with the roles that they had when they signed *and* have now, so that no edit of
the roles file makes an approval worth more. A rejection of NEW stands, whatever it was to replace, until
the same person approves NEW, later.

:func:`count_approvals` is pure, so that the action and the replay of a log count alike.

Not covered: whose idea an edit was. Its authors are those who recorded it, brought it into force, or
signed the bundle that it came in; somebody may have done that for another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from guards.approval_terms import MAX_CLOCK_SKEW, terms_met
from guards.entries import PolicySignedOff
from guards.errors import StairlockError
from guards.ledger import parse_time
from guards.policy import Approvals

RolesOf = Callable[[PolicySignedOff], frozenset[str]]
"""The roles with which an approval counts; raises :class:`StairlockError` if it does not count (any more)."""


@dataclass(frozen=True)
class EditApprovals:
    """The approvals of an edit that count, each with its roles, and why others do not (``void``)."""

    terms: Approvals
    roles_by_approver: dict[str, frozenset[str]]
    rejecters: tuple[str, ...]
    void: tuple[str, ...]

    @property
    def is_complete(self) -> bool:
        """True if they are as many, and of such roles, as OLD asks for, and nobody objects."""
        return self.suffice(tuple(self.roles_by_approver))

    def suffice(self, approvers: Sequence[str]) -> bool:
        """True if the approvals of these people alone are enough, and nobody objects."""
        people = set(approvers)
        held = [roles for who, roles in self.roles_by_approver.items() if who in people]
        return not self.rejecters and len(held) == len(people) and terms_met(self.terms, held)

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.rejecters:
            return f"rejected by {', '.join(self.rejecters)}"
        names = f" ({', '.join(self.roles_by_approver)})" if self.roles_by_approver else ""
        given = f"{len(self.roles_by_approver)} of {self.terms.required} approvals{names}"
        roles = f"each of {', '.join(self.terms.roles)} needs a person of its own" if self.terms.roles else ""
        return "; ".join(part for part in (given, "" if self.is_complete else roles, *self.void) if part)


def count_approvals(
    terms: Approvals,
    signed: Sequence[tuple[int, PolicySignedOff]],
    now: datetime,
    roles_of: RolesOf,
    *,
    old: str,
    since_seq: int,
) -> EditApprovals:
    """Count what was signed about one policy coming into force in place of ``old``, whose approvals are ``terms``.

    ``signed`` are all policy sign-offs about NEW, in whatever pair, with the numbers of their entries.
    Approvals count that were recorded since ``old`` came into force, in entry ``since_seq``: who let
    NEW replace it once did not say that it may do so again after people went back. Of one person the
    latest counts, by the time that they signed; at the same time, a rejection.
    """
    ordered = sorted(signed, key=lambda item: (item[1].signed_time, item[1].decision == "reject"))
    latest = {one.person: one for _, one in ordered}
    rejecters = tuple(sorted(who for who, one in latest.items() if one.decision == "reject"))
    about_this = {one.person: one for seq, one in ordered if one.old == old and seq > since_seq}
    held: dict[str, frozenset[str]] = {}
    void: list[str] = []
    for one in about_this.values():
        if one.decision == "reject" or one.person in rejecters:
            continue
        try:
            untimely = untimeliness(one.signed_time, terms, now)
            if untimely is not None:
                void.append(f"{one.person}'s approval does not count: {untimely}")
                continue
            roles = roles_of(one)
            if not roles:
                void.append(f"{one.person}'s approval does not count: they lost the roles that they signed with")
                continue
            held[one.person] = roles
        except StairlockError as refusal:
            void.append(f"{one.person}'s approval does not count: {refusal.message}")
    return EditApprovals(terms, held, rejecters, tuple(void))


def untimeliness(signed_time: str, terms: Approvals, now: datetime) -> str | None:
    """Why a statement of that time does not count at ``now``, or None if it does."""
    signed = parse_time(signed_time)
    if signed > now + MAX_CLOCK_SKEW:
        return "it was signed in the future"
    if now - signed > timedelta(hours=terms.valid_for_h):
        return f"it was signed more than {terms.valid_for_h} hours ago"
    return None
