"""Promotion, anchors, rollback, recall, halt and clean-up: what is allowed, and what is refused by which rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from guards import actions
from tests.store_world import (
    DIGEST,
    GATES,
    UNATTENDED_APPROVALS,
    World,
    make_world,
    other_policy,
    rollback,
    rule_of,
)

# Promotion, anchors, rollback


def test_a_promotion_names_the_champion_that_it_replaces(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate)
    wrong = {"champion_expected": sandbox.checkpoint("stranger")}
    assert rule_of(lambda: sandbox.promote("one", **wrong)) == "actions.champion-changed"
    sandbox.promote("one")


def test_a_candidate_gated_against_something_else_is_not_promoted(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate, compared_with=sandbox.checkpoint("weak"))
    assert rule_of(lambda: sandbox.promote("one")) == "actions.other-comparison"


def test_an_anchor_is_the_best_certified_champion_that_was_not_recalled(sandbox: World):
    gate = GATES[1]["id"]

    def anchor() -> str | None:
        with sandbox.store.read() as history:
            return history.anchor(gate)

    root = sandbox.checkpoint("root")
    assert anchor() == root
    for name, bound, expected in (("worse", -0.04, "root"), ("better", 0.01, "better"), ("equal", 0.0, "better")):
        candidate = sandbox.seal(name)
        sandbox.gate(candidate, bound=bound)
        promoted = sandbox.promote(name)
        assert promoted.body.anchor_gates == ((gate,) if name == expected else ())
        assert anchor() == sandbox.checkpoint(expected)
    actions.recall(sandbox.store, checkpoint=sandbox.checkpoint("better"), reason="it lied", actor="ana")
    assert anchor() == root


def test_only_a_past_champion_comes_back(sandbox: World):
    sandbox.promoted("one")
    sandbox.seal("stranger")
    assert rule_of(lambda: rollback(sandbox, "stranger")) == "actions.not-a-past-champion"
    assert rule_of(lambda: rollback(sandbox, "one")) == "actions.already-champion"
    assert rule_of(lambda: rollback(sandbox, "root", reason="")) == "actions.bad-argument"
    rollback(sandbox, "root")
    assert sandbox.champion() == sandbox.checkpoint("root")
    before = sandbox.store.head()
    rollback(sandbox, "root")
    assert sandbox.store.head() == before
    with sandbox.store.read() as history:
        names = [term.checkpoint for term in history.champions()]
        assert history.status(sandbox.checkpoint("one")) == "past-champion"
    assert names == [sandbox.checkpoint(name) for name in ("root", "one", "root")]
    # What was promoted once comes back only by a rollback, or through the gates again.
    assert rule_of(lambda: sandbox.promote("one")) == "actions.decision-used"
    rollback(sandbox, "one")
    assert sandbox.champion() == sandbox.checkpoint("one")


def test_a_recalled_checkpoint_never_comes_back(sandbox: World):
    one, two = sandbox.promoted("one"), sandbox.promoted("two")
    actions.recall(sandbox.store, checkpoint=one, reason="it lied", actor="ana")
    assert rule_of(lambda: rollback(sandbox, "one")) == "actions.recalled"
    assert sandbox.champion() == two
    assert rule_of(lambda: sandbox.draw(one)) == "actions.recalled"
    other = other_policy(sandbox, approvals=UNATTENDED_APPROVALS)
    assert rule_of(lambda: sandbox.seal("one", policy=other.digest, reseal=True)) == "actions.recalled"
    before = sandbox.store.head()
    actions.recall(sandbox.store, checkpoint=one, reason="again", actor="bo")
    assert sandbox.store.head() == before


def test_a_recalled_candidate_is_not_promoted(sandbox: World):
    candidate = sandbox.seal("one")
    sandbox.gate(candidate)
    actions.recall(sandbox.store, checkpoint=candidate, reason="it lied", actor="ana")
    assert rule_of(lambda: sandbox.promote("one")) == "actions.recalled"
    assert rule_of(lambda: sandbox.sign(candidate, "ana")) == "actions.recalled"
    undecided = sandbox.seal("two")
    sandbox.record_all_evidence(sandbox.draw(undecided))
    passed = sandbox.verdicts("pass")
    actions.record_verdicts(sandbox.store, candidate=undecided, verdicts=passed, actor="runner")
    actions.recall(sandbox.store, checkpoint=undecided, reason="it lied", actor="ana")
    decide = rule_of(lambda: actions.record_decision(sandbox.store, candidate=undecided, actor="runner"))
    assert decide == "actions.recalled"


def test_a_recalled_champion_halts_everything_until_it_is_replaced(sandbox: World):
    one = sandbox.promoted("one")
    waiting = sandbox.seal("waiting")
    actions.recall(sandbox.store, checkpoint=one, reason="it lied", actor="ana")
    assert rule_of(lambda: sandbox.draw(waiting)) == "actions.halted"

    def lift() -> object:
        return actions.lift(sandbox.store, reason="replaced", actor="bo")

    assert rule_of(lift) == "actions.recalled-in-use"
    rollback(sandbox, "root")
    lift()
    sandbox.draw(waiting)


def test_a_recalled_root_ends_the_home(sandbox: World):
    sandbox.promoted("one")
    actions.recall(sandbox.store, checkpoint=sandbox.checkpoint("root"), reason="it lied", actor="ana")
    assert rule_of(lambda: sandbox.seal("two")) == "actions.halted"
    assert rule_of(lambda: actions.lift(sandbox.store, reason="x", actor="ana")) == "actions.recalled-in-use"


def test_only_what_is_known_can_be_recalled(sandbox: World):
    recall = rule_of(lambda: actions.recall(sandbox.store, checkpoint=DIGEST, reason="why", actor="ana"))
    assert recall == "actions.unknown-checkpoint"


# Halt, lift, clean-up


def test_a_halt_stops_everything_but_what_one_needs_then(sandbox: World):
    sandbox.promoted("one")
    open_look = sandbox.seal("open")
    draw = sandbox.draw(open_look)
    directory = sandbox.run_directory(draw, "candidate", open_look)
    judged, answered, all_but_decided = (sandbox.seal(name) for name in ("judged", "answered", "all but decided"))
    sandbox.gate(judged)
    passed = sandbox.verdicts("pass")
    for candidate in (answered, all_but_decided):
        sandbox.record_all_evidence(sandbox.draw(candidate))
    actions.record_verdicts(sandbox.store, candidate=all_but_decided, verdicts=passed, actor="runner")
    attempt = actions.start_step(sandbox.store, spec=DIGEST, step="train", actor="runner")
    halt = actions.halt(sandbox.store, reason="something smells", actor="ana")
    assert actions.halt(sandbox.store, reason="something smells", actor="ana") == halt
    stopped: list[Callable[[], object]] = [
        lambda: sandbox.seal("new"),
        lambda: sandbox.draw(open_look),
        lambda: sandbox.draw(judged),
        lambda: sandbox.record_evidence(draw, "candidate", directory),
        lambda: actions.record_verdicts(sandbox.store, candidate=answered, verdicts=passed, actor="runner"),
        lambda: actions.record_decision(sandbox.store, candidate=all_but_decided, actor="runner"),
        lambda: sandbox.promote("judged"),
        lambda: actions.start_run(sandbox.store, run="r", config=DIGEST, plan={}, actor="runner"),
        lambda: actions.start_step(sandbox.store, spec=DIGEST, step="train", actor="runner"),
        lambda: other_policy(sandbox),
        lambda: actions.record_cleanup(sandbox.store, checkpoint=judged, rule="old", actor="runner"),
    ]
    for action in stopped:
        assert rule_of(action) == "actions.halted"
    sandbox.sign(judged, "ana", "reject")
    rollback(sandbox, "root")
    actions.recall(sandbox.store, checkpoint=judged, reason="why", actor="ana")
    actions.finish_step(sandbox.store, spec=DIGEST, attempt=attempt.number, outcome="failed", actor="runner")
    lift = actions.lift(sandbox.store, reason="a false alarm", actor="bo")
    assert lift.body.halts == (halt.seq,)
    sandbox.record_evidence(draw, "candidate", directory)
    assert rule_of(lambda: actions.lift(sandbox.store, reason="x", actor="bo")) == "actions.not-halted"


def test_every_halt_has_to_be_lifted(sandbox: World):
    first = actions.halt(sandbox.store, reason="one", actor="ana")
    second = actions.halt(sandbox.store, reason="two", actor="bo")
    actions.lift(sandbox.store, reason="over", actor="ana", halts=[first.seq])
    assert rule_of(lambda: sandbox.seal("one")) == "actions.halted"
    lifted_already = rule_of(lambda: actions.lift(sandbox.store, reason="x", actor="ana", halts=[first.seq]))
    assert lifted_already == "actions.not-halted"
    with sandbox.store.read() as history:
        assert [halt.seq for halt in history.halts()] == [second.seq]
    actions.lift(sandbox.store, reason="over", actor="ana")
    sandbox.seal("one")


def test_clean_up_leaves_what_is_needed(tmp_path: Path):
    sandbox = make_world(tmp_path, approvals=UNATTENDED_APPROVALS, looks={"planned": 9})
    sandbox.set_root()

    def clean(name: str) -> object:
        return actions.record_cleanup(
            sandbox.store, checkpoint=sandbox.checkpoint(name), rule="keep-champions", actor="runner"
        )

    sandbox.promoted("past")
    sandbox.gate(sandbox.seal("failed"), "fail")
    sandbox.gate(sandbox.seal("unclear"), "inconclusive")
    sandbox.gate(sandbox.seal("waits"))
    sandbox.draw(sandbox.seal("open"))
    sandbox.promoted("champion")
    sandbox.gate(sandbox.seal("waits now"))
    sandbox.draw(sandbox.seal("open now"))
    for needed in ("root", "past", "champion", "waits now", "open now"):
        assert rule_of(lambda n=needed: clean(n)) == "actions.still-needed", needed
    for gone in ("failed", "unclear", "waits", "open"):
        assert clean(gone) == clean(gone)
    assert rule_of(lambda: clean("never sealed")) == "actions.unknown-checkpoint"
    sandbox.gate(sandbox.checkpoint("waits"))
    assert rule_of(lambda: sandbox.promote("waits")) == "actions.cleaned-up"
