"""Named faults in the middle of a look: it can be gone on with, or given up for everyone to see.

And what counts as a look: whatever was drawn, however it ended. The log lets no test pass on more alpha
than the looks and reads before it left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from guards import actions
from guards.entries import VerdictRecorded
from guards.errors import LedgerError
from guards.gates.alpha import alpha_of_look, earlier_looks, plan_of, rounded_down
from guards.gates.holdouts import holdout_reads
from guards.gates.verdict import Verdict
from tests.store_world import GATES, UNATTENDED_APPROVALS, World, make_world, rule_of

PLANNED = 8
READS = 5
ALPHA = Fraction("0.05")


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


@dataclass
class Spent:
    """What the looks until now cost: how many there were, and how often the holdout was read."""

    n_looks: int
    n_reads: int


def spent(world: World) -> Spent:
    """As the next look would find it, by the functions that gates are given."""
    with world.store.read() as history:
        suite = world.policy.suite_digests["refusal"]
        return Spent(
            n_looks=len(earlier_looks(history, "test", history.count_looks("test") + 1)),
            n_reads=holdout_reads(history, world.policy.resolved, before_seq=history.size())[suite],
        )


@pytest.fixture
def reused(tmp_path: Path) -> World:
    """A home whose gates test on items that do not change."""
    world = make_world(tmp_path, approvals=UNATTENDED_APPROVALS, holdouts={"refusal": {"reads": READS}})
    world.set_root()
    return world


def test_an_inconclusive_gate_that_is_run_again_is_another_look(reused: World):
    candidate = reused.seal("one")
    first = reused.draw(candidate)
    assert reused.gate(candidate, "inconclusive").body.waits_for == "evidence"
    assert spent(reused) == Spent(1, 1)
    second = reused.draw(candidate)
    assert (second.look, second.seed != first.seed) == (2, True)
    assert spent(reused) == Spent(2, 2)
    assert reused.gate(candidate, "pass").kind == "promote"


def test_every_proposal_is_a_look_on_fresh_items_too(sandbox: World):
    for number, name in enumerate(("one", "two", "three"), 1):
        assert sandbox.draw(sandbox.seal(name)).look == number
        sandbox.gate(sandbox.checkpoint(name), "fail")
    assert spent(sandbox).n_looks == 3


@pytest.mark.parametrize("n_answered", [0, 1, 3])
def test_a_run_that_was_killed_in_a_look_has_had_it(reused: World, n_answered: int):
    """Killed after the draw, after the first evidence, or after all of it: nobody can say what was read."""
    candidate = reused.seal("one")
    draw = reused.draw(candidate, run="killed")
    answered = (("candidate", candidate), ("champion", draw.compared_with), ("root", reused.checkpoint("root")))
    for role, checkpoint in answered[:n_answered]:
        reused.record_evidence(draw, role, reused.run_directory(draw, role, str(checkpoint)))  # type: ignore[arg-type]
    assert spent(reused) == Spent(1, 1)
    assert reused.draw(reused.seal("two")).look == 2
    assert spent(reused) == Spent(2, 2)


def test_resuming_a_killed_run_is_the_same_look_with_the_same_bytes(reused: World):
    candidate = reused.seal("one")
    draw = reused.draw(candidate, run="killed")
    directory = reused.run_directory(draw, "candidate", candidate)
    reused.record_evidence(draw, "candidate", directory)
    before = reused.store.verify()
    for run in ("killed", "another", None):
        assert reused.draw(candidate, run=run) == draw
    reused.record_evidence(draw, "candidate", directory)  # the step that was done is found, not measured again
    assert reused.store.verify() == before
    assert spent(reused) == Spent(1, 1)


def test_giving_a_look_up_is_another_look_and_another_read(reused: World):
    candidate = reused.seal("one")
    draw = reused.draw(candidate, run="r")
    reused.record_evidence(draw, "candidate", reused.run_directory(draw, "candidate", candidate))
    assert abandon(reused, candidate).look == 2
    assert spent(reused) == Spent(2, 2)


def passing(world: World, alpha: float | None, at: int = 0) -> list[Verdict]:
    """Everything passes, and the gate number ``at`` does with ``alpha``."""
    verdicts = world.verdicts("pass")
    verdicts[at] = verdicts[at].model_copy(update={"alpha": alpha})
    return verdicts


def record(world: World, candidate: str, alpha: float | None, at: int = 0) -> Any:
    verdicts = passing(world, alpha, at)
    return actions.record_verdicts(world.store, candidate=candidate, verdicts=verdicts, actor="runner")


@pytest.mark.parametrize("at", [0, 1], ids=["champion", "anchor"])
@pytest.mark.parametrize("n_before", [0, 1, 4])
def test_a_test_passes_at_what_is_left_and_not_at_more(reused: World, n_before: int, at: int):
    for number in range(n_before):
        reused.draw(reused.seal(f"before {number}"))
    candidate = reused.seal("one")
    reused.record_all_evidence(reused.draw(candidate))
    left = rounded_down(ALPHA / PLANNED / 2**n_before / (1 + Fraction(n_before, 2) if at else 1))
    for alpha in (left * 1.000001, 0.05, -left, 0.0, None):
        assert unchanged(reused, lambda a=alpha: record(reused, candidate, a, at)) == "actions.alpha-overspent"
    assert record(reused, candidate, left, at)
    reused.store.verify()


def test_after_the_last_read_no_test_passes_though_looks_are_left(reused: World):
    for number in range(READS):
        reused.draw(reused.seal(f"before {number}"))
    candidate = reused.seal("one")
    reused.record_all_evidence(reused.draw(candidate))
    assert unchanged(reused, lambda: record(reused, candidate, 1e-12)) == "actions.alpha-overspent"
    spent_verdicts = reused.verdicts("inconclusive")
    assert actions.record_verdicts(reused.store, candidate=candidate, verdicts=spent_verdicts, actor="runner")


def test_after_the_last_planned_look_no_test_passes(sandbox: World):
    for number in range(PLANNED):
        sandbox.draw(sandbox.seal(f"before {number}"))
    candidate = sandbox.seal("one")
    sandbox.record_all_evidence(sandbox.draw(candidate))
    assert unchanged(sandbox, lambda: record(sandbox, candidate, 1e-12)) == "actions.alpha-overspent"


def test_an_unbounded_schedule_leaves_something_to_every_look(tmp_path: Path):
    looks = {"planned": 2, "spending": "unbounded"}
    world = make_world(tmp_path, approvals=UNATTENDED_APPROVALS, looks=looks)
    world.set_root()
    for number in range(4):
        world.draw(world.seal(f"before {number}"))
    candidate = world.seal("one")
    world.record_all_evidence(world.draw(candidate))
    plan = plan_of(world.policy.policy)
    left = rounded_down(alpha_of_look(GATES[0]["id"], plan, (plan,) * 4))
    assert unchanged(world, lambda: record(world, candidate, left * 1.000001)) == "actions.alpha-overspent"
    assert record(world, candidate, left)
    world.store.verify()


def test_a_written_in_pass_that_forgets_the_reads_does_not_verify(reused: World):
    reused.draw(reused.seal("before"))
    candidate = reused.seal("one")
    draw = reused.draw(candidate)
    reused.record_all_evidence(draw)
    undivided = rounded_down(ALPHA / PLANNED)
    verdict = passing(reused, undivided)[0]
    with reused.store.write() as transaction:
        evidence = transaction.history.evidence_digest(draw.look_seq)
        body = VerdictRecorded(
            candidate=candidate,
            policy=draw.policy,
            look_seq=draw.look_seq,
            evidence=str(evidence),
            gate=verdict.gate_id,
            outcome="pass",
            figures=verdict.to_ledger(),
        )
        transaction.append("forger", body)
    with pytest.raises(LedgerError, match="it spends more alpha than was left") as refusal:
        reused.store.verify()
    assert refusal.value.rule == "ledger.not-allowed"
