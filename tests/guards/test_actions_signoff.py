"""Sign-offs: whose counts, for what, and until when."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guards import actions
from guards.roles import Roles
from guards.signing import public_key_of
from tests.store_world import (
    DIGEST,
    World,
    other_policy,
    person,
    rule_of,
)


def test_approvals_are_counted_by_person_and_every_role_needs_its_own(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"
    world.sign(candidate, "bo")
    world.clock.advance(minutes=1)
    world.sign(candidate, "bo")  # again, later: still one person
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"
    world.sign(candidate, "cy")  # two people now, but Cy is neither reviewer nor safety
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"
    world.sign(candidate, "ana")
    assert world.promote("one").body.approvers == ("bo", "cy", "ana")


def test_one_person_with_two_keys_is_one_person(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    second_key = Ed25519PrivateKey.generate()
    bo = next(p for p in world.roles.people if p.id == "bo")
    both = bo.model_copy(update={"keys": (*bo.keys, public_key_of(second_key))})
    world.roles = replace_person(world.roles, "bo", both)
    world.sign(candidate, "bo")
    world.clock.advance(minutes=1)
    world.keys["bo"] = second_key
    world.sign(candidate, "bo")
    assert approvals(world, candidate).approvers == ("bo",)


def replace_person(roles: Roles, name: str, *by: Any) -> Roles:
    return roles.model_copy(update={"people": (*(p for p in roles.people if p.id != name), *by)})


def approvals(world: World, candidate: str) -> actions.ApprovalStatus:
    with world.store.read() as history:
        look = history.latest_look(candidate)
        assert look is not None
        return actions.approval_status(history, look, world.roles, world.clock.now)


@pytest.mark.parametrize("signer", ["sam", "tess"])
def test_nobody_signs_off_their_own_work(world: World, signer: str):
    candidate = world.seal("one", trainer="T.Trainer")  # Tess by her account
    world.gate(candidate)
    assert rule_of(lambda: world.sign(candidate, signer)) == "actions.own-work"
    assert rule_of(lambda: world.sign(candidate, signer, "reject")) == "actions.own-work"


def test_sealing_again_does_not_forget_who_trained_it(world: World):
    candidate = world.seal("one")
    policy = other_policy(world)
    world.seal("one", policy=policy.digest, reseal=True, trainer=None, actor="somebody")
    world.policy = policy
    world.gate(candidate)
    for signer in ("sam", "tess"):
        assert rule_of(lambda s=signer: world.sign(candidate, s)) == "actions.own-work"


def test_an_approval_stops_counting_with_its_key_or_its_time(world: World):
    candidate = world.seal("one", trainer="T.Trainer")
    world.gate(candidate)
    world.sign(candidate, "ana")
    world.sign(candidate, "bo")
    assert approvals(world, candidate).is_complete
    everyone = world.roles
    world.roles = replace_person(everyone, "bo")
    assert approvals(world, candidate).approvers == ("ana",)
    world.roles = replace_person(everyone, "bo", person("bo", "safety", key=Ed25519PrivateKey.generate()))
    assert approvals(world, candidate).approvers == ("ana",)
    stranger = person("eve", "safety", key=world.keys["bo"])  # Bo's key in another name
    world.roles = replace_person(everyone, "bo", stranger)
    assert approvals(world, candidate).approvers == ("ana",)
    world.roles = replace_person(everyone, "bo", person("bo", "governance", key=world.keys["bo"]))
    assert approvals(world, candidate).approvers == ("ana", "bo")
    assert not approvals(world, candidate).is_complete  # nobody keeps safety any more
    exposed = person("bo", "safety", key=world.keys["bo"], accounts=("t.trainer",))  # Bo trained it, it turns out
    tess = next(p for p in everyone.people if p.id == "tess")
    world.roles = replace_person(
        replace_person(everyone, "tess", tess.model_copy(update={"accounts": ()})), "bo", exposed
    )
    assert approvals(world, candidate).approvers == ("ana",)
    world.roles = everyone
    assert (
        rule_of(
            lambda: world.promote(
                "one",
                roles=Roles(schema="stairlock/roles/v1", people=(person("cy", "governance", key=world.keys["cy"]),)),
            )
        )
        == "actions.not-approved"
    )
    world.clock.advance(hours=168)
    assert approvals(world, candidate).is_complete
    world.clock.advance(seconds=1)
    status = approvals(world, candidate)
    assert status.approvers == ()
    assert "hours ago" in status.summary
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"


def test_without_a_roles_file_no_approval_counts(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    world.sign(candidate, "ana")
    world.sign(candidate, "bo")
    assert rule_of(lambda: world.promote("one", roles=None)) == "actions.not-approved"
    world.store.roles_path.write_text(world.roles.model_dump_json(by_alias=True))
    assert world.promote("one", roles=None).body.approvers == ("ana", "bo")


def test_a_rejection_blocks_until_its_signer_changes_their_mind(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    for signer in ("ana", "bo"):
        world.sign(candidate, signer)
    held_back = world.envelope(candidate, "cy")
    world.clock.advance(minutes=1)
    world.sign(candidate, "cy", "reject")
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"
    assert approvals(world, candidate).rejecters == ("cy",)
    assert approvals(world, candidate).summary == "rejected by cy"
    # What Cy signed before the rejection does not undo it, however late it comes.
    actions.sign_off(world.store, envelope=held_back, actor="eve", roles=world.roles)
    assert approvals(world, candidate).rejecters == ("cy",)
    # Nor does it help to take Cy out of the roles file.
    world.roles = replace_person(world.roles, "cy")
    assert approvals(world, candidate).rejecters == ("cy",)
    world.roles = replace_person(world.roles, "cy", person("cy", "governance", key=world.keys["cy"]))
    world.clock.advance(minutes=1)
    world.sign(candidate, "cy")
    assert world.promote("one").body.approvers == ("ana", "bo", "cy")


def test_a_rejection_counts_also_where_nobody_has_to_approve(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate)
    sandbox.sign(candidate, "cy", "reject")
    assert rule_of(lambda: sandbox.promote("one")) == "actions.not-approved"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"says_evidence": DIGEST}, "actions.other-triple"),
        ({"says_policy": DIGEST}, "actions.other-triple"),
        ({"says_candidate": DIGEST}, "actions.not-sealed"),
        ({"says_signer": "ana"}, "signing.other-signer"),
        ({"says_time": "2026-11-24T05:05:00.000001Z"}, "actions.signed-in-future"),
        ({"says_time": "2026-11-17T04:59:59.000000Z"}, "actions.signoff-expired"),
    ],
    ids=str,
)
def test_a_sign_off_is_about_this_by_its_signer_and_of_now(world: World, changes: dict[str, str], rule: str):
    candidate = world.seal("one")
    world.gate(candidate)
    assert rule_of(lambda: world.sign(candidate, "bo", **changes)) == rule
    assert "signoff" not in world.kinds()


def test_a_key_of_nobody_signs_nothing(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    world.keys["bo"] = Ed25519PrivateKey.generate()
    assert rule_of(lambda: world.sign(candidate, "bo")) == "roles.unknown-key"


def test_no_sign_off_releases_what_the_gates_hold_back(world: World):
    failed, unclear = world.seal("failed"), world.seal("unclear")
    world.gate(failed, "fail")
    world.gate(unclear, "inconclusive")
    for candidate in (failed, unclear):
        assert rule_of(lambda c=candidate: world.sign(c, "ana")) == "actions.cannot-approve"
        world.sign(candidate, "ana", "reject")  # to object is always possible
    assert rule_of(lambda: world.promote("failed")) == "actions.rejected"
    assert rule_of(lambda: world.promote("unclear")) in ("actions.not-passed", "actions.not-approved")


def test_a_decision_on_hold_becomes_a_promotion_with_its_approvals(world: World):
    candidate = world.seal("one")
    first = world.gate(candidate)
    world.sign(candidate, "ana")

    def decide() -> Any:
        return actions.record_decision(world.store, candidate=candidate, actor="runner", roles=world.roles)

    assert decide() == first
    world.sign(candidate, "bo")
    assert decide().kind == "promote"
    assert world.kinds().count("promote") == 1
    world.promote("one")
    assert world.kinds().count("promote") == 1
