"""What a policy's approvals ask of signatures: enough people, and one of their own for each role.

Shared by everything that people sign: about candidates (:mod:`guards.actions.signoff`), about edits of a
policy (:mod:`guards.policy_approvals`) and about waivers (:mod:`guards.waivers`).

Not covered: who may sign at all, and whether they did. Replay has this rule written once more, so that a
mistake here does not excuse itself there.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import timedelta
from itertools import permutations

from guards.policy import Approvals

MAX_CLOCK_SKEW = timedelta(minutes=5)
"""How far a signer's clock may be ahead of ours."""


def terms_met(terms: Approvals, held: Sequence[AbstractSet[str]]) -> bool:
    """True if signers with these roles are as many as required, and each role has a signer of its own.

    ``held`` has the roles of each signer, in any order. A signer without any role is none.
    """
    signers = [roles for roles in held if roles]
    return len(signers) >= terms.required and any(
        all(role in has for role, has in zip(terms.roles, chosen, strict=True))
        for chosen in permutations(signers, len(terms.roles))
    )
