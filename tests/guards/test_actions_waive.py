"""Waiving: what two people sign lets an inconclusive gate pass, and nothing else does."""

from __future__ import annotations

from datetime import timedelta

import pytest

from guards import actions
from guards.gates.verdict import explain
from tests.store_world import GATES, World, rule_of

FIRST, SECOND = (gate["id"] for gate in GATES)


def held(world: World, name: str = "one", *outcomes: str) -> str:
    """A candidate whose first gate is inconclusive."""
    candidate = world.seal(name)
    assert world.gate(candidate, *(outcomes or ("inconclusive", "pass"))).body.waits_for == "evidence"
    return candidate


def verdict_texts(world: World, candidate: str) -> list[str]:
    with world.store.read() as history:
        look = history.latest_look(candidate)
        assert look is not None
        return [explain(one) for one in actions.verdicts_now(history, look, world.roles, world.clock.now)]


def test_a_waiver_lets_approvals_and_the_promotion_go_on(world: World):
    candidate = held(world)
    assert rule_of(lambda: world.sign(candidate, "ana")) == "actions.cannot-approve"
    world.waive(candidate, "ana")
    assert rule_of(lambda: world.sign(candidate, "ana")) == "actions.cannot-approve"  # one of two
    world.waive(candidate, "bo")
    assert rule_of(lambda: world.promote("one")) == "actions.not-approved"  # a waiver approves nothing
    world.sign(candidate, "ana")
    world.sign(candidate, "bo")
    assert world.outcome(candidate) == "hold", "the decision stands until something takes effect"
    promoted = world.promote("one")
    assert world.champion() == candidate
    with world.store.read() as history:
        decision = history.decision(promoted.body.look_seq)
        assert decision is not None and decision.kind == "promote"
    assert f"{FIRST} is waived until 2026-11-26T05:00:00+00:00 (T-1, by ana, bo)" in " ".join(decision.body.reasons)
    world.store.verify(roles=[world.roles])


def test_where_nobody_has_to_approve_one_signature_waives(sandbox: World):
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")
    sandbox.promote("one")
    assert sandbox.champion() == candidate
    sandbox.store.verify(roles=[sandbox.roles])


def test_the_waiver_is_shown_with_the_verdict_while_it_is_live(world: World):
    candidate = held(world)
    plain = verdict_texts(world, candidate)
    world.waive(candidate, "ana")
    assert verdict_texts(world, candidate) == plain
    world.waive(candidate, "bo")
    assert (
        "(waived until 2026-11-26T05:00:00+00:00 (T-1, by ana, bo): the suite is" in verdict_texts(world, candidate)[0]
    )
    world.clock.advance(days=2)
    assert verdict_texts(world, candidate) == plain


def test_it_must_still_be_live_when_the_promotion_takes_effect(world: World):
    candidate = held(world)
    for person in ("ana", "bo"):
        world.waive(candidate, person)
    for person in ("ana", "bo"):
        world.sign(candidate, person)
    world.clock.advance(days=2)
    assert rule_of(lambda: world.promote("one")) == "actions.not-passed"
    # Another waiver, by people, before another promotion.
    for person in ("ana", "bo"):
        world.waive(candidate, person)
    world.promote("one")
    world.store.verify(roles=[world.roles])


def test_two_inconclusive_gates_need_two_waivers(world: World):
    candidate = held(world, "one", "inconclusive", "inconclusive")
    for person in ("ana", "bo"):
        world.waive(candidate, person, FIRST)
    assert rule_of(lambda: world.sign(candidate, "ana")) == "actions.cannot-approve"
    for person in ("ana", "bo"):
        world.waive(candidate, person, SECOND)
    world.sign(candidate, "ana")


def test_an_objection_voids_it_until_it_is_taken_back(sandbox: World):
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")
    sandbox.clock.advance(minutes=1)
    sandbox.waive(candidate, "bo", FIRST, "reject")
    assert rule_of(lambda: sandbox.promote("one")) == "actions.not-passed"
    sandbox.clock.advance(minutes=1)
    sandbox.waive(candidate, "bo", FIRST)
    sandbox.promote("one")


