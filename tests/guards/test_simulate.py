"""Simulating a policy: what it says of past candidates is what its gates would have said."""

from __future__ import annotations

import json
import os
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guards import actions, evidence
from guards.authoring import score_table_cache, stored_runs
from guards.authoring.score_table_cache import CACHE_FILE, ScoreTableCache
from guards.authoring.simulate import Simulation, simulate_policy
from guards.evidence import read_run
from guards.gates.alpha import plan_of
from guards.gates.evaluate import evaluate_gates
from guards.policy import ResolvedPolicy, resolve_policy
from tests.gate_world import EVAL_GATE, FACTS, binary, make_policy, policy_body
from tests.store_world import UNATTENDED_APPROVALS, World, make_world, sealed_and_judged

N = 120
HOLDS = {**EVAL_GATE, "alpha": 0.2, "min_items": 100}
"""On 120 items and at one look of four: passes without a change, fails below -0.1, and is open between."""

FLOOR = {
    "id": "refusal-floor",
    "kind": "eval",
    "suite": "refusal",
    "metric": "refused",
    "claim": "at_least",
    "level": 0.5,
    "alpha": 0.05,
    "min_items": 100,
    "max_unscored": 0.02,
}
INTEGRITY = {"id": "integrity", "kind": "integrity", "against": "champion"}
BUDGET = {"id": "budget", "kind": "budget", "max_cycles_without_person": 9, "max_cost_s": 9999}


