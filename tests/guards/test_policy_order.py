"""Is one policy stricter than another: every field has a direction, and what is called stricter passes no more."""

from __future__ import annotations

import types
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from guards.authoring.case_model import Case, CaseEvidence, Expectation
from guards.authoring.policy_cases import run_case
from guards.authoring.policy_counterexamples import Search, as_recorded, counterexamples
from guards.errors import StairlockError
from guards.evidence import Frozen
from guards.gates.alpha import LookPlan, alpha_of_look
from guards.policy import UNATTENDED, Policy, resolve_policy
from guards.policy_order import DIRECTIONS, Order, combined, compare

SUITE = "sha256:" + "1" * 64
POLICIES = Path(__file__).resolve().parents[2] / "policies"
EVAL = {
    "id": "refusal-holds",
    "kind": "eval",
    "suite": "refusal",
    "metric": "refused",
    "claim": "non_inferior_within",
    "margin": 0.1,
    "against": "champion",
    "alpha": 0.05,
    "min_items": 50,
    "max_unscored": 0.02,
}
LEVEL = {
    **{key: EVAL[key] for key in ("kind", "suite", "metric", "alpha", "min_items", "max_unscored")},
    "id": "refusal-floor",
    "claim": "at_least",
    "level": 0.6,
}
JUDGED = {**EVAL, "id": "judged", "suite": "tasks", "metric": "wrong", "judge": "phrases"}
GATES: dict[str, dict[str, Any]] = {
    "eval": EVAL,
    "level": LEVEL,
    "most": {**LEVEL, "id": "refusal-ceiling", "claim": "at_most", "level": 0.9},
    "better": {**EVAL, "id": "gain", "suite": "tasks", "metric": "right", "claim": "superior_by", "margin": 0.0},
    "integrity": {"id": "integrity", "kind": "integrity", "allow_changes": ["weights", "dtype"]},
    "collapse": {
        "id": "collapse",
        "kind": "collapse",
        "suite": "refusal",
        "against": "root",
        "min_items": 50,
        "min_distinct_share": 0.5,
        "max_length_ratio": 1.5,
    },
    "contamination": {"id": "contamination", "kind": "contamination", "suites": ["refusal"], "ngram": 13},
    "budget": {"id": "budget", "kind": "budget", "max_cycles_without_person": 4, "max_cost_s": 100},
    "any": {
        "id": "any",
        "kind": "any_of",
        "gates": [{**EVAL, "id": "any-a"}, {**LEVEL, "id": "any-b"}],
    },
    "all": {"id": "all", "kind": "all_of", "gates": [{**EVAL, "id": "all-a"}, {**LEVEL, "id": "all-b"}]},
    "if": {
        "id": "if",
        "kind": "only_if",
        "condition": {"id": "if-changed", "kind": "integrity"},
        "then": {**EVAL, "id": "if-then"},
    },
    "judged": JUDGED,
}
JUDGES = {
    "phrases": {
        "calibration": {"tiny": {"positives": 300, "detected": 295, "negatives": 300, "cleared": 297}},
        "family": "tiny",
        "min_sensitivity": 0.8,
        "min_specificity": 0.8,
    }
}
BODY: dict[str, Any] = {
    "schema": "stairlock/policy/v1",
    "name": "test",
    "description": "for tests",
    "looks": {"planned": 8},
    "suites": {"refusal": SUITE, "tasks": SUITE, "spare": SUITE},
    "gates": list(GATES.values()),
    "approvals": {"required": 2, "roles": ["reviewer", "safety"]},
    "holdouts": {"refusal": {"reads": 4}},
    "judges": JUDGES,
}


def policy(**changes: Any) -> Policy:
    return Policy.model_validate({**BODY, **changes})


def with_gate(name: str, **changes: Any) -> Policy:
    """The policy with other values in one gate; ``None`` takes a key away."""
    changed = {key: value for key, value in {**GATES[name], **changes}.items() if value is not None}
    return policy(gates=[changed if key == name else gate for key, gate in GATES.items()])


def short_id(value: object) -> str:
    """A test's name from the keys that it changes."""
    return "-".join(value) if isinstance(value, dict) else str(value)


# Every field has a direction


def models_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every model in an annotation."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    if get_origin(annotation) is Literal:
        return
    if get_origin(annotation) in (Annotated, Union, types.UnionType, tuple, dict, list):
        for part in get_args(annotation):
            yield from models_of(part)


