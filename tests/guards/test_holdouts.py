"""Holdouts: reads are counted over all policies, each halves alpha, and the last declared one is the last."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from guards import actions
from guards.gates.alpha import plan_of, rounded_down
from guards.gates.evaluate import evaluate_gate
from guards.gates.holdouts import (
    alpha_when_all_is_used,
    divided_by_reads,
    holdout_reads,
    items_read,
    items_read_by_recorded,
    policy_that_holds_out,
)
from guards.gates.look_alpha import alpha_left, read_in_words
from guards.gates.verdict import Verdict, explain
from guards.history import History
from guards.policy import EvalGate, ResolvedPolicy, resolve_policy
from tests.gate_world import EVAL_GATE, binary, make_inputs, make_policy, make_run
from tests.store_world import World, make_world

ALPHA = Fraction("0.05")
REFUSAL = {"refusal": {"reads": 3}}
TASKS_ONLY: dict[str, Any] = {"id": "tasks", "kind": "collapse", "suite": "tasks", "against": "root", "min_items": 2}
TASKS_ONLY["min_distinct_share"] = 0.5


@pytest.fixture
def policy(tmp_path: Path) -> ResolvedPolicy:
    return make_policy(tmp_path / "policy", EVAL_GATE, planned=4, holdouts=REFUSAL)


def judged(tmp_path: Path, policy: ResolvedPolicy, **changes: Any) -> Verdict:
    runs = [make_run(tmp_path / "runs", policy, role, binary(240, 200)) for role in ("candidate", "champion")]
    return evaluate_gate(policy.policy.gates[0], make_inputs(policy, *runs, **changes))


@pytest.mark.parametrize("n_earlier", [0, 1, 2])
def test_each_read_is_tested_at_half_of_the_alpha_of_the_one_before(
    tmp_path: Path, policy: ResolvedPolicy, n_earlier: int
) -> None:
    reads = {policy.suite_digests["refusal"]: n_earlier}
    verdict = judged(tmp_path, policy, holdout_reads=reads)
    assert verdict.alpha == rounded_down(ALPHA / 4 / 2**n_earlier)
    assert verdict.details["holdout_read"] == f"{n_earlier + 1} of 3"
    assert f", read {n_earlier + 1} of 3, policy line " in explain(verdict)


@pytest.mark.parametrize("n_earlier", range(7))
def test_a_gate_against_the_anchor_is_divided_by_every_history_and_anchor_it_leads_to(n_earlier: int) -> None:
    """Each earlier look rejects, promotes, or promotes and moves the anchor; what matters is who was promoted, and
    who is the anchor."""
    told = itertools.product(("no", "promoted", "anchor"), repeat=n_earlier)
    histories = {
        (tuple(one != "no" for one in looks), max((i for i, one in enumerate(looks) if one == "anchor"), default=-1))
        for looks in told
    }
    champion, anchor = (EvalGate.model_validate(EVAL_GATE | {"against": who}) for who in ("champion", "anchor"))
    assert divided_by_reads(anchor, ALPHA, n_earlier) == ALPHA / len(histories)
    assert divided_by_reads(champion, ALPHA, n_earlier) == ALPHA / len({promoted for promoted, _ in histories})


def test_what_the_linter_asks_of_an_anchor_gate_is_what_the_look_leaves_it(tmp_path: Path) -> None:
    policy = make_policy(tmp_path / "p", EVAL_GATE | {"against": "anchor"}, planned=3, holdouts=REFUSAL)
    (gate,) = policy.policy.gates
    assert isinstance(gate, EvalGate)
    plan = plan_of(policy.policy)
    left = alpha_left(gate, policy.policy, look=3, earlier=(plan, plan), n_earlier_reads=2)
    assert left == alpha_when_all_is_used(policy.policy, gate) == ALPHA / 3 / 4 / 2


def test_reads_and_looks_are_counted_apart(tmp_path: Path, policy: ResolvedPolicy) -> None:
    """A look may be the first of its policy's name and still not the first to read the items."""
    verdict = judged(tmp_path, policy, look=3, holdout_reads={policy.suite_digests["refusal"]: 1})
    assert verdict.alpha == rounded_down(ALPHA / 4 / 2)


def test_items_that_are_drawn_anew_are_not_divided(tmp_path: Path) -> None:
    fresh = make_policy(tmp_path / "policy", EVAL_GATE, planned=4)
    verdict = judged(tmp_path, fresh, holdout_reads={fresh.suite_digests["refusal"]: 50})
    assert verdict.alpha == rounded_down(ALPHA / 4)
    assert "holdout_read" not in verdict.details
    (gate,) = fresh.policy.gates
    assert isinstance(gate, EvalGate) and read_in_words(gate, make_inputs(fresh)) == {}


