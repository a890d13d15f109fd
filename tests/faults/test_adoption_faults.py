"""Named ways to get a looser policy into force without those who must approve it: each is refused by its rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guards import actions
from guards.actions import seal
from guards.canonical import sha256_bytes
from guards.errors import ActionRefused
from guards.policy import ResolvedPolicy, resolve_policy
from tests.gate_world import policy_body, write_policy
from tests.policy_edits import LOOSER, STRICTER, adopt, edit, edit_envelope, go_on_under, in_force, sign_edit
from tests.store_world import GATES, UNATTENDED_APPROVALS, World, make_world, person, rule_of


def unchanged(world: World, action: Callable[[], object]) -> str:
    """The rule by which ``action`` is refused, having written nothing; the policy in force stays."""
    before, policy = world.store.verify(roles=[world.roles]), in_force(world)
    rule = rule_of(action)
    assert world.store.verify() == before
    assert in_force(world) == policy
    return rule


def ready(world: World, name: str, *, reseal: bool = False) -> str:
    """A candidate sealed under the world's policy, with passed gates and both approvals."""
    candidate = world.seal(name, reseal=reseal)
    world.gate(candidate)
    for signer in ("ana", "bo"):
        world.sign(candidate, signer)
    return candidate


def adopted_with_approvals(world: World, policy: ResolvedPolicy) -> None:
    sign_edit(world, policy, "ana", "bo")
    assert adopt(world, policy).body.approvers == ("ana", "bo")


# What needs approvals


def test_a_looser_policy_without_approvals(world: World):
    looser = edit(world, LOOSER)
    assert unchanged(world, lambda: adopt(world, looser)) == "actions.looser-policy"


def test_the_refusal_says_what_is_looser_and_who_must_sign(world: World):
    looser = edit(world, LOOSER)
    with pytest.raises(ActionRefused) as refusal:
        adopt(world, looser)
    assert "gates.refusal-holds.margin" in refusal.value.message
    assert "0 of 2 approvals" in refusal.value.message
    assert "reviewer, safety" in refusal.value.expected
    assert "stairlock policy sign" in refusal.value.fix


def test_fewer_approvals_are_looser_too(world: World):
    lax = edit(world, approvals=UNATTENDED_APPROVALS)
    assert unchanged(world, lambda: adopt(world, lax)) == "actions.looser-policy"


def test_a_stricter_policy_needs_nobody(world: World):
    entry = adopt(world, edit(world, STRICTER))
    assert (entry.body.change, entry.body.approvers) == ("stricter", ())


def test_a_policy_that_decides_alike_needs_nobody(world: World):
    assert adopt(world, edit(world, {"description": "in other words"})).body.change == "same"


def test_the_policy_in_force_again_is_the_entry_that_exists(world: World):
    assert adopt(world, world.policy).seq == adopt(world, world.policy, actor="somebody else").seq


def test_a_looser_policy_that_enough_people_approve(world: World):
    looser = edit(world, LOOSER)
    adopted_with_approvals(world, looser)
    go_on_under(world, looser)
    ready(world, "one")
    assert world.promote("one").body.policy == looser.digest
    world.store.verify(roles=[world.roles])


def test_one_approval_is_not_enough(world: World):
    looser = edit(world, LOOSER)
    sign_edit(world, looser, "ana")
    assert unchanged(world, lambda: adopt(world, looser)) == "actions.looser-policy"


def test_two_people_in_one_role_are_not_enough(world: World):
    looser = edit(world, LOOSER, recorder="tess")
    sign_edit(world, looser, "ana", "cy")  # a reviewer and governance; nobody for safety
    assert unchanged(world, lambda: adopt(world, looser, actor="tess")) == "actions.looser-policy"


def test_where_the_old_policy_asks_nobody_nobody_is_asked(sandbox: World):
    assert adopt(sandbox, edit(sandbox, LOOSER)).body.change == "looser"


# Ways round it


def test_another_policy_name_does_not_avoid_it(world: World):
    renamed = edit(world, LOOSER, name="fresh")
    assert unchanged(world, lambda: adopt(world, renamed)) == "actions.looser-policy"


