"""Actions from end to end: doing it twice is doing it once, and whatever happens leaves a log that verifies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guards import actions
from guards.canonical import sha256_bytes
from guards.entries import Halted, Promoted, SeedDrawn
from guards.errors import StairlockError
from guards.evidence import Cost
from tests.store_world import (
    DIGEST,
    GATES,
    World,
    make_world,
    rollback,
    rule_of,
)

# The whole way


def test_a_candidate_goes_the_whole_way(world: World):
    candidate = world.seal("one")
    assert world.gate(candidate).kind == "hold"
    world.sign(candidate, "ana")
    world.sign(candidate, "bo")
    promoted = world.promote("one")
    assert promoted.body.approvers == ("ana", "bo")
    assert not promoted.body.unattended
    assert promoted.body.champion_before == world.checkpoint("root")
    assert world.champion() == candidate
    assert world.kinds() == [
        *("genesis", "policy", "policy_in_force", "root", "sealed", "seed"),
        *("evidence", "evidence", "evidence", "evidence", "verdict", "verdict"),
        *("hold", "signoff", "signoff", "promote", "promoted"),
    ]
    assert world.store.verify().size == 17


def test_without_required_approvals_the_entry_says_that_nobody_looked(sandbox: World):
    candidate = sandbox.seal("one")
    assert sandbox.gate(candidate).kind == "promote"
    promoted = sandbox.promote("one")
    assert promoted.body.unattended
    assert promoted.body.approvers == ()


@pytest.mark.parametrize(
    ("outcomes", "kind", "waits_for"),
    [
        (("pass", "pass"), "hold", "approvals"),
        (("pass", "inconclusive"), "hold", "evidence"),
        (("inconclusive", "fail"), "reject", "nothing"),
        (("fail", "pass"), "reject", "nothing"),
    ],
)
def test_the_decision_is_the_tables(world: World, outcomes: tuple[str, ...], kind: str, waits_for: str):
    decision = world.gate(world.seal("one"), *outcomes)
    assert (decision.kind, decision.body.waits_for) == (kind, waits_for)
    assert decision.body.reasons


def test_doing_everything_twice_writes_nothing_twice(world: World):
    def the_whole_way() -> None:
        world.set_root()
        actions.start_run(world.store, run="r", config=DIGEST, plan={"cycles": 1}, actor="runner")
        attempt = actions.start_step(world.store, spec=DIGEST, step="train", actor="runner")
        actions.finish_step(
            world.store, spec=DIGEST, attempt=attempt.number, outcome="done", outputs=DIGEST, actor="runner"
        )
        candidate = world.seal("one")
        world.gate(candidate, run="r")
        for signer in ("ana", "bo"):
            world.sign(candidate, signer)
        world.promote("one")
        actions.record_measured(world.store, run="r", name="speed", figures={"tokens_per_s": 41.5}, actor="runner")
        actions.finish_run(world.store, run="r", outcome="done", summary={}, actor="runner")

    the_whole_way()
    before = world.store.head()
    the_whole_way()
    assert world.store.head() == before


# Runs and steps


def test_the_log_counts_attempts(world: World):
    def start(**changes: Any) -> Any:
        return actions.start_step(world.store, spec=DIGEST, step="train", actor="runner", **changes)

    def finish(attempt: int, outcome: Any, outputs: str | None) -> object:
        return actions.finish_step(
            world.store,
            spec=DIGEST,
            attempt=attempt,
            outcome=outcome,
            outputs=outputs,
            actor="runner",
            cost=Cost(wall_ms=5),
        )

    assert start().number == 1
    assert start().number == 2  # the first was killed: what it might have shown is not hidden
    finish(2, "failed", None)
    assert (start().number, world.kinds().count("step_started")) == (3, 3)
    assert rule_of(lambda: finish(3, "done", None)) == "actions.no-outputs"
    finish(3, "done", sha256_bytes(b"outputs"))
    assert (start().number, start().is_done) == (3, True)
    assert rule_of(lambda: finish(3, "done", DIGEST)) == "actions.step-differs"
    assert rule_of(lambda: finish(4, "done", DIGEST)) == "actions.no-such-attempt"
    assert start(again=True).number == 4
    with world.store.read() as history:
        attempts = history.attempts(DIGEST)
    assert [attempt.number for attempt in attempts] == [1, 2, 3, 4]
    assert [attempt.finished is None for attempt in attempts] == [True, False, False, True]


def test_a_run_is_resumed_only_as_it_began(world: World):
    def start(config: str) -> Any:
        return actions.start_run(world.store, run="r", config=config, plan={"lr": 1e-4}, actor="runner")

    assert start(DIGEST) == start(DIGEST)
    assert start(DIGEST).body.plan == {"lr": "0.0001"}
    assert rule_of(lambda: start(sha256_bytes(b"edited"))) == "actions.other-config"
    nothing = {"run": "unheard of", "actor": "runner"}
    assert rule_of(lambda: actions.finish_run(world.store, outcome="done", summary={}, **nothing)) == (
        "actions.no-such-run"
    )
    assert rule_of(lambda: actions.record_measured(world.store, name="x", figures={}, **nothing)) == (
        "actions.no-such-run"
    )
    nan = {"x": float("nan")}
    assert rule_of(lambda: actions.record_measured(world.store, run="r", name="x", figures=nan, actor="runner")) == (
        "ledger.not-finite"
    )


# Whatever happens


OPERATIONS = (
    "earn",
    "earn",
    "seal",
    "draw",
    "gate",
    "fail",
    "approve",
    "object",
    "promote",
    "rollback",
    "halt",
    "lift",
    "recall",
)


@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.sampled_from(["a", "b"])), min_size=5, max_size=20))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_happens_the_log_verifies_and_no_champion_is_unearned(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, str]]
):
    world = make_world(tmp_path_factory.mktemp("world"))
    world.set_root()

    def approve(candidate: str) -> None:
        world.sign(candidate, "ana")
        world.sign(candidate, "bo")

    def earn(name: str) -> None:
        world.seal(name)
        world.gate(world.checkpoint(name))
        approve(world.checkpoint(name))
        world.promote(name)

    for operation, name in operations:
        world.clock.advance(seconds=1)
        candidate = world.checkpoint(name)
        steps: dict[str, Callable[[], object]] = {
            "earn": lambda n=name: earn(n),
            "seal": lambda n=name: world.seal(n),
            "draw": lambda c=candidate: world.draw(c),
            "gate": lambda c=candidate: world.gate(c),
            "fail": lambda c=candidate: world.gate(c, "fail"),
            "approve": lambda c=candidate: approve(c),
            "object": lambda c=candidate: world.sign(c, "cy", "reject"),
            "promote": lambda n=name: world.promote(n),
            "rollback": lambda n=name: rollback(world, n),
            "halt": lambda: actions.halt(world.store, reason="why", actor="ana"),
            "lift": lambda: actions.lift(world.store, reason="why", actor="ana"),
            "recall": lambda c=candidate: actions.recall(world.store, checkpoint=c, reason="why", actor="ana"),
        }
        try:
            steps[operation]()
        except StairlockError:
            pass  # refusals are what this is about; only the state that they leave counts
    world.store.verify()
    champion = None
    rejected: set[str] = set()
    halted: set[int] = set()
    recalled: set[str] = set()
    with world.store.read() as history:
        for entry in history.entries():
            body = entry.body
            if entry.kind == "recall":
                recalled.add(str(entry.as_json()["body"]["checkpoint"]))
            if isinstance(body, Halted):
                halted.add(entry.seq)
            if entry.kind == "lift":
                halted -= set(entry.as_json()["body"]["halts"])
            if entry.kind == "reject":
                rejected.add(str(entry.as_json()["body"]["candidate"]))
            if isinstance(body, SeedDrawn):
                assert not halted
                assert body.candidate not in rejected
            if isinstance(body, Promoted):
                assert not halted
                assert body.candidate not in recalled | rejected
                assert body.champion_before == champion
                assert set(body.approvers) >= {"ana", "bo"}
                verdicts = history.verdicts(body.look_seq)
                assert len(verdicts) == len(GATES)
                assert all(verdict.body.outcome == "pass" for verdict in verdicts)
            if entry.kind in ("root", "promoted", "rollback"):
                champion = str(entry.as_json()["body"].get("candidate") or entry.as_json()["body"]["checkpoint"])
        assert history.champion() == champion
