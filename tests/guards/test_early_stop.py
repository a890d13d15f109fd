"""Stopping early: with and without it the verdicts are the same, and it does stop."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.errors import EvidenceError
from guards.evidence import EvidenceRun, Scored, Unscored, read_run
from guards.gates.early_stop import certain_stop, judge_partial, settled_suites, stoppable_suites
from guards.gates.evaluate import evaluate_gate, evaluate_gates
from guards.gates.inputs import GateInputs
from guards.gates.score_table import Cell, Pending, ScoreTable
from guards.gates.table_verdict import judge_table
from guards.gates.verdict import Verdict
from guards.policy import EvalGate, ResolvedPolicy
from tests.gate_world import DIGEST, EVAL_GATE, make_inputs, make_policy, make_run

N, N_BLOCKS = 40, 4
EVAL_DEFAULTS: dict[str, Any] = {**EVAL_GATE, "alpha": 0.2, "max_unscored": 0.1, "min_items": 20}
LEVEL = {"margin": None, "against": None}
GATES: dict[str, dict[str, Any]] = {
    "superior": {"claim": "superior_by", "margin": 0.0},
    "no-worse": {"margin": 0.3},
    "by-cluster": {"margin": 0.3, "group_by": "cluster", "min_items": 2},
    "in-one-cluster": {"margin": 0.3, "clusters": ["c1"], "min_items": 5},
    "at-least": {**LEVEL, "claim": "at_least", "level": 0.5},
    "at-most": {**LEVEL, "claim": "at_most", "level": 0.5},
    "of-too-few": {**LEVEL, "claim": "at_least", "level": 0.5, "min_items": 99},
}
EARLY = {"planned": 1, "stop_early": {"blocks": N_BLOCKS}}


def gate_body(name: str) -> dict[str, Any]:
    return {**EVAL_DEFAULTS, **GATES[name], "id": name}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> ResolvedPolicy:
    return make_policy(tmp_path_factory.mktemp("early"), *(gate_body(name) for name in GATES), looks=EARLY)


@pytest.fixture(scope="module")
def blank(policy: ResolvedPolicy, tmp_path_factory: pytest.TempPathFactory) -> EvidenceRun:
    clusters = [f"c{number % 4}" for number in range(N)]
    return make_run(tmp_path_factory.mktemp("run"), policy, "candidate", [0.0] * N, clusters=clusters)


def run_of(blank: EvidenceRun, role: str, scores: dict[int, float | None], n_drawn: int = N) -> EvidenceRun:
    """A run of these items of the draw; partial where they are not all. In memory only."""
    records = tuple(
        blank.records[number].model_copy(
            update={"outcome": Unscored(reason="no") if score is None else Scored(scores={"refused": score})}
        )
        for number, score in scores.items()
    )
    left: dict[str, int] = {}
    for number in set(range(N)) - set(scores):
        cluster = blank.records[number].cluster
        left[cluster] = left.get(cluster, 0) + 1
    changes = {
        "checkpoint_digest": DIGEST[role],
        "n_items": len(records),
        "n_drawn": n_drawn if left else None,
        "unanswered": left or None,
    }
    return blank.model_copy(update={"records": records, "manifest": blank.manifest.model_copy(update=changes)})


def inputs_after(
    policy: ResolvedPolicy,
    blank: EvidenceRun,
    order: list[int],
    candidate: list[float | None],
    champion: list[float | None],
    n: int,
) -> GateInputs:
    runs = [
        run_of(blank, role, {number: scores[number] for number in order[:n]})
        for role, scores in (("candidate", candidate), ("champion", champion))
    ]
    return make_inputs(policy, *runs)


def only(policy: ResolvedPolicy, name: str) -> ResolvedPolicy:
    gates = tuple(gate for gate in policy.policy.gates if gate.id == name)
    return policy.model_copy(update={"policy": policy.policy.model_copy(update={"gates": gates})})


def draw(
    seed: int, rates: tuple[float, float], unscored: float
) -> tuple[list[int], list[float | None], list[float | None]]:
    rng = random.Random(seed)
    order = list(range(N))
    rng.shuffle(order)
    candidate, champion = (
        [float(rng.random() < rate) if rng.random() >= unscored else None for _ in range(N)] for rate in rates
    )
    return order, candidate, champion


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    rates=st.sampled_from([(0.0, 1.0), (0.1, 0.9), (1.0, 0.0), (0.5, 0.5), (0.9, 0.9), (0.0, 0.0), (0.02, 0.5)]),
    unscored=st.sampled_from([0.0, 0.0, 0.05, 0.3]),
    name=st.sampled_from(sorted(GATES)),
)
def test_with_and_without_stopping_the_verdict_is_the_same(
    policy: ResolvedPolicy, blank: EvidenceRun, seed: int, rates: tuple[float, float], unscored: float, name: str
) -> None:
    alone = only(policy, name)
    order, candidate, champion = draw(seed, rates, unscored)
    whole = evaluate_gates(inputs_after(alone, blank, order, candidate, champion, N))[0]
    for block in range(1, N_BLOCKS):
        so_far = inputs_after(alone, blank, order, candidate, champion, N * block // N_BLOCKS)
        verdict = evaluate_gates(so_far)[0]
        if settled_suites(so_far):
            if verdict.outcome != whole.outcome:  # the one exception, which no pass comes from
                assert (verdict.outcome, whole.details["rule"]) == ("fail", "gate.reference-unscored")
            assert verdict.details.get("rule") != "gate.partial-run"
            return
        assert (verdict.outcome, verdict.details["rule"]) == ("inconclusive", "gate.partial-run")


@pytest.mark.parametrize(
    ("name", "rates", "n", "outcome"),
    [
        ("no-worse", (0.0, 1.0), 30, "fail"),
        ("at-least", (0.0, 1.0), 30, "fail"),
        ("at-most", (1.0, 0.0), 30, "fail"),
        ("at-most", (0.0, 0.0), 38, "pass"),
        ("at-least", (1.0, 0.0), 38, "pass"),
        ("of-too-few", (1.0, 1.0), 10, "inconclusive"),
    ],
)
def test_it_stops_where_nothing_can_change(
    policy: ResolvedPolicy, blank: EvidenceRun, name: str, rates: tuple[float, float], n: int, outcome: str
) -> None:
    order, candidate, champion = draw(0, rates, 0.0)
    so_far = inputs_after(only(policy, name), blank, order, candidate, champion, n)
    assert settled_suites(so_far) == {"refusal"}
    verdict = evaluate_gates(so_far)[0]
    assert verdict.outcome == outcome
    assert {key: value for key, value in verdict.details.items() if key.startswith("items_")} == {
        "items_answered": str(n),
        "items_drawn": str(N),
        "items_saved": str(N - n),
    }
    assert (verdict.n, verdict.alpha, verdict.bound) == (n, 0.2, None)
    assert verdict.reason == f"certain after {n} of {N} items, whatever the other {N - n} scored"
    assert Verdict.from_ledger(verdict.to_ledger()) == verdict


def test_a_suite_goes_on_for_the_last_gate_that_is_open(policy: ResolvedPolicy, blank: EvidenceRun) -> None:
    order, candidate, champion = draw(0, (0.0, 1.0), 0.0)
    so_far = inputs_after(policy, blank, order, candidate, champion, 30)
    assert settled_suites(so_far) == frozenset()  # a score of 0 everywhere can still pass at-most, or not
    alone = replace(so_far, policy=only(policy, "at-least"))
    assert settled_suites(alone) == {"refusal"}


def test_a_cluster_that_is_answered_whole_is_judged_as_ever(policy: ResolvedPolicy, blank: EvidenceRun) -> None:
    order = [*range(1, N, 4), *(number for number in range(N) if number % 4 != 1)]
    candidate, champion = [1.0] * N, [1.0] * N
    part = inputs_after(only(policy, "in-one-cluster"), blank, order, candidate, champion, 10)
    whole = inputs_after(only(policy, "in-one-cluster"), blank, order, candidate, champion, N)
    verdict, as_ever = evaluate_gates(part)[0], evaluate_gates(whole)[0]
    assert (verdict.outcome, verdict.n) == (as_ever.outcome, 10)


def test_only_suites_that_nothing_but_tests_read_may_be_stopped(tmp_path: Path) -> None:
    collapse = {"id": "varied", "kind": "collapse", "suite": "tasks", "against": "root", "min_items": 2}
    collapse |= {"min_distinct_share": 0.5}
    contamination = {"id": "unseen", "kind": "contamination", "suites": ["tasks"]}
    of_tasks = {**EVAL_GATE, "id": "tasks-hold", "suite": "tasks"}
    inside = {"id": "both", "kind": "all_of", "gates": [of_tasks, contamination]}
    by_tag = {**of_tasks, "group_by": "tag:document"}
    of_anchor = {**of_tasks, "against": "anchor"}
    either = {"id": "either", "kind": "any_of", "gates": [of_tasks, {**of_tasks, "id": "again", "margin": 0.2}]}
    for number, (more, expected) in enumerate(
        [
            ([], {"refusal"}),
            ([of_tasks], {"refusal", "tasks"}),
            ([either], {"refusal", "tasks"}),
            ([of_tasks, collapse], {"refusal"}),
            ([of_tasks, contamination], {"refusal"}),
            ([inside], {"refusal"}),
            ([by_tag], {"refusal"}),
            ([of_anchor], {"refusal"}),
            ([of_tasks, {**of_anchor, "id": "over-time"}], {"refusal"}),
        ]
    ):
        found = make_policy(tmp_path / str(number), EVAL_GATE, *more, looks=EARLY)
        assert stoppable_suites(found.policy) == expected
    assert stoppable_suites(make_policy(tmp_path / "never", EVAL_GATE).policy) == frozenset()


def test_no_test_takes_a_table_with_unanswered_items_for_whole() -> None:
    gate = EvalGate.model_validate(gate_body("at-least"))
    table = ScoreTable((Cell("all", None, 1.0, None, 39),), 39, (Pending("all", None, 1),))
    with pytest.raises(EvidenceError) as refused:
        judge_table(gate, table, 0.2)
    assert refused.value.rule == "gate.partial-run"
    assert judge_table(gate, replace(table, pending=()), 0.2).outcome == "pass"
    assert judge_partial(gate, table, 0.2).outcome == "pass"


def test_a_reference_that_could_fail_to_score_is_no_way_to_pass() -> None:
    gate = EvalGate.model_validate(gate_body("no-worse"))
    better = ScoreTable((Cell("all", None, 1.0, 0.0, 30),), 30, (Pending("all", None, 10),))
    worse = ScoreTable((Cell("all", None, 0.0, 1.0, 30),), 30, (Pending("all", None, 10),))
    assert certain_stop(gate, better, 0.2) is None
    stop = certain_stop(gate, worse, 0.2)
    assert stop is not None and stop.outcome == "fail"


def test_a_partial_run_is_read_back_as_one(tmp_path: Path, policy: ResolvedPolicy) -> None:
    run = make_run(tmp_path, policy, "candidate", [1.0] * 30, n_drawn=40, unanswered={"all": 10})
    again = read_run(run.directory)
    assert (again.manifest.n_items, again.manifest.n_drawn) == (30, 40)
    whole = make_run(tmp_path / "whole", policy, "candidate", [1.0] * 30)
    assert whole.manifest.evidence_digest != again.manifest.evidence_digest
    assert b"n_drawn" not in whole.manifest.to_bytes()
    assert evaluate_gate(policy.policy.gates[0], make_inputs(policy, again)).outcome == "inconclusive"