def policy_of(directory: Path, *gates: dict[str, Any], planned: int = 4, **changes: Any) -> ResolvedPolicy:
    return make_policy(directory, *gates, planned=planned, approvals=UNATTENDED_APPROVALS, **changes)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A home whose policy asks for no loss, a floor, integrity and a budget."""
    made = make_world(tmp_path)
    made.policy = policy_of(tmp_path / "old", HOLDS, FLOOR, INTEGRITY, BUDGET)
    made.set_root()
    return made


def simulated(world: World, new: ResolvedPolicy, **arguments: Any) -> Simulation:
    with ScoreTableCache(world.store.home) as cache, world.store.read() as history:
        return simulate_policy(history, world.store.home, new, cache, **arguments)


def moves(result: Simulation) -> list[tuple[str, str, list[tuple[str, str, str]]]]:
    return [(c.old, c.new, [(f.gate, f.old, f.new) for f in c.flips]) for c in result.changes]


def test_the_policy_that_was_in_force_changes_nothing(world: World) -> None:
    sealed_and_judged(world, "good", binary(N, 100), binary(N, 100))
    sealed_and_judged(world, "bad", binary(N, 50), binary(N, 100))
    result = simulated(world, world.policy)
    assert result.n_looks == 2 and result.changes == []
    assert result.decisions == {("promote", "promote"): 1, ("reject", "reject"): 1}
    assert all(count.n_kept == 2 and not count.not_replayed for count in result.gates.values())


def test_every_verdict_is_that_of_the_gates(world: World, tmp_path: Path) -> None:
    """A new policy of changed gates only, against evaluating it directly on the same evidence."""
    scores = [(120, 120), (100, 105), (90, 100), (68, 68), (50, 110), (30, 30)]
    new = policy_of(tmp_path / "new", {**HOLDS, "margin": 0.2}, {**FLOOR, "level": 0.6}, planned=9)
    expected = {}
    for number, (mine, other) in enumerate(scores):
        world.policy = policy_of(tmp_path / "old", HOLDS, FLOOR, INTEGRITY, BUDGET, planned=6)
        actions.record_policy(world.store, policy=world.policy, actor="runner")
        candidate, inputs = sealed_and_judged(world, f"c{number}", binary(N, mine), binary(N, other))
        as_if = replace(inputs, policy=new, earlier_looks=(plan_of(new.policy),) * (inputs.look - 1))
        expected[candidate] = {verdict.gate_id: verdict for verdict in evaluate_gates(as_if)}
    result = simulated(world, new)
    seen = {(flip.gate, flip.new) for change in result.changes for flip in change.flips}
    assert {("refusal-holds", "pass"), ("refusal-floor", "fail")} <= seen, "else nothing is shown"
    for change in result.changes:
        for flip in change.flips:
            if flip.gate in expected[change.candidate]:
                assert flip.new == expected[change.candidate][flip.gate].outcome
    counted = {gate: sum(count.transitions.values()) for gate, count in result.gates.items()}
    assert counted == {"refusal-holds": 6, "refusal-floor": 6}
    for gate, count in result.gates.items():
        outcomes = sorted(new for (_, new), n in count.transitions.items() for _ in range(n))
        assert outcomes == sorted(by_gate[gate].outcome for by_gate in expected.values())


def test_what_was_stopped_and_is_let_through_comes_first(world: World, tmp_path: Path) -> None:
    rejected, _ = sealed_and_judged(world, "a", binary(N, 85), binary(N, 100))
    promoted, _ = sealed_and_judged(world, "b", binary(N, 80), binary(N, 80))
    new = policy_of(tmp_path / "new", {**HOLDS, "margin": 0.4}, {**FLOOR, "level": 0.8}, INTEGRITY, BUDGET)
    result = simulated(world, new)
    assert [(c.candidate, c.opens) for c in result.changes] == [(rejected, True), (promoted, False)]
    assert moves(result)[0] == (
        "reject",
        result.changes[0].new,
        [("refusal-holds", "fail", "pass"), ("refusal-floor", "pass", result.changes[0].flips[1].new)],
    )
    assert moves(result)[1] == ("promote", "reject", [("refusal-floor", "pass", "fail")])


def test_a_gate_that_goes_counts_as_opened_and_a_new_one_as_asked(world: World, tmp_path: Path) -> None:
    sealed_and_judged(world, "a", binary(N, 80), binary(N, 118))
    without = policy_of(tmp_path / "without", FLOOR, INTEGRITY, BUDGET)
    assert moves(simulated(world, without)) == [("reject", "promote", [("refusal-holds", "fail", "no such gate")])]
    sealed_and_judged(world, "b", binary(N, 80), binary(N, 80))
    more = policy_of(tmp_path / "more", HOLDS, FLOOR, {**FLOOR, "id": "high", "level": 0.9}, INTEGRITY, BUDGET)
    changed = {move[0]: move for move in moves(simulated(world, more))}
    assert changed["promote"] == ("promote", "reject", [("high", "no such gate", "fail")])


def test_what_is_not_stored_is_inconclusive_and_said_to_be(world: World, tmp_path: Path) -> None:
    sealed_and_judged(world, "a", binary(N, 100), binary(N, 100))
    other = {**FLOOR, "id": "tasks-floor", "suite": "tasks"}
    changed = policy_of(
        tmp_path / "new", HOLDS, FLOOR, other, {**INTEGRITY, "allow_changes": ["dtype"]}, {**BUDGET, "max_cost_s": 1}
    )
    result = simulated(world, changed)
    assert {gate: dict(count.not_replayed) for gate, count in result.gates.items()} == {
        "refusal-holds": {},
        "refusal-floor": {},
        "tasks-floor": {"simulate.not-stored": 1},
        "integrity": {"simulate.not-stored": 1},
        "budget": {"gate.no-budget": 1},
    }
    assert result.decisions == {("promote", "hold, not replayable"): 1}
    assert result.changes == [], "nothing is said to flip that is only not known"


def test_a_suite_is_known_by_its_digest_and_not_by_its_name(world: World, tmp_path: Path) -> None:
    sealed_and_judged(world, "a", binary(N, 100), binary(N, 100))
    new = policy_of(tmp_path / "new", HOLDS, {**FLOOR, "level": 0.6}, INTEGRITY, BUDGET)
    assert not simulated(world, new).gates["refusal-floor"].not_replayed
    (tmp_path / "new" / "refusal.yaml").write_text("name: refusal\nitems: [1, 2, 3]\n")
    edited = resolve_policy(new.source)
    result = simulated(world, edited)
    assert result.gates["refusal-floor"].not_replayed == {"simulate.not-stored": 1}
    assert result.gates["refusal-holds"].not_replayed == {"simulate.not-stored": 1}, "it is not the suite of then"


def test_another_alpha_is_another_gate(world: World, tmp_path: Path) -> None:
    sealed_and_judged(world, "a", binary(N, 100), binary(N, 100))
    new = policy_of(tmp_path / "new", {**HOLDS, "alpha": 1e-9}, FLOOR, INTEGRITY, BUDGET)
    assert moves(simulated(world, new)) == [("promote", "hold", [("refusal-holds", "pass", "inconclusive")])]
    looks = policy_of(tmp_path / "looks", HOLDS, FLOOR, INTEGRITY, BUDGET, planned=1000)
    assert [count.n_kept for count in simulated(world, looks).gates.values()] == [0, 0, 1, 1]


def test_facts_are_described_only_for_a_gate_that_changed(world: World, tmp_path: Path) -> None:
    sealed_and_judged(world, "a", binary(N, 100), binary(N, 100))
    asked: list[str] = []

    def facts_of(digest: str) -> Any:
        asked.append(digest)
        return FACTS

    simulated(world, world.policy, facts_of=facts_of)
    assert asked == []
    new = policy_of(tmp_path / "new", HOLDS, FLOOR, {**INTEGRITY, "allow_changes": ["dtype"]}, BUDGET)
    result = simulated(world, new, facts_of=facts_of)
    assert len(asked) == 2 and result.gates["integrity"].transitions == {("pass", "pass"): 1}


# The cache


def changed_floor(tmp_path: Path) -> ResolvedPolicy:
    return policy_of(tmp_path / "new", {**HOLDS, "margin": 0.11}, {**FLOOR, "level": 0.6}, INTEGRITY, BUDGET)


def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Directories of runs that are read from now on."""
    found: list[Path] = []

    def read(directory: Path, **arguments: Any) -> evidence.EvidenceRun:
        found.append(directory)
        return read_run(directory, **arguments)

    monkeypatch.setattr(stored_runs, "read_run", read)
    return found