def test_a_rejection_of_the_candidate_stops_a_waived_one_too(sandbox: World):
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")
    sandbox.sign(candidate, "ana", "reject")
    assert rule_of(lambda: sandbox.promote("one")) == "actions.not-approved"


def test_a_new_look_needs_a_new_waiver(sandbox: World):
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")
    sandbox.gate(candidate, "inconclusive", "pass")
    assert rule_of(lambda: sandbox.promote("one")) == "actions.not-passed"
    sandbox.waive(candidate, "cy")
    sandbox.promote("one")


def test_the_same_statement_again_is_the_entry_that_exists(world: World):
    candidate = held(world)
    envelope = world.waiver(candidate, "ana")

    def waive() -> object:
        return actions.waive(world.store, envelope=envelope, actor="ana", roles=world.roles)

    assert waive() == waive()
    assert world.kinds().count("waiver") == 1
    # Recorded, it is no longer asked whether it may be.
    world.clock.advance(days=400)
    assert waive() == waive()


def test_people_may_sign_while_everything_is_halted(world: World):
    candidate = held(world)
    actions.halt(world.store, reason="wait", actor="ana")
    for person in ("ana", "bo"):
        world.waive(candidate, person)
    world.store.verify(roles=[world.roles])
    assert rule_of(lambda: world.promote("one")) == "actions.halted"


def test_a_candidate_that_a_waiver_lets_through_is_not_cleaned_up(sandbox: World):
    sandbox.store.roles_path.write_text(sandbox.roles.model_dump_json(by_alias=True))
    candidate = held(sandbox)
    sandbox.waive(candidate, "cy")

    def clean_up() -> object:
        return actions.record_cleanup(sandbox.store, checkpoint=candidate, rule="old", actor="runner")

    assert rule_of(clean_up) == "actions.still-needed"
    sandbox.clock.advance(days=3)
    clean_up()


@pytest.mark.parametrize("roles_now", ["nobody", "other-key", "other-role", "no-file"])
def test_a_signature_stops_counting_with_its_key_and_its_role(world: World, roles_now: str):
    candidate = held(world)
    for person in ("ana", "bo"):
        world.waive(candidate, person)
    bo = next(one for one in world.roles.people if one.id == "bo")
    others = tuple(one for one in world.roles.people if one.id != "bo")
    change = {
        "nobody": (),
        "other-key": (bo.model_copy(update={"keys": world.roles.people[2].keys}),),
        "other-role": (bo.model_copy(update={"roles": ("governance",)}),),
    }
    kept = tuple(one for one in others if roles_now != "other-key" or one.id != "cy")
    roles = None if roles_now == "no-file" else world.roles.model_copy(update={"people": (*kept, *change[roles_now])})
    with world.store.read() as history:
        look = history.latest_look(candidate)
        assert look is not None
        (live,) = actions.waivers_now(history, look, world.roles, world.clock.now)
        (void,) = actions.waivers_now(history, look, roles, world.clock.now)
    assert live.is_live and not void.is_live


def test_no_later_role_makes_a_signature_worth_more(world: World):
    candidate = held(world)
    for person in ("ana", "cy"):
        world.waive(candidate, person)
    roles_now = {"cy": ("governance", "safety")}
    people = [one.model_copy(update={"roles": roles_now.get(one.id, one.roles)}) for one in world.roles.people]
    with world.store.read() as history:
        look = history.latest_look(candidate)
        assert look is not None
        roles = world.roles.model_copy(update={"people": tuple(people)})
        (found,) = actions.waivers_now(history, look, roles, world.clock.now)
    assert not found.is_live


def test_a_waiver_lasts_as_long_as_it_says_and_not_as_an_approval(world: World):
    candidate = held(world)
    for person in ("ana", "bo"):
        world.waive(candidate, person, days=90)
    world.clock.advance(days=89)  # approvals are valid for a week
    for person in ("ana", "bo"):
        world.sign(candidate, person)
    world.promote("one")
    assert timedelta(days=89) > timedelta(hours=world.policy.policy.approvals.valid_for_h)
