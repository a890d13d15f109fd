"""Named faults in the middle of a look: it can be gone on with, or given up for everyone to see."""

from __future__ import annotations

from collections.abc import Callable

from guards import actions
from tests.store_world import World, rule_of


def unchanged(world: World, action: Callable[[], object]) -> str:
    """The rule by which ``action`` is refused, having written nothing."""
    before = world.store.verify()
    rule = rule_of(action)
    assert world.store.verify() == before
    return rule


def abandon(world: World, candidate: str, reason: str = "the code was updated") -> actions.Draw:
    return actions.abandon_look(world.store, candidate=candidate, reason=reason, actor="runner")


def stuck(world: World) -> tuple[str, actions.Draw]:
    """A look whose evidence was recorded, and comes out otherwise now."""
    candidate = world.seal("one")
    draw = world.draw(candidate, run="r")
    world.record_evidence(draw, "candidate", world.run_directory(draw, "candidate", candidate, 9))
    otherwise = world.run_directory(draw, "candidate", candidate, 8)
    again = world.draw(candidate, run="r")
    assert again == draw
    assert unchanged(world, lambda: world.record_evidence(again, "candidate", otherwise)) == "actions.evidence-differs"
    return candidate, draw


def test_a_look_that_cannot_be_gone_on_with_is_given_up_for_another_that_counts(sandbox: World):
    candidate, draw = stuck(sandbox)
    fresh = abandon(sandbox, candidate)
    assert (fresh.look, fresh.is_decided) == (2, False)
    assert fresh.seed != draw.seed
    with sandbox.store.read() as history:
        look = history.latest_look(candidate)
    assert look is not None and look.body.abandons is not None
    assert (look.body.abandons.look_seq, look.body.abandons.reason) == (draw.look_seq, "the code was updated")
    before = sandbox.store.verify()
    assert abandon(sandbox, candidate) == fresh  # nothing was answered in it yet
    assert sandbox.draw(candidate, run="r") == fresh  # the run that began the old one goes on with it
    assert sandbox.store.verify() == before
    assert sandbox.gate(candidate, run="r").kind == "promote"
    sandbox.promote("one")
    sandbox.store.verify()


def test_a_look_that_was_given_up_takes_nothing_more(sandbox: World):
    candidate, draw = stuck(sandbox)
    abandon(sandbox, candidate)
    late = sandbox.run_directory(draw, "champion", sandbox.checkpoint("root"))
    assert unchanged(sandbox, lambda: sandbox.record_evidence(draw, "champion", late)) == "actions.other-draw"
    assert unchanged(sandbox, lambda: sandbox.promote("one")) == "actions.not-decided"


def test_a_look_that_compared_with_something_else_is_replaced_by_one_that_does(sandbox: World):
    candidate, theirs = sandbox.seal("mine"), sandbox.checkpoint("theirs")
    draw = sandbox.draw(candidate, compared_with=theirs)
    sandbox.record_evidence(draw, "candidate", sandbox.run_directory(draw, "candidate", candidate))
    assert abandon(sandbox, candidate).compared_with == theirs


def test_a_look_that_was_judged_is_never_given_up(sandbox: World):
    candidate = sandbox.seal("one")
    assert unchanged(sandbox, lambda: abandon(sandbox, candidate)) == "actions.no-look"
    sandbox.record_all_evidence(sandbox.draw(candidate))
    failed = sandbox.verdicts("fail")
    actions.record_verdicts(sandbox.store, candidate=candidate, verdicts=failed, actor="runner")
    assert unchanged(sandbox, lambda: abandon(sandbox, candidate)) == "actions.look-closed"
    assert actions.record_decision(sandbox.store, candidate=candidate, actor="runner").kind == "reject"
    assert unchanged(sandbox, lambda: abandon(sandbox, candidate)) == "actions.look-closed"


def test_a_look_is_given_up_for_a_reason_and_not_while_halted(sandbox: World):
    candidate, _ = stuck(sandbox)
    assert unchanged(sandbox, lambda: abandon(sandbox, candidate, " ")) == "actions.bad-argument"
    actions.halt(sandbox.store, reason="why", actor="ana")
    assert unchanged(sandbox, lambda: abandon(sandbox, candidate)) == "actions.halted"


def test_evidence_that_differs_after_the_verdicts_changes_nothing(sandbox: World):
    candidate, draw = stuck(sandbox)
    sandbox.record_all_evidence(draw, 9)
    actions.record_verdicts(sandbox.store, candidate=candidate, verdicts=sandbox.verdicts("pass"), actor="runner")
    otherwise = sandbox.run_directory(draw, "candidate", candidate, 8)
    assert unchanged(sandbox, lambda: sandbox.record_evidence(draw, "candidate", otherwise)) == "actions.look-closed"
    assert actions.record_decision(sandbox.store, candidate=candidate, actor="runner").kind == "promote"