def test_another_name_alone_is_looser_because_its_looks_begin_anew(world: World):
    renamed = edit(world, name="fresh")
    assert unchanged(world, lambda: adopt(world, renamed)) == "actions.looser-policy"


def test_recording_without_adopting_binds_nothing_that_is_promoted(world: World):
    go_on_under(world, edit(world, LOOSER))
    ready(world, "one")
    assert unchanged(world, lambda: world.promote("one")) == "actions.policy-not-in-force"


def test_a_home_without_a_policy_in_force_promotes_nothing(tmp_path: Path):
    world = make_world(tmp_path)
    world.checkpoint("root")
    actions.record_policy(world.store, policy=world.policy, actor="sam")
    actions.set_root(
        world.store,
        manifest=world.manifests["root"],
        policy=world.policy.digest,
        evidence=[sha256_bytes(b"the root's evidence")],
        verdicts=world.verdicts("pass"),
        actor="sam",
    )
    ready(world, "one")
    assert unchanged(world, lambda: world.promote("one")) == "actions.policy-not-in-force"
    adopt(world, world.policy)  # the first one is free, and binds what is sealed from here on
    assert unchanged(world, lambda: world.promote("one")) == "actions.policy-not-in-force"
    ready(world, "two")
    world.promote("two")


def test_sealing_before_adoption_does_not_avoid_it(world: World):
    looser = edit(world, LOOSER)
    kept = world.policy
    go_on_under(world, looser)
    ready(world, "one")
    adopted_with_approvals(world, looser)
    assert unchanged(world, lambda: world.promote("one")) == "actions.policy-not-in-force"
    assert kept.digest != in_force(world)


def test_sealing_again_after_adoption_does_not_avoid_it(world: World):
    """The candidate was seen under the stricter policy; a looser one that was chosen then does not help it."""
    candidate = world.seal("one")
    world.gate(candidate, "inconclusive")
    looser = edit(world, LOOSER)
    adopted_with_approvals(world, looser)
    go_on_under(world, looser)
    ready(world, "one", reseal=True)
    assert unchanged(world, lambda: world.promote("one")) == "actions.policy-not-in-force"


def test_sealing_again_and_back_does_not_avoid_it(world: World):
    """Sealed under the looser policy before it was adopted, then elsewhere, then under it again."""
    strict, looser = world.policy, edit(world, LOOSER)
    go_on_under(world, looser)
    ready(world, "one")
    go_on_under(world, strict)
    world.seal("one", reseal=True)
    adopted_with_approvals(world, looser)
    go_on_under(world, looser)
    world.seal("one", reseal=True)
    assert unchanged(world, lambda: world.promote("one")) == "actions.policy-not-in-force"


def test_sealing_again_under_a_stricter_policy_is_no_way_round(world: World):
    candidate = world.seal("one")
    world.gate(candidate, "inconclusive")
    stricter = edit(world, STRICTER)
    adopt(world, stricter)
    go_on_under(world, stricter)
    ready(world, "one", reseal=True)
    assert world.promote("one").body.policy == stricter.digest


def test_a_policy_that_was_in_force_once_does_not_bind_what_is_sealed_later(world: World):
    strict, looser = world.policy, edit(world, LOOSER)
    adopted_with_approvals(world, looser)
    adopt(world, strict)
    go_on_under(world, looser)
    ready(world, "one")
    assert unchanged(world, lambda: world.promote("one")) == "actions.policy-not-in-force"


def test_what_was_looked_at_before_a_tightening_keeps_its_policy(world: World):
    ready(world, "one")
    adopt(world, edit(world, STRICTER))
    world.promote("one")
    world.store.verify(roles=[world.roles])


def test_a_seal_is_no_store_of_older_terms(sandbox: World):
    """Sealed where nobody had to approve, and looked at when two people have to."""
    candidate = sandbox.seal("one")
    attended = edit(sandbox, approvals={"required": 2, "roles": ["reviewer", "safety"]})
    adopt(sandbox, attended)
    assert unchanged(sandbox, lambda: sandbox.draw(candidate)) == "actions.policy-tightened"
    go_on_under(sandbox, attended)
    sandbox.seal("one", reseal=True)
    sandbox.gate(candidate)
    assert unchanged(sandbox, lambda: sandbox.promote("one")) == "actions.not-approved"
    for signer in ("ana", "bo"):
        sandbox.sign(candidate, signer)
    assert not sandbox.promote("one").body.unattended
    sandbox.store.verify(roles=[sandbox.roles])