def reachable(model: type[BaseModel], seen: set[type[BaseModel]]) -> set[type[BaseModel]]:
    """The model, and every model that its fields can hold."""
    if model not in seen:
        seen.add(model)
        for field in model.model_fields.values():
            for inner in models_of(field.annotation):
                reachable(inner, seen)
    return seen


def undeclared(model: type[BaseModel]) -> set[str]:
    """Fields of all reachable models that no direction is declared for, and directions for no field."""
    wrong: set[str] = set()
    for one in reachable(model, set()):
        declared = set(DIRECTIONS.get(one, {}))  # type: ignore[call-overload]
        wrong |= {f"{one.__name__}.{name}" for name in declared ^ set(one.model_fields)}
    return wrong


def test_every_field_of_every_model_has_a_direction():
    assert undeclared(Policy) == set()
    assert set(DIRECTIONS) == reachable(Policy, set())


def test_a_model_that_gains_a_field_without_a_direction_is_noticed():
    class More(Policy):
        strictness: int = 1

    assert "More.strictness" in undeclared(More)


def test_a_field_without_a_direction_is_incomparable(monkeypatch: pytest.MonkeyPatch):
    from guards import policy_order
    from guards.policy import EvalGate

    fewer = {name: how for name, how in DIRECTIONS[EvalGate].items() if name != "margin"}
    monkeypatch.setattr(policy_order, "DIRECTIONS", {**DIRECTIONS, EvalGate: fewer})
    assert compare(policy(), with_gate("eval", margin=0.05)).overall == "incomparable"


# What each direction is

STRICTER: list[tuple[str, dict[str, Any]]] = [
    ("eval", {"margin": 0.05}),
    ("eval", {"alpha": 0.01}),
    ("eval", {"min_items": 60}),
    ("eval", {"max_unscored": 0.01}),
    ("better", {"margin": 0.01}),
    ("level", {"level": 0.7}),
    ("most", {"level": 0.8}),
    ("integrity", {"allow_changes": ["weights"]}),
    ("collapse", {"min_distinct_share": 0.6}),
    ("collapse", {"min_entropy_ratio": 0.5}),
    ("collapse", {"max_length_ratio": 1.2}),
    ("collapse", {"min_length_ratio": 0.5}),
    ("collapse", {"min_items": 51}),
    ("contamination", {"suites": ["refusal", "tasks"]}),
    ("contamination", {"ngram": 8}),
    ("budget", {"max_cycles_without_person": 3}),
    ("budget", {"max_cost_s": 99}),
    ("budget", {"max_tokens_trained": 1000}),
    ("any", {"gates": [{**EVAL, "id": "any-a", "margin": 0.05}, {**LEVEL, "id": "any-b"}]}),
    ("all", {"gates": [*GATES["all"]["gates"], {**LEVEL, "id": "all-c"}]}),
    ("if", {"then": {**EVAL, "id": "if-then", "margin": 0.05}}),
]
INCOMPARABLE: list[tuple[str, dict[str, Any]]] = [
    ("eval", {"suite": "tasks"}),
    ("eval", {"metric": "answered"}),
    ("eval", {"claim": "superior_by"}),
    ("eval", {"against": "root"}),
    ("eval", {"clusters": ["weapons"]}),
    ("eval", {"scale": 1.0}),
    ("eval", {"group_by": "cluster"}),
    ("eval", {"judge": "phrases"}),
    ("eval", {"margin": 0.05, "alpha": 0.1}),
    ("integrity", {"against": "root"}),
    ("integrity", {"allow_changes": ["tokenizer"]}),
    ("collapse", {"suite": "tasks"}),
    ("collapse", {"against": "champion"}),
    ("contamination", {"suites": ["tasks"]}),
    ("any", {"gates": [*GATES["any"]["gates"], {**LEVEL, "id": "any-c"}]}),
    ("if", {"condition": {"id": "if-changed", "kind": "integrity", "allow_changes": ["dtype"]}}),
]
SAME: list[tuple[str, dict[str, Any]]] = [
    ("eval", {"description": "in other words"}),
    ("integrity", {"allow_changes": ["dtype"]}),
    ("any", {"gates": GATES["any"]["gates"][::-1]}),
]