def test_evidence_that_has_not_changed_is_not_read_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed_and_judged(world, "a", binary(N, 100), binary(N, 100))
    read = reads(monkeypatch)
    first = simulated(world, changed_floor(tmp_path))
    assert len(read) == 2 and first.n_tables_made == 2
    again = simulated(world, changed_floor(tmp_path))
    assert len(read) == 2 and again.n_tables_read == 2
    assert (again.changes, again.decisions) == (first.changes, first.decisions)
    other = policy_of(tmp_path / "other", {**HOLDS, "margin": 0.3}, FLOOR, INTEGRITY, BUDGET)
    simulated(world, other)
    assert len(read) == 2, "another margin asks for the same table"


def records_of(world: World) -> list[Path]:
    return sorted((world.store.home / "evidence").rglob("records.jsonl"))


def test_evidence_that_was_edited_is_read_again_and_not_believed(world: World, tmp_path: Path) -> None:
    sealed_and_judged(world, "a", binary(N, 60), binary(N, 60))
    simulated(world, changed_floor(tmp_path))
    for path in records_of(world):
        path.write_bytes(path.read_bytes().replace(b'"refused":0', b'"refused":1'))
    result = simulated(world, changed_floor(tmp_path))
    assert result.gates["refusal-floor"].not_replayed == {"evidence.digest-mismatch": 1}


def test_evidence_that_was_only_touched_is_hashed_and_believed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed_and_judged(world, "a", binary(N, 100), binary(N, 100))
    simulated(world, changed_floor(tmp_path))
    for path in records_of(world):
        os.utime(path, ns=(1, 1))
    read = reads(monkeypatch)
    assert simulated(world, changed_floor(tmp_path)).n_tables_read == 2 and read == []


def test_evidence_that_is_gone_cannot_be_replayed(world: World, tmp_path: Path) -> None:
    sealed_and_judged(world, "a", binary(N, 100), binary(N, 100))
    simulated(world, changed_floor(tmp_path))
    for path in records_of(world):
        path.unlink()
    result = simulated(world, changed_floor(tmp_path))
    assert result.gates["refusal-floor"].not_replayed == {"evidence.digest-mismatch": 1}


@pytest.mark.parametrize("damage", ["garbage", "version", "row", "gone"])
def test_a_damaged_cache_is_made_anew(world: World, tmp_path: Path, damage: str) -> None:
    sealed_and_judged(world, "a", binary(N, 60), binary(N, 60))
    first = simulated(world, changed_floor(tmp_path))
    path = world.store.home / CACHE_FILE
    if damage == "garbage":
        path.write_bytes(b"this is no database" * 400)
    elif damage == "gone":
        path.unlink()
    else:
        with sqlite3.connect(path) as db:
            statement = {"version": "PRAGMA user_version = 999", "row": "UPDATE tables SET payload = '{}'"}
            db.execute(statement[damage])
    again = simulated(world, changed_floor(tmp_path))
    assert (again.changes, again.decisions) == (first.changes, first.decisions) and again.n_tables_made == 2


def test_a_cache_that_another_process_writes_is_left_alone(world: World, tmp_path: Path) -> None:
    sealed_and_judged(world, "a", binary(N, 60), binary(N, 60))
    first = simulated(world, changed_floor(tmp_path))
    path = world.store.home / CACHE_FILE
    with sqlite3.connect(path) as db:
        db.execute("BEGIN IMMEDIATE")
        again = simulated(world, changed_floor(tmp_path))
        assert again.n_tables_read == 2 and again.changes == first.changes
        db.execute("ROLLBACK")
    assert simulated(world, changed_floor(tmp_path)).n_tables_read == 2


def test_a_cache_that_cannot_be_written_costs_only_time(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score_table_cache, "_BUSY_TIMEOUT_S", 0.01)
    sealed_and_judged(world, "a", binary(N, 60), binary(N, 60))
    path = world.store.home / CACHE_FILE
    with ScoreTableCache(world.store.home):
        pass
    with sqlite3.connect(path) as db:
        db.execute("BEGIN IMMEDIATE")
        blocked = simulated(world, changed_floor(tmp_path))
        db.execute("ROLLBACK")
    assert blocked.n_tables_made == 2
    free = simulated(world, changed_floor(tmp_path))
    assert (free.changes, free.decisions) == (blocked.changes, blocked.decisions)


