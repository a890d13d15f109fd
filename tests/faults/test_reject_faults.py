"""Named ways to get round a reject, a person's rejection, or the number of approvals: each is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guards import actions
from tests.policy_edits import adopt, edit
from tests.store_world import UNATTENDED_APPROVALS, World, other_policy, person, rule_of

ONE_APPROVAL = {"required": 1, "roles": ["reviewer"]}


def unchanged(world: World, action: Callable[[], object]) -> str:
    """The rule by which ``action`` is refused, having written nothing."""
    before = world.store.verify()
    rule = rule_of(action)
    assert world.store.verify() == before
    return rule


def under(world: World, name: str, policy_name: str = "test", **changes: object) -> None:
    """Seal the checkpoint again under another policy, which the world goes on with."""
    world.policy = other_policy(world, policy_name, **changes)
    world.seal(name, reseal=True)


# A reject


def test_a_rejected_candidate_is_not_looked_at_again(world: World):
    candidate = world.seal("one")
    assert world.gate(candidate, "fail", run="r").kind == "reject"
    assert unchanged(world, lambda: world.draw(candidate)) == "actions.rejected-before"
    assert unchanged(world, lambda: world.draw(candidate, run="another")) == "actions.rejected-before"
    assert world.draw(candidate, run="r").is_decided  # resumed, the run finds its reject


def test_an_edit_of_the_policy_does_not_release_a_reject(world: World):
    candidate = world.seal("one")
    world.gate(candidate, "fail")
    under(world, "one")
    assert unchanged(world, lambda: world.draw(candidate)) == "actions.rejected-before"


def test_a_failed_verdict_counts_as_a_reject_before_it_is_decided(sandbox: World):
    """Killed between verdicts and decision; another champion since, so that the look cannot be gone on with."""
    candidate = sandbox.seal("one")
    sandbox.record_all_evidence(sandbox.draw(candidate))
    failed = sandbox.verdicts("pass", "fail")
    actions.record_verdicts(sandbox.store, candidate=candidate, verdicts=failed, actor="runner")
    sandbox.promoted("faster")
    assert unchanged(sandbox, lambda: sandbox.draw(candidate)) == "actions.rejected-before"


def test_what_one_policy_rejected_no_other_policy_promotes(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate, "fail")
    under(sandbox, "one", "another", approvals=UNATTENDED_APPROVALS)
    assert sandbox.gate(candidate).kind == "promote"  # gating under a policy of another name may be done
    assert unchanged(sandbox, lambda: sandbox.promote("one")) == "actions.rejected-elsewhere"
    assert sandbox.champion() == sandbox.checkpoint("root")


def test_a_hold_is_still_released_by_another_look(sandbox: World):
    candidate = sandbox.seal("one")
    assert sandbox.gate(candidate, "inconclusive").kind == "hold"
    assert sandbox.gate(candidate).kind == "promote"
    sandbox.promote("one")


# A person's rejection


def test_a_persons_rejection_outlives_the_evidence_that_it_was_about(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    world.sign(candidate, "cy", "reject")
    world.gate(candidate)
    for signer in ("ana", "bo"):
        world.sign(candidate, signer)
    assert unchanged(world, lambda: world.promote("one")) == "actions.not-approved"


def test_a_persons_rejection_outlives_the_policy_that_it_was_about(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate)
    sandbox.sign(candidate, "cy", "reject")
    under(sandbox, "one", "another", approvals=UNATTENDED_APPROVALS)
    assert sandbox.gate(candidate).body.waits_for == "approvals"
    assert unchanged(sandbox, lambda: sandbox.promote("one")) == "actions.not-approved"


def test_only_who_rejected_takes_it_back_by_approving_what_there_is_now(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    world.sign(candidate, "ana", "reject")
    world.gate(candidate)
    for signer in ("bo", "cy"):
        world.sign(candidate, signer)
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"
    world.clock.advance(minutes=1)
    world.sign(candidate, "ana")
    assert world.promote("one").body.approvers == ("bo", "cy", "ana")


def test_an_approval_of_an_earlier_look_takes_no_rejection_back(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate)
    sandbox.sign(candidate, "cy", says_time="2026-11-24T05:04:00.000000Z")  # Cy's clock is ahead
    sandbox.gate(candidate)
    sandbox.sign(candidate, "cy", "reject")
    assert unchanged(sandbox, lambda: sandbox.promote("one")) == "actions.not-approved"


# Fewer approvals


@pytest.mark.parametrize(
    "approvals",
    [
        UNATTENDED_APPROVALS,
        ONE_APPROVAL,
        {"required": 2, "roles": ["reviewer"]},
        {"required": 2, "roles": ["reviewer", "safety"], "exclude": ["submitter"]},
    ],
    ids=["nobody", "one person", "one role", "the trainer too"],
)
def test_sealing_again_does_not_lower_the_approvals(world: World, approvals: dict[str, object]):
    candidate = world.seal("one")
    world.gate(candidate)
    under(world, "one", "laxer", approvals=approvals)
    world.gate(candidate)
    for signer in ("ana", "bo"):
        world.sign(candidate, signer)
    assert unchanged(world, lambda: world.promote("one")) == "actions.fewer-approvals"
    assert world.champion() == world.checkpoint("root")


def test_sealing_again_may_raise_the_approvals(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate)
    sandbox.policy = edit(sandbox, approvals=ONE_APPROVAL)
    adopt(sandbox, sandbox.policy)
    sandbox.seal("one", reseal=True)
    sandbox.gate(candidate)
    assert rule_of(lambda: sandbox.promote("one")) == "actions.not-approved"
    sandbox.sign(candidate, "ana")
    assert sandbox.promote("one").body.approvers == ("ana",)


# One's own work, under a name that the roles file does not know


def test_nobody_approves_what_an_unknown_account_made(world: World):
    candidate = world.seal("one", trainer="gpu-box-7")
    world.gate(candidate)
    assert unchanged(world, lambda: world.sign(candidate, "ana")) == "actions.unknown-account"
    world.sign(candidate, "cy", "reject")  # to object is always possible
    listed = world.roles.model_copy(update={"services": ("GPU-box-7",)})
    world.roles = listed
    world.clock.advance(minutes=1)
    for signer in ("ana", "bo", "cy"):
        world.sign(candidate, signer)
    world.roles = listed.model_copy(update={"services": ()})  # and taken out again
    assert unchanged(world, lambda: world.promote("one")) == "actions.not-approved"
    world.roles = listed
    world.promote("one")


def test_an_account_that_turns_out_to_be_the_approvers_voids_the_approval(world: World):
    candidate = world.seal("one", actor="build", submitter="build")
    world.gate(candidate)
    assert rule_of(lambda: world.sign(candidate, "ana")) == "actions.unknown-account"
    others = tuple(one for one in world.roles.people if one.id != "ana")
    ana = person("ana", "reviewer", key=world.keys["ana"], accounts=("build",))
    world.roles = world.roles.model_copy(update={"people": (*others, ana)})
    assert rule_of(lambda: world.sign(candidate, "ana")) == "actions.own-work"
    world.sign(candidate, "bo")


def test_an_unknown_account_matters_only_where_the_policy_excludes_its_part(sandbox: World):
    sandbox.policy = other_policy(sandbox, "lenient", approvals=ONE_APPROVAL | {"exclude": ["submitter"]})
    actions.adopt_policy(sandbox.store, policy=sandbox.policy.digest, actor="runner", roles=sandbox.roles)
    candidate = sandbox.seal("one", trainer="gpu-box-7")
    sandbox.gate(candidate)
    sandbox.sign(candidate, "ana")
    sandbox.promote("one")