@pytest.mark.parametrize(("gate", "changes"), STRICTER, ids=short_id)
def test_an_edit_that_is_stricter_is_looser_the_other_way_round(gate: str, changes: dict[str, Any]):
    edited = with_gate(gate, **changes)
    assert compare(policy(), edited).overall == "stricter"
    back = compare(edited, policy())
    assert back.overall == "looser"
    assert back.needs_approvals
    assert {item.gate for item in back.items} == {GATES[gate]["id"]}


@pytest.mark.parametrize(("gate", "changes"), INCOMPARABLE, ids=short_id)
def test_an_edit_that_cannot_be_compared_needs_approvals_both_ways(gate: str, changes: dict[str, Any]):
    edited = with_gate(gate, **changes)
    for change in (compare(policy(), edited), compare(edited, policy())):
        assert change.overall == "incomparable"
        assert change.needs_approvals
        assert change.of_gate(GATES[gate]["id"]) == "incomparable"


@pytest.mark.parametrize(("gate", "changes"), SAME, ids=short_id)
def test_an_edit_that_decides_nothing_is_the_same(gate: str, changes: dict[str, Any]):
    assert compare(policy(), with_gate(gate, **changes)).overall == "same"


@pytest.mark.parametrize("is_same_file", [True, False])
def test_an_edited_suite_with_the_same_item_file_says_so(is_same_file: bool):
    old = policy(items={"refusal": [SUITE]})
    edited = {**BODY["suites"], "refusal": "sha256:" + "2" * 64}
    new = policy(suites=edited, items={"refusal": [SUITE if is_same_file else "sha256:" + "3" * 64]})
    (item,) = (one for one in compare(old, new).items if one.where == "suites.refusal")
    assert item.change == "incomparable"
    assert item.why.startswith("the same item file, so that its reads count on") == is_same_file


TOP_LEVEL: list[tuple[dict[str, Any], Order]] = [
    ({"name": "other"}, "incomparable"),
    ({"description": "other"}, "same"),
    ({"looks": {"planned": 9}}, "incomparable"),
    ({"looks": {"planned": 8, "spending": "pocock"}}, "incomparable"),
    ({"looks": {"planned": 8, "stop_early": {"blocks": 4}}}, "same"),
    ({"suites": {**BODY["suites"], "refusal": "sha256:" + "2" * 64}}, "incomparable"),
    ({"suites": {**BODY["suites"], "another": SUITE}}, "same"),
    ({"suites": {"refusal": SUITE, "tasks": SUITE}}, "same"),
    ({"gates": list(GATES.values())[::-1]}, "same"),
    ({"gates": list(GATES.values())[1:]}, "looser"),
    ({"gates": [*GATES.values(), {**EVAL, "id": "one-more"}]}, "stricter"),
    ({"gates": [*list(GATES.values())[1:], {**EVAL, "id": "renamed"}]}, "incomparable"),
    ({"approvals": {"required": 3, "roles": ["reviewer", "safety"]}}, "stricter"),
    ({"approvals": {"required": 2, "roles": ["reviewer"]}}, "looser"),
    ({"approvals": {"required": 2, "roles": ["reviewer", "governance"]}}, "incomparable"),
    ({"approvals": {"required": 2, "roles": ["reviewer", "safety"], "exclude": ["submitter"]}}, "looser"),
    (
        {
            "approvals": {
                "required": 2,
                "roles": ["reviewer", "safety"],
                "exclude": ["submitter", "trainer", "policy_author"],
            }
        },
        "stricter",
    ),
    ({"approvals": {"required": 2, "roles": ["reviewer", "safety"], "valid_for_h": 24}}, "stricter"),
    ({"approvals": {"required": 0, "unattended": UNATTENDED}}, "looser"),
    ({"holdouts": {"refusal": {"reads": 3}}}, "stricter"),
    ({"holdouts": {}}, "looser"),
    ({"holdouts": {"refusal": {"reads": 4}, "tasks": {"reads": 4}}}, "stricter"),
    ({"judges": {"phrases": {**JUDGES["phrases"], "min_sensitivity": 0.9}}}, "stricter"),
    ({"judges": {"phrases": {**JUDGES["phrases"], "measures": "negative"}}}, "incomparable"),
    ({"judges": {**JUDGES, "unused": JUDGES["phrases"]}}, "same"),
]


@pytest.mark.parametrize(("changes", "order"), TOP_LEVEL, ids=short_id)
def test_edits_at_the_top(changes: dict[str, Any], order: Order):
    assert compare(policy(), policy(**changes)).overall == order