def test_a_refusal_to_make_a_table_is_kept_too(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sealed_and_judged(world, "a", binary(N, 100), binary(N, 100))
    new = policy_of(tmp_path / "new", {**FLOOR, "metric": "answered"})
    first = simulated(world, new)
    assert first.gates["refusal-floor"].transitions == {("pass", "inconclusive"): 1}
    assert first.gates["refusal-floor"].not_replayed == {}, "the evidence is there, and has no such metric"
    read = reads(monkeypatch)
    assert simulated(world, new).gates["refusal-floor"].transitions == {("pass", "inconclusive"): 1} and read == []


def test_nothing_is_recorded(world: World, tmp_path: Path) -> None:
    sealed_and_judged(world, "a", binary(N, 100), binary(N, 100))
    before = world.store.head()
    simulated(world, changed_floor(tmp_path))
    assert world.store.head() == before
    with world.store.read() as history:
        assert history.count_looks("test") == 1


# What is judged


def test_the_latest_decided_look_counts_and_an_open_one_does_not(world: World, tmp_path: Path) -> None:
    candidate, _ = sealed_and_judged(world, "a", binary(N, 90), binary(N, 100))
    world.draw(candidate)
    world.draw(world.seal("never-judged"))
    result = simulated(world, world.policy)
    assert (result.n_looks, result.n_undecided) == (1, 1)
    assert result.decisions == {("hold", "hold"): 1}


def test_a_look_is_replayed_at_its_own_number(world: World, tmp_path: Path) -> None:
    for number in range(3):
        sealed_and_judged(world, f"c{number}", binary(N, 100), binary(N, 100))
    new = policy_of(tmp_path / "new", HOLDS, FLOOR, INTEGRITY, BUDGET, planned=2)
    counts = simulated(world, new).gates["refusal-holds"].transitions
    assert counts == {("pass", "pass"): 2, ("pass", "inconclusive"): 1}, "the third look is beyond the two planned"


def test_a_holdout_is_replayed_at_the_reads_that_it_had(world: World, tmp_path: Path) -> None:
    """Each look reads the suite, so the second has half of alpha and the third none where two are declared."""
    for number in range(3):
        sealed_and_judged(world, f"c{number}", binary(N, 100), binary(N, 100))
    directory = tmp_path / "old"
    suite = directory / "refusal.yaml"
    (directory / "items.jsonl").write_text("{}\n")
    suite.write_text("name: refusal\nitems: {file: items.jsonl}\n")
    world.policy = policy_of_files(directory, reads=8)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    for number in range(3, 6):
        sealed_and_judged(world, f"c{number}", binary(N, 100), binary(N, 100))
    result = simulated(world, policy_of_files(directory, reads=2, margin=0.3))
    holds = result.gates["refusal-holds"]
    assert holds.not_replayed == {"simulate.not-stored": 3}, "the suite was another one before"
    outcomes = Counter(new for (_, new), n in holds.transitions.items() for _ in range(n))
    assert outcomes == {"pass": 2, "inconclusive": 3 + 1}, "two reads are declared, and the third has none left"


def policy_of_files(directory: Path, *, reads: int, margin: float = 0.2) -> ResolvedPolicy:
    """A policy beside the suites that are in ``directory`` already, of which one is a holdout."""
    body = policy_body(
        {**HOLDS, "margin": margin},
        planned=9,
        approvals=UNATTENDED_APPROVALS,
        holdouts={"refusal": {"reads": reads}},
    )
    path = directory / f"holdout-{reads}.yaml"
    path.write_text(json.dumps(body))
    return resolve_policy(path)


def test_a_composite_gate_is_kept_or_replayed_as_a_whole(world: World, tmp_path: Path) -> None:
    either = {"id": "either", "kind": "any_of", "gates": [{**FLOOR, "id": "floor"}, {**HOLDS, "id": "holds"}]}
    world.policy = policy_of(tmp_path / "either", either)
    actions.record_policy(world.store, policy=world.policy, actor="runner")
    sealed_and_judged(world, "a", binary(N, 100), binary(N, 118))
    assert simulated(world, world.policy).gates["either"].n_kept == 1
    described = policy_of(tmp_path / "described", {**either, "description": "one of two"})
    assert simulated(world, described).gates["either"].n_kept == 1, "a description decides nothing"
    higher = [{**FLOOR, "id": "floor", "level": 0.9}, {**HOLDS, "id": "holds"}]
    result = simulated(world, policy_of(tmp_path / "higher", {**either, "gates": higher}))
    assert moves(result) == [("promote", "reject", [("either", "pass", "fail")])]
    replanned = policy_of(tmp_path / "replanned", either, planned=5)
    assert simulated(world, replanned).gates["either"].n_kept == 0, "its members have another alpha"
