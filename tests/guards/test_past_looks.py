"""Reading looks in bulk: the same as reading them one by one, and nothing that is not a look's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from guards import actions
from guards.errors import LedgerError
from guards.past_looks import PastLook
from guards.store import Store
from tests.store_world import UNATTENDED_APPROVALS, World, make_world, rollback


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = make_world(tmp_path, approvals=UNATTENDED_APPROVALS)
    made.set_root()
    return made


def decided(world: World) -> list[PastLook]:
    with world.store.read() as history:
        return list(history.decided_looks())


def test_what_is_read_in_bulk_is_what_history_says(world: World) -> None:
    world.gate(world.seal("a"), "pass")
    world.gate(world.seal("b"), "fail", "pass")
    found = decided(world)
    assert [look.candidate for look in found] == [world.checkpoint("a"), world.checkpoint("b")]
    with world.store.read() as history:
        root = history.root()
        for look in found:
            drawn = history.latest_look(look.candidate)
            assert drawn is not None and root is not None
            assert (look.seq, look.look, look.policy) == (drawn.seq, drawn.body.look, drawn.body.policy)
            assert (look.compared_with, look.root) == (drawn.body.compared_with, root.body.checkpoint)
            recorded = [entry.body for entry in history.evidence(look.seq)]
            assert [(a.suite, a.checkpoint, a.evidence, a.path) for a in look.answers] == [
                (body.suite, body.checkpoint, body.evidence, body.path) for body in recorded
            ]
            assert [(v.gate, v.outcome, dict(v.figures)) for v in look.verdicts] == [
                (entry.body.gate, entry.body.outcome, entry.body.figures) for entry in history.verdicts(look.seq)
            ]


def test_the_draw_is_named_as_its_evidence_names_it(world: World) -> None:
    candidate = world.seal("a")
    draw = world.draw(candidate)
    world.gate(candidate)
    (look,) = decided(world)
    assert look.draw_seed_digest == draw.seed_digest


def test_looks_that_are_open_at_the_same_time_keep_their_entries_apart(world: World) -> None:
    first, second = world.seal("a"), world.seal("b")
    draws = {first: world.draw(first), second: world.draw(second)}
    for candidate in (second, first):
        world.record_all_evidence(draws[candidate])
    for candidate, outcome in ((first, "pass"), (second, "inconclusive")):
        actions.record_verdicts(world.store, candidate=candidate, verdicts=world.verdicts(outcome), actor="runner")
    for candidate in (second, first):
        actions.record_decision(world.store, candidate=candidate, actor="runner", roles=world.roles)
    found = {look.candidate: look for look in decided(world)}
    assert {v.outcome for v in found[first].verdicts} == {"pass"}
    assert {v.outcome for v in found[second].verdicts} == {"inconclusive"}
    for candidate, draw in draws.items():
        assert found[candidate].seq == draw.look_seq
        assert {answer.checkpoint for answer in found[candidate].answers} >= {candidate, draw.compared_with}


def test_only_the_latest_decided_look_of_a_candidate_is_read(world: World) -> None:
    candidate = world.seal("a")
    world.gate(candidate, "inconclusive")
    world.gate(candidate, "inconclusive")
    world.draw(candidate)
    world.draw(world.seal("b"))
    world.seal("c")
    (look,) = decided(world)
    assert look.look == 2
    with world.store.read() as history:
        assert history.count_undecided() == 2
        assert [seq for seq, _ in history.policies_of_looks()] == sorted(
            entry.seq for entry in history.entries(kind="seed")
        )


def test_anchors_are_those_of_the_time(world: World) -> None:
    then: list[dict[str, str]] = []

    def judged(name: str, *, is_promoted: bool) -> str:
        candidate = world.seal(name)
        with world.store.read() as history:
            then.append(history.anchors())
        world.gate(candidate, bound=0.1)
        if is_promoted:
            world.promote(name)
        return candidate

    first = judged("a", is_promoted=True)
    second = judged("b", is_promoted=True)
    third = judged("c", is_promoted=True)
    judged("d", is_promoted=False)
    actions.recall(world.store, checkpoint=second, reason="it lied", actor="ana")
    judged("e", is_promoted=False)
    actions.recall(world.store, checkpoint=third, reason="it lied, too", actor="ana")
    rollback(world, "a")
    actions.lift(world.store, reason="go on", actor="ana")
    judged("f", is_promoted=False)
    gate = "refusal-holds-over-time"
    assert [one.get(gate) for one in then] == [None, first, second, third, third, first], "else nothing is shown"
    assert [dict(look.anchors) for look in decided(world)] == then


def test_an_entry_without_what_is_needed_is_refused(world: World, tmp_path: Path) -> None:
    world.gate(world.seal("a"))
    path = world.store.home / "stairlock.db"
    world.store.close()
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as conn:
        seq, leaf = conn.execute(text("SELECT seq, leaf_bytes FROM entries WHERE kind = 'seed'")).one()
        entry = json.loads(leaf)
        del entry["body"]["policy"]
        conn.execute(
            text("UPDATE entries SET leaf_bytes = :leaf WHERE seq = :seq"),
            {"leaf": json.dumps(entry).encode(), "seq": seq},
        )
    engine.dispose()
    with pytest.raises(LedgerError) as refused, Store.open(world.store.home).read() as history:
        list(history.decided_looks())
    assert refused.value.rule == "ledger.bad-body"