def test_terms_of_approvals_matter_only_where_somebody_signs():
    nobody = {"required": 0, "unattended": UNATTENDED}
    somebody = {"required": 1, "roles": ["reviewer"], "exclude": [], "valid_for_h": 1000}
    assert compare(policy(approvals=nobody), policy(approvals=somebody)).overall == "stricter"


def test_two_gates_of_one_id_are_not_compared():
    twice = Policy.model_validate({**BODY, "gates": [EVAL, {**EVAL, "margin": 0.9}]})
    assert compare(twice, twice.model_copy(update={"description": "x"})).overall == "same"  # nothing differs
    assert compare(policy(gates=[EVAL]), twice).overall == "incomparable"


def test_clusters_that_read_alike_are_still_others():
    one, two = with_gate("eval", clusters=["a, b"]), with_gate("eval", clusters=["a", "b"])
    assert compare(one, two).overall == "incomparable"


@pytest.mark.parametrize("name", ["default", "sandbox", "checkpoint", "root"])
def test_the_shipped_policies_are_the_same_as_themselves(name: str):
    body = resolve_policy(POLICIES / f"{name}.yaml").canonical_json
    change = compare(Policy.model_validate_json(body), Policy.model_validate_json(body))
    assert (change.overall, change.items) == ("same", ())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), "same"),
        (("same",), "same"),
        (("same", "stricter"), "stricter"),
        (("looser", "looser"), "looser"),
        (("stricter", "looser"), "incomparable"),
        (("stricter", "incomparable"), "incomparable"),
    ],
)
def test_changes_combine(changes: tuple[Order, ...], expected: Order):
    assert combined(changes) == expected


# The property that the order is for

GATE_IDS = ("eval", "level", "most", "better", "integrity", "collapse", "contamination", "budget", "any", "all", "if")


def _share(low: float, high: float) -> st.SearchStrategy[float]:
    return st.integers(round(low * 100), round(high * 100)).map(lambda k: k / 100)


def _eval_changes() -> dict[str, st.SearchStrategy[Any]]:
    return {
        "margin": _share(0.01, 0.4),
        "alpha": _share(0.01, 0.2),
        "min_items": st.integers(1, 40),
        "max_unscored": _share(0.0, 0.2),
    }


CHANGES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "eval": _eval_changes(),
    "better": {**_eval_changes(), "margin": _share(0.0, 0.4)},
    "level": {**{k: v for k, v in _eval_changes().items() if k != "margin"}, "level": _share(0.1, 0.9)},
    "most": {**{k: v for k, v in _eval_changes().items() if k != "margin"}, "level": _share(0.1, 0.99)},
    "integrity": {"allow_changes": st.sets(st.sampled_from(["dtype", "tokenizer", "architecture"])).map(sorted)},
    "collapse": {
        "min_items": st.integers(2, 40),
        "min_distinct_share": _share(0.1, 1.0),
        "min_entropy_ratio": _share(0.1, 1.0),
        "max_length_ratio": _share(1.0, 3.0),
        "min_length_ratio": _share(0.1, 1.0),
    },
    "contamination": {"ngram": st.integers(5, 20)},
    "budget": {
        "max_cycles_without_person": st.integers(1, 5),
        "max_cost_s": st.integers(1, 5),
        "max_tokens_trained": st.integers(1, 5),
    },
}


