"""Can the people of a roles file give the approvals that a policy asks for?

``required`` different people, and a person of its own for each role: by Hall's theorem that is
possible exactly where every set of the roles is held by at least as many people as it has roles.

Not covered: who will submit or train which candidate. So it is also reported how few people have to
be excluded before nobody can approve any more.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Literal

from guards.policy import Approvals
from guards.roles import Roles
from guards.yaml_positions import Finding, PositionMap


def approver_findings(
    approvals: Approvals, roles: Roles, positions: PositionMap
) -> Iterator[tuple[Literal["error", "warning"], Finding]]:
    """What stands in the way of an approval: ``policy.no-approvers`` (error), ``policy.few-approvers`` (warning)."""
    if approvals.required == 0:
        return
    spare = len(roles.people) - approvals.required
    tightest = f"{approvals.required} people"
    if spare < 0:
        yield (
            "error",
            Finding(
                "policy.no-approvers",
                positions.at("approvals", "required"),
                f"{approvals.required} people must approve, and the roles file has {len(roles.people)}",
                fix="ask for fewer, or enter more people into the roles file",
            ),
        )
    too_few: list[set[str]] = []
    for n_roles in range(1, len(approvals.roles) + 1):
        for some in combinations(approvals.roles, n_roles):
            if any(reported <= set(some) for reported in too_few):
                continue
            holders = [person.id for person in roles.people if set(some) & set(person.roles)]
            if len(holders) < n_roles:
                who = f"only {', '.join(holders)} has" if holders else "nobody has"
                yield (
                    "error",
                    Finding(
                        "policy.no-approvers",
                        positions.at("approvals", "roles"),
                        f"{who} a role among {', '.join(some)}, and each role needs a person of its own",
                        fix="give the role to somebody else too, in the roles file",
                    ),
                )
                too_few.append(set(some))
                spare = -1
            elif len(holders) - n_roles < spare:
                spare, tightest = len(holders) - n_roles, f"somebody with the role {' or '.join(some)}"
    if spare == 0 and approvals.exclude:
        yield (
            "warning",
            Finding(
                "policy.few-approvers",
                positions.at("approvals", "exclude"),
                f"the roles file has just enough people: where one who is needed ({tightest}) is the "
                f"{' or '.join(approvals.exclude)}, nobody can approve",
                fix="enter another person with that role into the roles file",
            ),
        )