@pytest.mark.parametrize(
    ("changes", "is_refused"),
    [
        ({"gate": STRICTER}, True),
        ({"gate": LOOSER}, False),
        ({"gate": LOOSER, "second": STRICTER}, True),
        ({"gate": {"description": "in other words"}}, False),
        ({"name": "fresh"}, True),
    ],
)
def test_a_new_look_after_an_edit(sandbox: World, changes: dict[str, Any], is_refused: bool):
    """Refused unless whatever its own policy passes, the one in force passes too."""
    candidate = sandbox.seal("one")
    adopt(sandbox, edit(sandbox, **changes))
    if is_refused:
        assert unchanged(sandbox, lambda: sandbox.draw(candidate)) == "actions.policy-tightened"
        return
    sandbox.gate(candidate)
    sandbox.promote("one")
    sandbox.store.verify(roles=[sandbox.roles])


def test_another_look_after_a_tightening_is_under_the_tighter_policy(world: World):
    candidate = world.seal("one")
    world.gate(candidate, "inconclusive")
    adopt(world, edit(world, STRICTER))
    assert unchanged(world, lambda: world.draw(candidate)) == "actions.policy-tightened"


def test_a_look_that_is_given_up_after_a_tightening_is_not_begun_again(world: World):
    candidate = world.seal("one")
    draw = world.draw(candidate)
    world.record_all_evidence(draw)
    adopt(world, edit(world, STRICTER))
    assert world.draw(candidate) == draw  # the same look goes on
    give_up = lambda: actions.abandon_look(world.store, candidate=candidate, reason="other code", actor="sam")  # noqa: E731
    assert unchanged(world, give_up) == "actions.policy-tightened"


def test_a_policy_that_is_in_force_again_binds_as_before(world: World):
    world.roles = world.roles.model_copy(update={"services": ("runner",)})
    candidate, first = world.seal("one"), world.policy
    adopt(world, edit(world, STRICTER))
    adopted_with_approvals(world, first)
    world.gate(candidate)
    for signer in ("ana", "bo"):
        world.sign(candidate, signer)
    world.promote("one")


def test_what_is_never_promoted_may_be_looked_at_under_any_policy(world: World):
    """A checkpoint of one's own, gated under a policy that was only recorded."""
    go_on_under(world, edit(world, LOOSER))
    candidate = world.seal("one")
    adopt(world, edit(world, STRICTER))
    world.gate(candidate)
    assert unchanged(world, lambda: world.promote("one")) in ("actions.not-approved", "actions.policy-not-in-force")


def test_an_older_log_in_which_a_look_began_after_a_tightening_promotes_nothing(
    sandbox: World, monkeypatch: pytest.MonkeyPatch
):
    candidate = sandbox.seal("one")
    adopt(sandbox, edit(sandbox, STRICTER))
    with monkeypatch.context() as older:
        older.setattr(seal, "refuse_if_tightened", lambda *_: None)
        sandbox.gate(candidate)
    assert rule_of(lambda: sandbox.promote("one")) == "actions.policy-tightened"


def test_edits_that_are_each_incomparable_need_approvals_each(world: World):
    """Two gates in turn: looser here, stricter there, so that neither step looks looser by itself."""
    first = edit(world, LOOSER, STRICTER)
    assert unchanged(world, lambda: adopt(world, first)) == "actions.looser-policy"
    adopted_with_approvals(world, first)
    second = edit(world, {"margin": 0.19}, {"margin": 0.3})
    assert unchanged(world, lambda: adopt(world, second)) == "actions.looser-policy"


def test_stricter_steps_do_not_add_up_to_a_looser_policy(world: World):
    """Every free step is stricter than the one before, so the way back is looser than where it began to go."""
    start = world.policy
    for margin in (0.09, 0.05):
        adopt(world, edit(world, {"margin": margin}))
    assert unchanged(world, lambda: adopt(world, start)) == "actions.looser-policy"


