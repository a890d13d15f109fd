"""Which gate another one makes superfluous, and which exclude each other; checked against the gates themselves."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from guards.authoring.policy_relations import contradictions, is_as_strict, subsumed_gates
from guards.gates.score_table import Cell, ScoreTable
from guards.gates.table_verdict import judge_table
from guards.policy import EvalGate, Gate, Policy

BASE: dict[str, Any] = {"kind": "eval", "suite": "s", "metric": "m", "alpha": 0.05, "min_items": 9, "max_unscored": 0.1}
GATES: TypeAdapter[Any] = TypeAdapter(Gate)


def level(gate_id: str, claim: str, at: float, **changes: Any) -> dict[str, Any]:
    return {**BASE, "id": gate_id, "claim": claim, "level": at, **changes}


def paired(gate_id: str, claim: str, margin: float, **changes: Any) -> dict[str, Any]:
    return {**BASE, "id": gate_id, "claim": claim, "margin": margin, "against": "champion", **changes}


def policy(*gates: dict[str, Any]) -> Policy:
    return Policy.model_validate(
        {
            "schema": "stairlock/policy/v1",
            "name": "test",
            "description": "For tests.",
            "looks": {"planned": 1},
            "suites": {"s": "s.yaml"},
            "gates": tuple(gates),
            "approvals": {"required": 0, "unattended": "I accept promotion without a person"},
        }
    )


def superfluous(*gates: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one.gate.id, one.other.id) for one in subsumed_gates(policy(*gates))]


def test_the_looser_of_two_is_superfluous() -> None:
    assert superfluous(level("a", "at_least", 0.8), level("b", "at_least", 0.7)) == [("b", "a")]
    assert superfluous(level("a", "at_most", 0.8), level("b", "at_most", 0.7)) == [("a", "b")]
    assert superfluous(paired("a", "non_inferior_within", 0.1), paired("b", "non_inferior_within", 0.2)) == [("b", "a")]
    assert superfluous(paired("a", "superior_by", 0.1), paired("b", "superior_by", 0.2)) == [("a", "b")]


def test_of_twins_the_later_is_superfluous_and_only_that() -> None:
    assert superfluous(*(level(name, "at_least", 0.8) for name in "abc")) == [("b", "a"), ("c", "a")]


@pytest.mark.parametrize(
    "change",
    [
        {"metric": "n"},
        {"suite": "t"},
        {"clusters": ("x",)},
        {"group_by": "cluster"},
        {"alpha": 0.01},
        {"min_items": 10},
        {"max_unscored": 0.05},
        {"against": "root"},
        {"scale": 1.0},
    ],
)
def test_a_gate_that_asks_something_else_is_not_superfluous(change: dict[str, Any]) -> None:
    strict = paired("strict", "non_inferior_within", 0.1)
    assert superfluous(strict, {**paired("b", "non_inferior_within", 0.2), **change}) == []


def test_mcnemar_and_betting_are_different_tests() -> None:
    assert superfluous(paired("a", "superior_by", 0.0), paired("b", "superior_by", 0.1)) == []


def test_members_of_all_of_are_compared_with_gates_beside_it_and_those_of_any_of_are_not() -> None:
    both = {"id": "both", "kind": "all_of", "gates": (level("a", "at_least", 0.9), {"id": "i", "kind": "integrity"})}
    assert superfluous(both, level("b", "at_least", 0.7)) == [("b", "a")]
    either = {**both, "id": "either", "kind": "any_of"}
    assert superfluous(either, level("b", "at_least", 0.7)) == []


def test_in_any_of_the_stricter_member_is_superfluous() -> None:
    members = (level("a", "at_least", 0.9), level("b", "at_least", 0.8), level("c", "at_most", 0.9))
    assert superfluous({"id": "either", "kind": "any_of", "gates": members}) == [("a", "b")]


@pytest.mark.parametrize(
    ("strict", "loose"),
    [
        ({"kind": "integrity"}, {"kind": "integrity", "allow_changes": ("dtype",)}),
        ({"kind": "contamination", "suites": ("s",), "ngram": 8}, {"kind": "contamination", "suites": ("s",)}),
        (
            {"kind": "budget", "max_cycles_without_person": 1, "max_cost_s": 9},
            {"kind": "budget", "max_cycles_without_person": 2, "max_cost_s": 9},
        ),
        (
            {"kind": "collapse", "suite": "s", "against": "root", "min_items": 9, "min_distinct_share": 0.8},
            {"kind": "collapse", "suite": "s", "against": "root", "min_items": 9, "min_distinct_share": 0.7},
        ),
    ],
)
def test_gates_that_test_nothing(strict: dict[str, Any], loose: dict[str, Any]) -> None:
    assert superfluous({"id": "a", **strict}, {"id": "b", **loose}) == [("b", "a")]
    assert superfluous({"id": "a", **loose}, {"id": "b", **strict}) == [("a", "b")]


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        ((level("lo", "at_least", 0.8), level("hi", "at_most", 0.8)), [("hi", "lo")]),
        ((level("hi", "at_most", 0.5), level("lo", "at_least", 0.8)), [("hi", "lo")]),
        ((level("lo", "at_least", 0.7), level("hi", "at_most", 0.8)), []),
        ((level("lo", "at_least", 0.8), level("hi", "at_most", 0.5, metric="n")), []),
        ((level("lo", "at_least", 0.8), level("hi", "at_most", 0.5, clusters=("x",))), []),
        ((paired("gain", "superior_by", 0.3), level("hi", "at_most", 0.3)), [("hi", "gain")]),
        ((paired("gain", "superior_by", 0.3), level("hi", "at_most", 0.4)), []),
        ((paired("gain", "superior_by", 0.3, scale=2.0), level("hi", "at_most", 0.2)), []),
    ],
)
def test_contradictions(gates: tuple[dict[str, Any], ...], expected: list[tuple[str, str]]) -> None:
    assert [(one.gate.id, one.other.id) for one in contradictions(policy(*gates))] == expected


def test_a_choice_between_two_that_exclude_each_other_is_none() -> None:
    members = (level("lo", "at_least", 0.8), level("hi", "at_most", 0.5))
    assert list(contradictions(policy({"id": "either", "kind": "any_of", "gates": members}))) == []
    assert len(list(contradictions(policy({"id": "both", "kind": "all_of", "gates": members})))) == 1


counts = st.lists(st.integers(0, 60), min_size=4, max_size=4).filter(lambda four: sum(four) >= 9)
margins = st.sampled_from([0.02, 0.05, 0.1, 0.3, 0.6, 0.9])


@settings(deadline=None, max_examples=300)
@given(counts, margins, margins, st.sampled_from(["non_inferior_within", "superior_by", "at_least", "at_most"]))
def test_what_passes_the_stricter_gate_passes_the_looser(four: list[int], one: float, other: float, claim: str) -> None:
    make = level if claim.startswith("at_") else paired
    gates = [GATES.validate_python(make(name, claim, value)) for name, value in (("a", one), ("b", other))]
    is_paired = not claim.startswith("at_")
    cells = tuple(
        Cell("c", None, float(mine), float(theirs) if is_paired else None, n)
        for (mine, theirs), n in zip(itertools.product((0, 1), repeat=2), four, strict=True)
        if n
    )
    table = ScoreTable(cells, sum(four))
    outcome = {gate.id: judge_table(gate, table, gate.alpha).outcome for gate in gates if isinstance(gate, EvalGate)}
    for strict, loose in itertools.permutations(gates):
        if is_as_strict(strict, loose) and outcome[strict.id] == "pass":
            assert outcome[loose.id] == "pass"
