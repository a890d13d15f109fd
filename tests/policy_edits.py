"""Edits of a world's policy, and people who sign about them."""

from __future__ import annotations

from typing import Any, Literal

from guards import actions
from guards.entries import Logged, PolicyInForce, PolicySignedOff
from guards.policy import ResolvedPolicy
from guards.policy_signing import sign_policy_statement
from tests.gate_world import make_policy
from tests.store_world import GATES, World

LOOSER: dict[str, Any] = {"margin": 0.2}
STRICTER: dict[str, Any] = {"margin": 0.05}


def edit(
    world: World,
    gate: dict[str, Any] | None = None,
    second: dict[str, Any] | None = None,
    *,
    recorder: str = "sam",
    **changes: Any,
) -> ResolvedPolicy:
    """The world's policy with other values in its gates or at its top, recorded."""
    gates = ({**GATES[0], **(gate or {})}, {**GATES[1], **(second or {})})
    name = f"edit-{len(list(world.base.glob('edit-*')))}"
    terms = {"approvals": world.policy.policy.approvals.model_dump(mode="json")} | changes
    policy = make_policy(world.base / name, *gates, planned=8, **terms)
    actions.record_policy(world.store, policy=policy, actor=recorder)
    return policy


def adopt(world: World, policy: ResolvedPolicy, actor: str = "sam") -> Logged[PolicyInForce]:
    """Bring a recorded policy into force."""
    return actions.adopt_policy(world.store, policy=policy.digest, actor=actor, roles=world.roles)


def edit_envelope(
    world: World,
    policy: ResolvedPolicy,
    signer: str,
    decision: Literal["approve", "reject"] = "approve",
    **says: str,
) -> bytes:
    """A statement of now about the policy coming into force; ``says_X`` changes its field X before it is signed."""
    statement = actions.draft_policy_statement(
        world.store, new=policy.digest, decision=decision, reason="I read both", signer=signer
    )
    said = {field.removeprefix("says_"): value for field, value in says.items()}
    return sign_policy_statement(statement.model_copy(update=said), world.keys[signer])


def sign_edit(
    world: World,
    policy: ResolvedPolicy,
    *signers: str,
    decision: Literal["approve", "reject"] = "approve",
    **says: str,
) -> list[Logged[PolicySignedOff]]:
    """Each signer says it."""
    return [
        actions.sign_policy(
            world.store,
            envelope=edit_envelope(world, policy, signer, decision, **says),
            actor=signer,
            roles=world.roles,
        )
        for signer in signers
    ]


def go_on_under(world: World, policy: ResolvedPolicy) -> None:
    """The world seals and gates under this policy from now on."""
    world.policy = policy


def in_force(world: World) -> str | None:
    """Digest of the policy in force."""
    with world.store.read() as history:
        current = history.policy_in_force()
    return None if current is None else current.body.policy