def test_an_edit_of_a_suite_needs_approvals(world: World):
    suite = world.base / "easier" / "refusal.yaml"
    suite.parent.mkdir()
    suite.write_text("name: refusal\nitems: [1, 2, 3]\n")
    body = policy_body(*GATES, planned=8, suites={"refusal": str(suite), "tasks": "tasks.yaml"})
    edited = _resolved(world, body)
    assert unchanged(world, lambda: adopt(world, edited)) == "actions.looser-policy"


def _resolved(world: World, body: dict[str, object]) -> ResolvedPolicy:
    policy = resolve_policy(write_policy(world.base / "edited", body))
    actions.record_policy(world.store, policy=policy, actor="sam")
    return policy


def test_halted_means_no_policy_either(world: World):
    stricter = edit(world, STRICTER)
    actions.halt(world.store, reason="wait", actor="ana")
    assert unchanged(world, lambda: adopt(world, stricter)) == "actions.halted"


def test_an_unrecorded_policy(world: World):
    digest = sha256_bytes(b"no such policy")
    adoption = lambda: actions.adopt_policy(world.store, policy=digest, actor="sam", roles=world.roles)  # noqa: E731
    assert unchanged(world, adoption) == "actions.policy-unknown"


# Approvals that are not of this edit, or not by who may give them


def test_an_approval_of_another_new_policy(world: World):
    approved, slipped_in = edit(world, LOOSER), edit(world, {"margin": 0.5})
    sign_edit(world, approved, "ana", "bo")
    assert unchanged(world, lambda: adopt(world, slipped_in)) == "actions.looser-policy"


def test_an_approval_of_another_old_policy(world: World):
    """What was approved in place of one policy was not approved in place of a stricter one."""
    looser = edit(world, LOOSER)
    sign_edit(world, looser, "ana", "bo")
    adopt(world, edit(world, STRICTER))
    assert unchanged(world, lambda: adopt(world, looser)) == "actions.looser-policy"


def test_a_statement_about_another_old_policy(world: World):
    looser = edit(world, LOOSER)
    stale = edit_envelope(world, looser, "ana")
    adopt(world, edit(world, STRICTER))
    sign = lambda: actions.sign_policy(world.store, envelope=stale, actor="ana", roles=world.roles)  # noqa: E731
    assert unchanged(world, sign) == "actions.other-pair"


def test_a_statement_about_the_policy_in_force(world: World):
    assert unchanged(world, lambda: sign_edit(world, world.policy, "ana")) == "actions.other-pair"


def test_an_approval_that_was_used_before(world: World):
    """The old policy came back, because the new one was bad: its approvals do not let it in again."""
    strict, looser = world.policy, edit(world, LOOSER)
    adopted_with_approvals(world, looser)
    adopt(world, strict)
    assert unchanged(world, lambda: adopt(world, looser)) == "actions.looser-policy"
    world.clock.advance(minutes=1)
    adopted_with_approvals(world, looser)


def test_the_author_who_recorded_it_does_not_approve_it(world: World):
    looser = edit(world, LOOSER, recorder="bo")
    assert unchanged(world, lambda: sign_edit(world, looser, "bo")) == "actions.own-edit"


def test_an_author_under_another_account_does_not_approve_it(world: World):
    looser = edit(world, LOOSER, recorder="T.Trainer")
    assert unchanged(world, lambda: sign_edit(world, looser, "tess")) == "actions.own-edit"


def test_who_approved_does_not_bring_it_into_force(world: World):
    looser = edit(world, LOOSER)
    sign_edit(world, looser, "ana", "bo")
    assert unchanged(world, lambda: adopt(world, looser, actor="bo")) == "actions.looser-policy"
    adopt(world, looser, actor="cy")


def test_an_author_whom_nobody_knows(world: World):
    looser = edit(world, LOOSER, recorder="build-7")
    assert unchanged(world, lambda: sign_edit(world, looser, "ana")) == "actions.unknown-author"
    known = world.roles
    world.roles = known.model_copy(update={"services": ("build-7",)})
    sign_edit(world, looser, "ana", "bo")
    world.roles = known
    assert unchanged(world, lambda: adopt(world, looser)) == "actions.looser-policy"


