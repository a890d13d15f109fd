"""Recording policies, setting the root, sealing, drawing: what is allowed, and what is refused by which rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guards import actions
from guards.canonical import sha256_bytes
from guards.entries import PolicyRecorded, Sealed
from tests.store_world import (
    DIGEST,
    UNATTENDED_APPROVALS,
    World,
    make_world,
    other_policy,
    rule_of,
)

# Policies and the root


def test_a_policy_is_recorded_by_its_digest(world: World):
    with world.store.read() as history:
        recorded = history.policy(world.policy.digest)
    assert recorded is not None
    assert recorded.body == PolicyRecorded(
        policy=world.policy.digest, name="test", resolved=world.policy.canonical_json
    )
    forged = world.policy.model_copy(update={"digest": DIGEST})
    assert rule_of(lambda: actions.record_policy(world.store, policy=forged, actor="x")) == "actions.policy-digest"
    emptied = world.policy.canonical_json.replace('"gates":[', '"gates":[],"x":[')
    bad = world.policy.model_copy(update={"canonical_json": emptied, "digest": sha256_bytes(emptied.encode())})
    assert rule_of(lambda: actions.record_policy(world.store, policy=bad, actor="x")) == "actions.bad-policy"


def set_root(world: World, name: str, **changes: Any) -> None:
    world.checkpoint(name)
    arguments: dict[str, Any] = {
        "manifest": world.manifests[name],
        "policy": world.policy.digest,
        "evidence": [DIGEST],
        "verdicts": world.verdicts("pass"),
        "actor": "runner",
    }
    actions.set_root(world.store, **(arguments | changes))


def test_the_root_is_set_once(world: World):
    assert world.champion() == world.checkpoint("root")
    before = world.store.head()
    set_root(world, "root")
    assert world.store.head() == before
    assert rule_of(lambda: set_root(world, "another")) == "actions.root-exists"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda world: {"verdicts": world.verdicts("pass", "inconclusive")}, "actions.root-failed"),
        (lambda world: {"verdicts": world.verdicts("fail")}, "actions.root-failed"),
        (lambda world: {"verdicts": world.verdicts("pass")[:1]}, "decision.missing-verdict"),
        (lambda world: {"verdicts": []}, "decision.no-verdicts"),
        (lambda world: {"verdicts": world.verdicts("pass", bound=-0.9)}, "actions.verdict-contradicts"),
        (lambda world: {"evidence": []}, "actions.no-evidence"),
        (lambda world: {"evidence": ["not a digest"]}, "actions.bad-argument"),
        (lambda world: {"policy": DIGEST}, "actions.policy-unknown"),
    ],
)
def test_what_did_not_pass_is_no_root(tmp_path: Path, change: Callable[[World], dict[str, Any]], rule: str):
    world = make_world(tmp_path)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    assert rule_of(lambda: set_root(world, "root", **change(world))) == rule
    assert world.champion() is None


def test_no_root_is_set_while_halted(tmp_path: Path):
    world = make_world(tmp_path)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    actions.halt(world.store, reason="why", actor="ana")
    assert rule_of(lambda: set_root(world, "root")) == "actions.halted"


def test_a_recalled_candidate_becomes_no_root(tmp_path: Path):
    world = make_world(tmp_path)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    actions.recall(world.store, checkpoint=world.seal("root"), reason="why", actor="ana")
    assert rule_of(lambda: set_root(world, "root")) == "actions.recalled"


# Sealing and drawing


def test_a_seal_names_files_origin_and_policy(world: World):
    candidate = world.seal("one", parent=world.checkpoint("root"))
    with world.store.read() as history:
        sealed = history.find_candidate(candidate)
    assert sealed.body == Sealed(
        candidate=candidate,
        manifest=world.manifests["one"].to_json(),
        provenance={"recipe": "test", "learning_rate": "0.001"},
        parent=world.checkpoint("root"),
        submitter="sam",
        trainer="tess",
        policy=world.policy.digest,
    )


def test_a_policy_binds_only_what_is_sealed_after_it(world: World):
    assert rule_of(lambda: world.seal("one", policy=DIGEST)) == "actions.policy-unknown"
    candidate = world.seal("one")
    looser = other_policy(world)
    assert rule_of(lambda: world.draw(candidate, policy=looser.digest)) == "actions.other-policy"
    assert rule_of(lambda: world.seal("one", policy=looser.digest)) == "actions.sealed-under-other-policy"
    world.seal("one", policy=looser.digest, reseal=True)
    assert world.draw(candidate, policy=looser.digest).look == 1
    assert rule_of(lambda: world.draw(candidate)) == "actions.other-policy"


def test_a_look_under_another_policy_than_the_seal_leads_nowhere(sandbox: World):
    candidate = sandbox.seal("one")
    draw = sandbox.draw(candidate)
    first = sandbox.run_directory(draw, "candidate", candidate)
    second = sandbox.run_directory(draw, "champion", sandbox.checkpoint("root"))
    waiting = sandbox.seal("waiting")
    sandbox.gate(waiting)
    sandbox.record_evidence(draw, "candidate", first)
    edited = other_policy(sandbox, approvals=UNATTENDED_APPROVALS)

    def reseal(name: str) -> None:
        sandbox.seal(name, policy=edited.digest, reseal=True)

    reseal("one")
    reseal("waiting")
    passed = sandbox.verdicts("pass")
    stopped: list[Callable[[], object]] = [
        lambda: sandbox.record_evidence(draw, "champion", second),
        lambda: actions.record_verdicts(sandbox.store, candidate=candidate, verdicts=passed, actor="runner"),
        lambda: actions.record_decision(sandbox.store, candidate=candidate, actor="runner"),
        lambda: sandbox.promote("waiting"),
        lambda: sandbox.sign(waiting, "ana", "reject"),
    ]
    for action in stopped:
        assert rule_of(action) == "actions.other-policy"


def test_items_are_drawn_only_after_the_seal(world: World):
    assert rule_of(lambda: world.draw(world.checkpoint("one"))) == "actions.not-sealed"


def test_one_look_has_one_draw(world: World):
    candidate = world.seal("one")
    first = world.draw(candidate, source=lambda n: b"\x07" * n)
    assert first.seed == b"\x07" * 32
    assert first.seed_digest == sha256_bytes(first.seed)
    assert world.draw(candidate, source=lambda n: b"\x08" * n) == first
    assert world.draw(candidate, run="another run") == first
    assert rule_of(lambda: world.draw(world.seal("two"), source=lambda n: b"")) == "actions.bad-random-source"


def test_draws_are_random(world: World):
    seeds = {world.draw(world.seal(f"number {i}")).seed for i in range(4)}
    assert len(seeds) == 4


def test_a_look_that_is_decided_is_followed_by_another_look(world: World):
    candidate = world.seal("one")
    world.gate(candidate, "inconclusive", run="r")
    first = world.draw(candidate, run="r")
    assert (first.look, first.is_decided) == (1, True)  # the same run, resumed: no new look
    second = world.draw(candidate)
    assert (second.look, second.is_decided) == (2, False)
    assert second.seed != first.seed


def test_looks_are_counted_over_candidates_and_over_edits_of_a_policy(world: World):
    assert [world.draw(world.seal(f"number {i}")).look for i in range(3)] == [1, 2, 3]
    edited = other_policy(world)
    assert world.draw(world.seal("four", policy=edited.digest), policy=edited.digest).look == 4
    renamed = other_policy(world, name="another")
    assert world.draw(world.seal("five", policy=renamed.digest), policy=renamed.digest).look == 1


def test_a_look_against_a_past_champion_is_not_gone_on_with(sandbox: World):
    waiting = sandbox.seal("waiting")
    stale = sandbox.draw(waiting, run="r")
    sandbox.promoted("faster")
    fresh = sandbox.draw(waiting, run="r")
    assert (fresh.look, fresh.champion) == (3, sandbox.checkpoint("faster"))
    assert fresh.seed != stale.seed


def test_two_checkpoints_can_be_gated_outside_a_loop(tmp_path: Path):
    world = make_world(tmp_path, approvals=UNATTENDED_APPROVALS)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    candidate = world.seal("mine")
    decision = world.gate(candidate, compared_with=world.checkpoint("theirs"))
    assert decision.kind == "promote"
    assert rule_of(lambda: world.promote("mine", champion_expected=DIGEST)) == "actions.no-champion"