@pytest.mark.parametrize(
    ("reads", "rule"),
    [(3, "gate.holdout-spent"), (9, "gate.holdout-spent"), (None, "gate.holdout-reads"), (-1, "gate.holdout-reads")],
)
def test_a_holdout_that_is_spent_or_uncounted_shows_nothing(
    tmp_path: Path, policy: ResolvedPolicy, reads: int | None, rule: str
) -> None:
    counted = {} if reads is None else {policy.suite_digests["refusal"]: reads}
    verdict = judged(tmp_path, policy, holdout_reads=counted)
    assert (verdict.outcome, verdict.details["rule"]) == ("inconclusive", rule)


def test_other_items_begin_anew(tmp_path: Path, policy: ResolvedPolicy) -> None:
    rotated = make_policy(tmp_path / "rotated", EVAL_GATE, planned=4, holdouts=REFUSAL)
    (tmp_path / "rotated" / "refusal.jsonl").write_text('{"of": "something else"}\n')
    rotated = resolve_policy(rotated.source)
    assert rotated.suite_digests["refusal"] != policy.suite_digests["refusal"]
    world = in_world(tmp_path, policy)
    look(world, "one", policy)
    assert counted(world, rotated) == 0


EDITS: dict[str, Callable[[Path], object]] = {
    "description": lambda folder: (folder / "refusal.yaml").write_text("name: other\nitems: {file: refusal.jsonl}\n"),
    "copy": lambda folder: [
        (folder / "copy.jsonl").write_bytes((folder / "refusal.jsonl").read_bytes()),
        (folder / "refusal.yaml").write_text("name: refusal\nitems: {file: copy.jsonl}\n"),
    ],
    "more items": lambda folder: [
        (folder / "more.jsonl").write_text("more"),
        (folder / "refusal.yaml").write_text("items: [{file: more.jsonl}, {file: refusal.jsonl}]\n"),
    ],
}


@pytest.mark.parametrize("how", EDITS)
def test_the_same_item_file_under_another_suite_is_no_unread_holdout(
    tmp_path: Path, policy: ResolvedPolicy, how: str
) -> None:
    edited = make_policy(tmp_path / "edited", EVAL_GATE, planned=4, holdouts=REFUSAL)
    EDITS[how](tmp_path / "edited")
    edited = resolve_policy(edited.source)
    assert edited.suite_digests["refusal"] != policy.suite_digests["refusal"]
    world = in_world(tmp_path, policy, edited)
    look(world, "one", policy)
    assert counted(world, edited) == 1
    look(world, "two", edited)
    assert (counted(world, edited), counted(world, policy)) == (2, 2)
    world.store.verify()


def test_a_policy_that_was_recorded_without_its_item_files_has_read_its_suites(policy: ResolvedPolicy) -> None:
    recorded = json.loads(policy.canonical_json)
    now = items_read_by_recorded(json.dumps(recorded))
    assert now == {policy.suite_digests["refusal"], *recorded.pop("items")["refusal"]} and len(now) == 2
    assert items_read_by_recorded(json.dumps(recorded)) == {policy.suite_digests["refusal"]}


def test_a_home_knows_which_items_its_policies_hold_out(tmp_path: Path, policy: ResolvedPolicy) -> None:
    fresh = make_policy(tmp_path / "fresh", EVAL_GATE, name="fresh")
    world = in_world(tmp_path, fresh, policy)
    (file,) = policy.resolved.items["refusal"]
    with world.store.read() as history:
        for items in ({file}, {policy.suite_digests["refusal"], "x"}):
            found = policy_that_holds_out(history, items)
            assert found is not None and found.policy == policy.digest
        assert policy_that_holds_out(history, {fresh.suite_digests["refusal"]}) is None


def in_world(tmp_path: Path, *policies: ResolvedPolicy) -> World:
    world = make_world(tmp_path / "world")
    for policy in policies:
        actions.record_policy(world.store, policy=policy, actor="runner")
    return world


def look(world: World, name: str, policy: ResolvedPolicy, **changes: Any) -> actions.Draw:
    world.seal(name, policy=policy.digest, **changes)
    return world.draw(world.checkpoint(name), policy=policy.digest)


