"""Who had a part in a candidate, or in the policy that binds it, and so signs nothing about it.

Not covered without the very roles file of an entry: parts under one of a person's ``accounts``.
"""

from __future__ import annotations

from guards.policy import Approvals
from guards.replay.past import Past
from guards.roles import Roles, is_same_name


def own_part(
    past: Past,
    *,
    candidate: str,
    policy: str,
    person_id: str,
    terms: Approvals,
    exact: Roles | None,
    helps: bool,
) -> str | None:
    """The excluded part that a signer had in the candidate, by any of its seals, or in its policy.

    ``exact`` is the roles file that the signature was recorded with. It knows accounts: one that it
    does not know could be the signer's own, so that nobody could sign anything that ``helps`` what
    was recorded under it.
    """
    parts: list[tuple[str, str | None]] = []
    for seal in past.seals[candidate]:
        parts += [("submitter", seal.submitter), ("trainer", seal.trainer)]
    parts += [("policy_author", name) for name in past.adoptions.authors[policy]]
    person = None if exact is None else next(one for one in exact.people if one.id == person_id)
    for part, name in parts:
        if part not in terms.exclude or name is None:
            continue
        shown = part.replace("_", " ")
        if is_same_name(name, person_id) or (person is not None and person.is_known_as(name)):
            return shown
        if exact is not None and helps and not exact.knows(name):
            return f"{shown}, or nobody knows that they are not,"
    return None