def with_person(world: World, name: str, *roles: str, key: Ed25519PrivateKey | None = None) -> None:
    """The world's roles file, edited: this person has these roles, and perhaps another key."""
    others = tuple(one for one in world.roles.people if one.id != name)
    changed = person(name, *roles, key=world.keys[name] if key is None else key)
    world.roles = world.roles.model_copy(update={"people": (*others, changed)})


def test_an_approver_who_has_lost_the_role(world: World):
    looser = edit(world, LOOSER)
    sign_edit(world, looser, "ana", "bo")
    with_person(world, "bo", "reviewer")
    assert unchanged(world, lambda: adopt(world, looser)) == "actions.looser-policy"


def test_an_approver_who_is_left_with_no_role_is_none(world: World):
    """Cy signed as governance, and reviews now: no role in common, whichever roles the policy asks for."""
    three = {"approvals": {"required": 3, "roles": ["reviewer", "safety"]}}
    adopt(world, edit(world, **three))
    looser = edit(world, LOOSER, **three)
    sign_edit(world, looser, "ana", "bo", "cy")
    with_person(world, "cy", "reviewer")
    with pytest.raises(ActionRefused) as refusal:
        adopt(world, looser)
    assert "2 of 3 approvals (ana, bo)" in refusal.value.message
    assert "cy's approval does not count" in refusal.value.message
    with_person(world, "cy", "governance")
    assert adopt(world, looser).body.approvers == ("ana", "bo", "cy")


def test_an_approver_who_got_the_role_after_signing(world: World):
    looser = edit(world, LOOSER)
    sign_edit(world, looser, "ana", "cy")
    with_person(world, "cy", "governance", "safety")
    assert unchanged(world, lambda: adopt(world, looser)) == "actions.looser-policy"


def test_an_approver_whose_key_was_withdrawn(world: World):
    looser = edit(world, LOOSER)
    sign_edit(world, looser, "ana", "bo")
    with_person(world, "bo", "safety", key=Ed25519PrivateKey.generate())
    before = in_force(world)
    assert rule_of(lambda: adopt(world, looser)) == "actions.looser-policy"
    assert in_force(world) == before


def test_an_approval_that_is_too_old(world: World):
    looser = edit(world, LOOSER)
    sign_edit(world, looser, "ana", "bo")
    world.clock.advance(hours=169)
    assert unchanged(world, lambda: adopt(world, looser)) == "actions.looser-policy"
    old = edit_envelope(world, looser, "ana", says_time="2026-11-24T05:00:00.000001Z")
    sign = lambda: actions.sign_policy(world.store, envelope=old, actor="ana", roles=world.roles)  # noqa: E731
    assert unchanged(world, sign) == "actions.signoff-expired"


def test_an_approval_from_the_future(world: World):
    looser = edit(world, LOOSER)
    sign = lambda: sign_edit(world, looser, "ana", says_time="2026-11-24T05:06:00.000000Z")  # noqa: E731
    assert unchanged(world, sign) == "actions.signed-in-future"


def test_a_statement_in_another_persons_name(world: World):
    looser = edit(world, LOOSER)
    assert unchanged(world, lambda: sign_edit(world, looser, "ana", says_signer="bo")) == "signing.other-signer"


def test_a_sign_off_of_a_candidate_is_none_of_a_policy(world: World):
    candidate = world.seal("one")
    world.gate(candidate)
    envelope = world.envelope(candidate, "ana")
    sign = lambda: actions.sign_policy(world.store, envelope=envelope, actor="ana", roles=world.roles)  # noqa: E731
    assert unchanged(world, sign) == "signing.other-type"


def test_a_rejection_outlives_the_policy_that_it_was_to_replace(world: World):
    looser = edit(world, LOOSER)
    sign_edit(world, looser, "cy", decision="reject")
    adopt(world, edit(world, STRICTER))
    sign_edit(world, looser, "ana", "bo")
    assert unchanged(world, lambda: adopt(world, looser)) == "actions.looser-policy"
    world.clock.advance(minutes=1)
    sign_edit(world, looser, "cy")
    assert adopt(world, looser).body.approvers == ("ana", "bo", "cy")


def test_the_same_statement_again_is_the_entry_that_exists(world: World):
    looser = edit(world, LOOSER)
    assert sign_edit(world, looser, "ana") == sign_edit(world, looser, "ana")
