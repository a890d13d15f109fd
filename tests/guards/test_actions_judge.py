"""A look from its evidence to its decision: what is allowed, and what is refused by which rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guards import actions
from tests.store_world import (
    DIGEST,
    World,
    make_world,
    rule_of,
)

# Evidence, verdicts, decision


def test_evidence_must_be_of_the_checkpoint_that_has_the_role(world: World):
    draw = world.draw(world.seal("one"))
    world.checkpoint("stranger")
    for role, right in (("candidate", "one"), ("champion", "root"), ("root", "root"), ("anchor", "root")):
        wrong = world.run_directory(draw, role, world.checkpoint("stranger"), 8)
        assert rule_of(lambda r=role, w=wrong: world.record_evidence(draw, r, w)) == "evidence.other-checkpoint"
        world.record_evidence(draw, role, world.run_directory(draw, role, world.checkpoint(right)))


def test_without_a_root_there_is_no_evidence_of_one(tmp_path: Path):
    world = make_world(tmp_path)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    draw = world.draw(world.seal("one"))
    for role in ("champion", "root", "anchor"):
        directory = world.run_directory(draw, role, world.checkpoint("one"))
        assert rule_of(lambda r=role, d=directory: world.record_evidence(draw, r, d)) == "actions.no-such-role"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"draw_seed_digest": DIGEST}, "actions.other-draw"),
        ({"suite_digest": DIGEST}, "actions.other-suite"),
        ({"suite_name": "unheard-of"}, "actions.other-suite"),
        ({"n_items": 11}, "evidence.item-count"),
    ],
    ids=str,
)
def test_evidence_must_be_of_this_look(world: World, change: dict[str, Any], rule: str):
    draw = world.draw(world.seal("one"))

    def record() -> None:
        world.record_evidence(draw, "candidate", world.run_directory(draw, "candidate", draw.candidate, **change))

    assert rule_of(record) == rule


def test_evidence_stays_in_the_home(world: World, tmp_path: Path):
    draw = world.draw(world.seal("one"))
    directory = world.run_directory(draw, "candidate", draw.candidate)
    elsewhere = directory.rename(tmp_path / "elsewhere")
    assert rule_of(lambda: world.record_evidence(draw, "candidate", elsewhere)) == "actions.evidence-outside-home"
    (world.store.home / "link").symlink_to(elsewhere)
    through_a_link = world.store.home / "link"
    assert rule_of(lambda: world.record_evidence(draw, "candidate", through_a_link)) == "actions.evidence-outside-home"


def test_a_draw_is_answered_once(world: World):
    draw = world.draw(world.seal("one"))
    world.record_evidence(draw, "candidate", world.run_directory(draw, "candidate", draw.candidate, 9))
    better = world.run_directory(draw, "candidate", draw.candidate, 10)
    assert rule_of(lambda: world.record_evidence(draw, "candidate", better)) == "actions.evidence-differs"


def test_evidence_is_closed_by_verdicts_and_verdicts_are_final(world: World):
    draw = world.draw(world.seal("one"))
    late = world.run_directory(draw, "champion", world.checkpoint("root"))
    first = world.run_directory(draw, "candidate", draw.candidate)
    world.record_evidence(draw, "candidate", first)

    def verdicts(*outcomes: str) -> object:
        return actions.record_verdicts(
            world.store, candidate=draw.candidate, verdicts=world.verdicts(*outcomes), actor="runner"
        )

    verdicts("pass", "inconclusive")
    assert rule_of(lambda: world.record_evidence(draw, "champion", late)) == "actions.look-closed"
    world.record_evidence(draw, "candidate", first)  # the same again is no change
    assert rule_of(lambda: verdicts("pass", "pass")) == "actions.look-closed"
    actions.record_decision(world.store, candidate=draw.candidate, actor="runner")
    assert rule_of(lambda: verdicts("pass", "pass")) == "actions.look-closed"
    assert world.outcome(draw.candidate) == "hold"


def test_every_gate_needs_one_verdict(world: World):
    draw = world.draw(world.seal("one"))

    def record(verdicts: list[Any]) -> object:
        return actions.record_verdicts(world.store, candidate=draw.candidate, verdicts=verdicts, actor="runner")

    passed = world.verdicts("pass")
    assert rule_of(lambda: record(passed)) == "actions.no-evidence"
    world.record_all_evidence(draw)
    assert rule_of(lambda: record([])) == "decision.no-verdicts"
    assert rule_of(lambda: record(passed[:1])) == "decision.missing-verdict"
    assert rule_of(lambda: record([*passed, passed[0]])) == "decision.duplicate-verdict"
    stranger = passed[0].model_copy(update={"gate_id": "stranger"})
    assert rule_of(lambda: record([*passed, stranger])) == "decision.unknown-gate"
    decide = rule_of(lambda: actions.record_decision(world.store, candidate=draw.candidate, actor="runner"))
    assert decide == "decision.no-verdicts"
    recorded = record(passed)
    assert [actions.read_verdict(item) for item in recorded] == passed


def test_nothing_is_judged_before_its_time(world: World):
    candidate = world.seal("one")
    assert rule_of(lambda: actions.record_decision(world.store, candidate=candidate, actor="x")) == "actions.no-look"
    assert rule_of(lambda: world.promote("one")) == "actions.no-look"
    world.draw(candidate)
    assert rule_of(lambda: world.promote("one")) == "actions.not-decided"
    assert rule_of(lambda: world.sign(candidate, "ana")) == "actions.not-decided"
    assert (
        rule_of(lambda: actions.record_decision(world.store, candidate=candidate, actor="x")) == "actions.no-evidence"
    )