@st.composite
def gate_edits(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A gate, and an edit of it; both loose enough that small evidence may pass them."""
    name = draw(st.sampled_from(sorted(CHANGES)))
    fields = CHANGES[name]

    old = {**GATES[name], **{field: draw(strategy) for field, strategy in fields.items()}}
    # Mostly one field: edits of several are mostly incomparable, and say nothing.
    edited = draw(st.sampled_from(sorted(fields)).map(lambda field: {field}) | st.sets(st.sampled_from(sorted(fields))))
    new = {**old, **{field: draw(fields[field]) for field in edited}}
    wrap = draw(st.sampled_from(["none", "any_of", "all_of", "only_if"]))
    return _wrapped(old, wrap), _wrapped(new, wrap)


def _wrapped(gate: dict[str, Any], kind: str) -> dict[str, Any]:
    beside = {**LEVEL, "id": "beside", "min_items": 5, "level": 0.3, "alpha": 0.2}
    match kind:
        case "none":
            return gate
        case "only_if":
            condition = {"id": "condition", "kind": "integrity", "allow_changes": ["dtype"]}
            return {"id": "outer", "kind": kind, "condition": condition, "then": gate}
        case _:
            return {"id": "outer", "kind": kind, "gates": [gate, beside]}


@st.composite
def evidence(draw: st.DrawFn) -> dict[str, Any]:
    """Small evidence of all kinds, near to what the gates ask."""
    suites: dict[str, Any] = {}
    for suite, metric in (("refusal", "refused"), ("tasks", "right")):
        n = draw(st.integers(5, 60))
        unscored = draw(st.integers(0, n // 8))
        missing = draw(st.integers(0, n // 8))
        left = n - unscored - missing
        gains = draw(st.integers(0, left))
        losses = draw(st.integers(0, min(left - gains, 6)))
        both = draw(st.integers(0, left - gains - losses))
        outputs = {
            "distinct_share": draw(_share(0.1, 1.0)),
            "entropy_ratio": draw(_share(0.5, 1.0)),
            "length_ratio": draw(_share(0.1, 3.0)),
        }
        suites[suite] = {
            "n": n,
            "unscored": unscored,
            "reference_unscored": missing,
            "metrics": {metric: {"gains": gains, "losses": losses, "both": both}},
            "outputs": outputs,
        }
    shared = draw(st.none() | st.integers(1, 25))
    return {
        "suites": suites,
        "changed": draw(st.sets(st.sampled_from(["dtype", "tokenizer", "architecture"])).map(sorted)),
        "shared": [] if shared is None else [{"suite": "refusal", "words": shared}],
        "budget": {name: draw(st.integers(0, 5)) for name in ("cycles_without_person", "cost_s", "tokens_trained")},
        "holdout_reads": {"refusal": draw(st.integers(0, 5))},
    }


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    edit=gate_edits(),
    shown=evidence(),
    look=st.integers(1, 5),
    reads=st.just((6, 6)) | st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_what_is_called_stricter_never_passes_what_the_other_does_not(
    edit: tuple[dict[str, Any], dict[str, Any]], shown: dict[str, Any], look: int, reads: tuple[int, int]
):
    old, new = (
        policy(gates=[gate], looks={"planned": 4}, holdouts={"refusal": {"reads": n}})
        for gate, n in zip(edit, reads, strict=True)
    )
    order = compare(old, new).overall
    case = Case(name="any", look=look, evidence=CaseEvidence.model_validate(shown), expect=Expectation(others="any"))
    try:
        passed = [run_case(as_recorded(one), case).verdicts[0].outcome == "pass" for one in (old, new)]
    except StairlockError:
        return  # evidence that contradicts itself
    if order in ("same", "stricter"):
        assert passed[0] or not passed[1], "NEW is called stricter, and passes what OLD does not"
    if order in ("same", "looser"):
        assert passed[1] or not passed[0], "NEW is called looser, and does not pass what OLD does"


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(edit=gate_edits())
def test_no_counterexample_is_found_to_what_is_called_stricter(edit: tuple[dict[str, Any], dict[str, Any]]):
    """Evidence at the boundary of what NEW passes, which random evidence seldom hits."""
    old, new = (policy(gates=[gate], looks={"planned": 2}, holdouts={}) for gate in edit)
    if compare(old, new).overall == "looser":
        old, new = new, old
    assume(compare(old, new).overall == "stricter")
    assert Search(old, new, n_items=(60,)).of_gate(old.gates[0].id) is None


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "changes"), STRICTER, ids=short_id)
def test_no_counterexample_is_found_to_a_stricter_edit(gate: str, changes: dict[str, Any]):
    edited = {key: value for key, value in {**GATES[gate], **changes}.items() if value is not None}
    old, new = (policy(gates=[one], looks={"planned": 2}, holdouts={}) for one in (GATES[gate], edited))
    assert compare(old, new).overall == "stricter"
    assert Search(old, new, n_items=(60,)).of_gate(GATES[gate]["id"]) is None


@st.composite
def look_plans(draw: st.DrawFn) -> LookPlan:
    spending = draw(st.sampled_from(["even", "pocock", "obrien-fleming", "unbounded"]))
    alphas = draw(st.dictionaries(st.sampled_from(["gate", "other"]), st.integers(1, 200).map(_thousandths)))
    return LookPlan(draw(st.integers(1, 12)), alphas, spending)


def _thousandths(k: int) -> Fraction:
    return Fraction(k, 1000)


@settings(max_examples=200, deadline=None)
@given(plan=look_plans(), earlier=st.lists(look_plans(), max_size=6), alphas=st.tuples(*[st.integers(1, 200)] * 2))
def test_a_smaller_alpha_leaves_no_look_more_of_it(plan: LookPlan, earlier: list[LookPlan], alphas: tuple[int, int]):
    small, large = (
        alpha_of_look("gate", LookPlan(plan.planned, {"gate": _thousandths(k)}, plan.spending), earlier)
        for k in sorted(alphas)
    )
    assert small <= large


# Counterexamples


@pytest.mark.parametrize(
    ("gate", "changes"),
    [
        ("eval", {"margin": 0.2}),
        ("eval", {"alpha": 0.1}),
        ("eval", {"min_items": 20}),
        ("eval", {"max_unscored": 0.1}),
        ("eval", {"against": "root"}),
        ("eval", {"metric": "answered"}),
        ("eval", {"clusters": ["weapons"]}),
        ("eval", {"group_by": "cluster", "margin": 0.1}),
        ("eval", {"scale": 0.5}),
        ("level", {"level": 0.4}),
        ("better", {"claim": "non_inferior_within", "margin": 0.1}),
        ("integrity", {"allow_changes": ["tokenizer"]}),
        ("collapse", {"min_distinct_share": 0.3}),
        ("collapse", {"max_length_ratio": 4.0}),
        ("contamination", {"suites": ["tasks"]}),
        ("contamination", {"ngram": 20}),
        ("budget", {"max_cost_s": 200}),
        ("any", {"gates": [{**EVAL, "id": "any-a", "margin": 0.3}, {**LEVEL, "id": "any-b"}]}),
        ("any", {"gates": [*GATES["any"]["gates"], {**LEVEL, "id": "any-c", "level": 0.2}]}),
        ("all", {"gates": [{**EVAL, "id": "all-a", "margin": 0.3}, {**LEVEL, "id": "all-b"}]}),
        ("if", {"then": {**EVAL, "id": "if-then", "margin": 0.3}}),
    ],
    ids=short_id,
)
def test_a_looser_gate_has_a_counterexample_that_both_policies_agree_on(gate: str, changes: dict[str, Any]):
    old = policy(gates=[GATES[gate]], holdouts={})
    edited = {key: value for key, value in {**GATES[gate], **changes}.items() if value is not None}
    new = policy(gates=[edited], holdouts={})
    shown = [case for case in counterexamples(compare(old, new), old, new) if case is not None]
    assert len(shown) == 1
    gate_id = GATES[gate]["id"]
    said = {
        which: {verdict.gate_id: verdict.outcome for verdict in run_case(as_recorded(one), shown[0]).verdicts}
        for which, one in (("old", old), ("new", new))
    }
    assert said["new"][gate_id] == "pass"
    assert said["old"][gate_id] != "pass"
    assert run_case(as_recorded(new), shown[0]).is_met


@pytest.mark.parametrize("name", [name for name in GATES if name != "judged"])
def test_a_gate_that_is_gone_has_a_counterexample(name: str):
    old, new = policy(gates=[GATES[name], GATES["judged"]]), policy(gates=[GATES["judged"]])
    change = compare(old, new)
    (item,), (case,) = change.items, counterexamples(change, old, new)
    assert (item.change, case is None) == ("looser", False)


@pytest.mark.parametrize(
    "changes",
    [
        {"looks": {"planned": 12}},
        {"looks": {"planned": 4}},
        {"looks": {"planned": 8, "spending": "pocock"}},
        {"looks": {"planned": 8, "spending": "unbounded"}},
        {"holdouts": {"refusal": {"reads": 9}}},
        {"holdouts": {}},
    ],
    ids=short_id,
)
def test_an_edit_of_looks_or_holdouts_has_a_counterexample(changes: dict[str, Any]):
    old, new = policy(gates=[EVAL]), policy(gates=[EVAL], **changes)
    assert [case is not None for case in counterexamples(compare(old, new), old, new)] == [True]


def test_a_stricter_edit_has_no_counterexample():
    old, new = policy(gates=[EVAL]), policy(gates=[{**EVAL, "margin": 0.05}])
    assert counterexamples(compare(old, new), old, new) == (None,)


def test_reachable_models_are_frozen():
    assert all(issubclass(model, Frozen) for model in reachable(Policy, set()))