def counted(world: World, policy: ResolvedPolicy, before_seq: int = 10**9) -> int:
    digest = policy.suite_digests["refusal"]
    with world.store.read() as history:
        return holdout_reads(history, policy.resolved, before_seq=before_seq)[digest]


def test_looks_of_every_name_and_kind_of_gate_are_reads_and_others_are_not(tmp_path: Path) -> None:
    def named(name: str, *gates: dict[str, Any]) -> ResolvedPolicy:
        return make_policy(tmp_path / name, *gates, name=name, planned=9, holdouts=REFUSAL)

    member = {"id": "c", "kind": "only_if", "condition": {"id": "i", "kind": "integrity"}, "then": EVAL_GATE}
    tests, elsewhere = named("tests", EVAL_GATE), named("elsewhere", {**EVAL_GATE, "id": "other"})
    member_only, tasks_only = named("member-only", member), named("tasks-only", TASKS_ONLY)
    collapse = named("collapse", {**TASKS_ONLY, "suite": "refusal"})
    contamination = named("contamination", {"id": "c", "kind": "contamination", "suites": ["refusal"]})
    order = [tests, elsewhere, tasks_only, member_only, collapse, contamination, tests]
    world = in_world(tmp_path, *order)
    draws = [look(world, f"candidate-{i}", policy) for i, policy in enumerate(order)]
    assert [counted(world, tests, draw.look_seq) for draw in draws] == [0, 1, 2, 2, 3, 4, 5]
    assert counted(world, tests) == 6


def test_a_recorded_policy_reads_what_the_policy_does(tmp_path: Path) -> None:
    nest = {"id": "n", "kind": "any_of", "gates": [EVAL_GATE, {**TASKS_ONLY, "id": "t"}]}
    for gates in ([EVAL_GATE], [TASKS_ONLY], [nest], [{"id": "c", "kind": "contamination", "suites": ["tasks"]}]):
        policy = make_policy(tmp_path / str(len(str(gates))), *gates, holdouts=REFUSAL)
        assert items_read_by_recorded(policy.canonical_json) == items_read(policy.resolved) != frozenset()


def test_the_alpha_when_all_is_used_is_that_of_the_last_look_and_read(policy: ResolvedPolicy) -> None:
    (gate,) = policy.policy.gates
    assert isinstance(gate, EvalGate)
    assert alpha_when_all_is_used(policy.policy, gate) == ALPHA / 4 / 4


def test_the_last_look_is_that_of_the_schedule(tmp_path: Path) -> None:
    looks = {"planned": 4, "spending": "pocock"}
    policy = make_policy(tmp_path, EVAL_GATE, looks=looks, holdouts=REFUSAL)
    (gate,) = policy.policy.gates
    assert isinstance(gate, EvalGate)
    last = 0.05 * (1 - math.log1p((math.e - 1) * 3 / 4)) / 4
    assert float(alpha_when_all_is_used(policy.policy, gate)) == pytest.approx(last, rel=1e-9)


def test_a_look_whose_policy_is_not_on_record_is_a_read_of_everything(
    tmp_path: Path, policy: ResolvedPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_policy(tmp_path / "other", TASKS_ONLY, name="other")
    world = in_world(tmp_path, policy, other)
    look(world, "one", other)
    assert counted(world, policy) == 0
    monkeypatch.setattr(History, "policy", lambda _history, _digest: None)
    assert counted(world, policy) == 1


@pytest.mark.parametrize("n_earlier", range(6))
def test_a_proposer_that_learns_all_it_can_passes_falsely_no_more_often_than_alpha(n_earlier: int) -> None:
    """The worst that the union bound allows, counted out, and no less: which is why the division is by two.

    One of 1024 item sets is the holdout. In each earlier read the proposer sends an honest candidate that
    passes on half of the sets that are still possible, and so learns one bit. Then it sends a bad one
    that passes on as many sets as the test's size allows, all of them among those still possible.
    """
    n_sets, alpha = 1024, Fraction(1, 16)

    def false_passes(size: Fraction) -> Fraction:
        histories = [range(h, n_sets, 2**n_earlier) for h in range(2**n_earlier)]
        passing = [history[: int(n_sets * size)] for history in histories]
        return Fraction(sum(len(sets) for sets in passing), n_sets)

    gate = EvalGate.model_validate(EVAL_GATE)
    assert false_passes(divided_by_reads(gate, alpha, n_earlier)) == alpha
    assert false_passes(alpha) == min(1, alpha * 2**n_earlier)
