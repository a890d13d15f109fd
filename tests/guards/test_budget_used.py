"""What counts against a budget: candidates that were judged, and steps, since a person signed."""

from __future__ import annotations

from pathlib import Path

import pytest

from guards import actions
from guards.canonical import sha256_bytes
from guards.evidence import Cost
from guards.gates.budget import used_since_a_person
from guards.gates.inputs import BudgetState
from tests.store_world import World, make_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path)
    made.set_root()
    return made


def used(world: World) -> BudgetState:
    with world.store.read() as history:
        return used_since_a_person(history)


def judged(world: World, name: str, *outcomes: str) -> str:
    candidate = world.seal(name)
    world.gate(candidate, *outcomes)
    return candidate


def step(world: World, name: str, cost: Cost | None, *, failed: bool = False) -> None:
    spec = sha256_bytes(name.encode())
    attempt = actions.start_step(world.store, spec=spec, step="train", actor="runner")
    actions.finish_step(
        world.store,
        spec=spec,
        attempt=attempt.number,
        outcome="failed" if failed else "done",
        outputs=None if failed else sha256_bytes(b"outputs"),
        cost=cost,
        reason="step.died" if failed else "",
        actor="runner",
    )


def test_the_first_candidate_is_one(world: World) -> None:
    assert used(world) == BudgetState(cycles_without_person=1, cost_s=0.0, tokens_trained=0)


@pytest.mark.parametrize("outcome", ["pass", "fail", "inconclusive"])
def test_every_candidate_that_was_judged_counts_promoted_or_not(world: World, outcome: str) -> None:
    for n in range(3):
        judged(world, f"one-{n}", outcome)
    assert used(world).cycles_without_person == 4


def test_another_look_at_the_same_candidate_counts_again(world: World) -> None:
    candidate = judged(world, "one", "inconclusive")
    world.gate(candidate, "inconclusive")
    assert used(world).cycles_without_person == 3


def test_a_draw_that_was_not_decided_does_not_count(world: World) -> None:
    world.draw(world.seal("one"))
    assert used(world).cycles_without_person == 1


@pytest.mark.parametrize("decision", ["approve", "reject"])
def test_a_person_who_signs_about_the_latest_begins_the_count_again(world: World, decision: str) -> None:
    judged(world, "one", "fail")
    latest = judged(world, "two")
    world.sign(latest, "ana", decision)  # type: ignore[arg-type]
    assert used(world).cycles_without_person == 1
    judged(world, "three", "fail")
    assert used(world).cycles_without_person == 2


def test_a_person_who_signs_about_an_older_one_has_not_seen_what_came_after(world: World) -> None:
    older = judged(world, "one")
    judged(world, "two", "fail")
    step(world, "after", Cost(wall_ms=2000))
    judged(world, "three", "fail")
    world.sign(older, "ana", "reject")
    assert (used(world).cycles_without_person, used(world).cost_s) == (3, 2.0)


def test_a_promotion_that_follows_a_signature_is_no_new_candidate(world: World) -> None:
    world.promoted("one")
    assert used(world).cycles_without_person == 1


def test_cost_is_that_of_all_steps_since_failed_ones_included_in_whatever_run(world: World) -> None:
    step(world, "before", Cost(wall_ms=9000, tokens_trained=900))
    world.sign(judged(world, "one"), "ana", "reject")
    assert (used(world).cost_s, used(world).tokens_trained) == (0.0, 0)
    step(world, "done", Cost(wall_ms=1500, tokens_trained=20))
    step(world, "broken", Cost(wall_ms=500), failed=True)
    step(world, "of an older version", None, failed=True)
    assert used(world) == BudgetState(cycles_without_person=1, cost_s=2.0, tokens_trained=20)


def test_the_root_is_no_cycle(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    world.checkpoint("root")
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    world.gate(world.seal("root"), compared_with=world.checkpoint("base"))
    world.set_root()
    assert used(world).cycles_without_person == 1
