"""Policy cases: the evidence that is built is the evidence that was written, and gates read it as any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guards.authoring.case_model import BudgetUsed, Outputs
from guards.authoring.policy_cases import (
    Case,
    CaseEvidence,
    CaseFile,
    Compared,
    Expectation,
    Items,
    MetricEvidence,
    SharedRows,
    SuiteEvidence,
    case_inputs,
    case_to_yaml,
    run_case,
)
from guards.errors import ConfigError, EvidenceError
from guards.gates.evaluate import evaluate_gates
from guards.gates.verdict import Verdict
from guards.policy import ResolvedPolicy, resolve_policy
from guards.run_texts import read_texts
from guards.strict_yaml import load_yaml_text
from tests.gate_world import EVAL_GATE, make_inputs, make_policy, make_run, policy_body

COLLAPSE: dict[str, Any] = {
    "id": "collapse",
    "kind": "collapse",
    "suite": "tasks",
    "against": "root",
    "min_items": 50,
    "min_distinct_share": 0.5,
    "min_entropy_ratio": 0.5,
    "max_length_ratio": 1.5,
}
CONTAMINATION: dict[str, Any] = {"id": "contamination", "kind": "contamination", "suites": ["tasks", "refusal"]}
INTEGRITY: dict[str, Any] = {"id": "integrity", "kind": "integrity", "against": "root", "allow_changes": ["dtype"]}
BUDGET: dict[str, Any] = {"id": "budget", "kind": "budget", "max_cycles_without_person": 3, "max_cost_s": 100}
ANCHOR = {**EVAL_GATE, "id": "refusal-anchor", "against": "anchor"}
FLOOR = {
    **{key: value for key, value in EVAL_GATE.items() if key not in ("margin", "against")},
    "id": "refusal-floor",
    "claim": "at_least",
    "level": 0.5,
}
LANGUAGE = {**EVAL_GATE, "id": "language", "suite": "tasks", "metric": "loglik", "scale": 1.0}


def with_refusal(**metric: Any) -> CaseEvidence:
    return CaseEvidence(suites={"refusal": SuiteEvidence(metrics={"refused": MetricEvidence(**metric)})})


def verdict_of(policy: ResolvedPolicy, evidence: CaseEvidence, gate: str = "refusal-holds", look: int = 1) -> Verdict:
    result = run_case(policy, Case(name="case", look=look, evidence=evidence, expect=Expectation()))
    return next(verdict for verdict in result.verdicts if verdict.gate_id == gate)


# ---------------------------------------------------------------------------------------------
# Scores
# ---------------------------------------------------------------------------------------------


def test_what_a_case_leaves_out_passes(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, ANCHOR, FLOOR, LANGUAGE, COLLAPSE, CONTAMINATION, INTEGRITY, BUDGET)
    result = run_case(policy, Case(name="nothing", expect=Expectation(decision="hold")))
    assert result.is_met and [verdict.outcome for verdict in result.verdicts] == ["pass"] * 8
    assert result.verdicts[0].n == 240


@given(gains=st.integers(0, 60), losses=st.integers(0, 60), both=st.integers(0, 60), unscored=st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_the_counts_that_a_gate_finds_are_those_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, gains: int, losses: int, both: int, unscored: int
) -> None:
    policy = make_policy(tmp_path_factory.mktemp("case"), EVAL_GATE, FLOOR)
    counts = MetricEvidence(gains=gains, losses=losses, both=both)
    suite = SuiteEvidence(n=200, unscored=unscored, metrics={"refused": counts})
    evidence = CaseEvidence(suites={"refusal": suite})
    paired, alone = verdict_of(policy, evidence), verdict_of(policy, evidence, "refusal-floor")
    # An unscored item of the candidate is a loss, and for a level a failure.
    assert (paired.details["gains"], paired.details["losses"]) == (str(gains), str(losses + unscored))
    assert alone.details["successes"] == str(gains + both)
    assert paired.n == alone.n == 200 and paired.details["n_unscored"] == str(unscored)


def test_successes_are_the_candidates_with_its_gains(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, FLOOR)
    evidence = with_refusal(gains=10, losses=5, successes=130)
    assert verdict_of(policy, evidence, "refusal-floor").details["successes"] == "130"
    assert verdict_of(policy, evidence).details["gains"] == "10"


def test_the_anchor_is_as_the_champion_unless_it_is_written(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, ANCHOR)
    same = verdict_of(policy, with_refusal(gains=2, losses=9), "refusal-anchor")
    assert (same.details["gains"], same.details["losses"]) == ("2", "9")
    evidence = with_refusal(losses=9, both=180, anchor=Compared(gains=3, losses=30))
    other = verdict_of(policy, evidence, "refusal-anchor")
    assert (other.details["gains"], other.details["losses"]) == ("3", "30")
    assert verdict_of(policy, evidence).details["losses"] == "9"


def test_items_that_only_the_reference_failed_to_score(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE)
    few = CaseEvidence(suites={"refusal": SuiteEvidence(n=200, reference_unscored=4)})
    assert verdict_of(policy, few).outcome == "pass"
    many = CaseEvidence(suites={"refusal": SuiteEvidence(n=200, reference_unscored=5)})
    assert verdict_of(policy, many).details["rule"] == "gate.reference-unscored"


def test_differences_are_repeated_over_the_items(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, LANGUAGE)
    metric = MetricEvidence(difference=(0.5, -0.25))
    evidence = CaseEvidence(suites={"tasks": SuiteEvidence(n=128, metrics={"loglik": metric})})
    assert verdict_of(policy, evidence, "language").observed == 0.125


def test_a_difference_of_a_bounded_metric_must_stay_in_its_bounds(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE)
    good = with_refusal(difference=0.25, reference=0.5, anchor=None)
    assert verdict_of(policy, good).observed == pytest.approx(0.25)
    with pytest.raises(ConfigError) as refused:
        run_case(policy, Case(name="case", evidence=with_refusal(difference=0.25), expect=Expectation()))
    assert refused.value.rule == "case.score-range"


@pytest.mark.parametrize(
    "metric",
    [
        {"gains": 200, "losses": 41},
        {"gains": 100, "both": 141},
        {"successes": 241},
        {"losses": 100, "successes": 141},
        {"both": 240, "anchor": Compared(losses=1)},
        {"both": 0, "anchor": Compared(gains=1)},
        {"anchor": Compared(difference=0.1)},
    ],
)
def test_outcomes_that_do_not_fit_the_items_are_refused(tmp_path: Path, metric: dict[str, Any]) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, ANCHOR)
    with pytest.raises(ConfigError) as refused:
        run_case(policy, Case(name="case", evidence=with_refusal(**metric), expect=Expectation()))
    assert refused.value.rule == "case.counts"


@pytest.mark.parametrize(
    "text",
    ["gains: 1, difference: 0.1", "both: 1, successes: 1", "gains: 2, successes: 1", "losses: 1, reference: 1.0"],
)
def test_a_metric_that_says_two_things_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load_yaml_text("{" + text + "}", "case", MetricEvidence)
    assert refused.value.rule == "case.evidence-shape"


def test_clusters_have_items_of_their_own(tmp_path: Path) -> None:
    part = {**EVAL_GATE, "id": "part", "clusters": ["weapons"]}
    policy = make_policy(tmp_path, EVAL_GATE, part)
    group = Items(n=60, metrics={"refused": MetricEvidence(losses=30)})
    evidence = CaseEvidence(suites={"refusal": SuiteEvidence(n=200, clusters={"weapons": group})})
    whole, inside = verdict_of(policy, evidence), verdict_of(policy, evidence, "part")
    assert (whole.n, whole.details["losses"]) == (260, "30")
    assert (inside.n, inside.details["losses"], inside.outcome) == (60, "30", "fail")
    assert verdict_of(policy, CaseEvidence(), "part").outcome == "pass"


@pytest.mark.parametrize("group_by", ["cluster", "tag:source"])
def test_items_share_sources(tmp_path: Path, group_by: str) -> None:
    policy = make_policy(tmp_path, {**EVAL_GATE, "group_by": group_by})
    metric = {"refused": MetricEvidence(losses=40)}
    evidence = CaseEvidence(suites={"refusal": SuiteEvidence(n=400, items_per_source=4, metrics=metric)})
    verdict = verdict_of(policy, evidence)
    assert verdict.n == 100 and verdict.observed == pytest.approx(-0.1)
    assert verdict_of(policy, CaseEvidence()).outcome == "pass"


@pytest.mark.parametrize(("detected", "outcome"), [(990, "pass"), (500, "inconclusive")])
def test_a_judges_errors_reach_the_gate(tmp_path: Path, detected: int, outcome: str) -> None:
    known = {"positives": 1000, "detected": detected, "negatives": 1000, "cleared": 990}
    judge = {"calibration": {"llama": known}, "family": "llama", "min_sensitivity": 0.9, "min_specificity": 0.9}
    policy = make_policy(tmp_path, {**EVAL_GATE, "judge": "words"}, judges={"words": judge})
    verdict = verdict_of(policy, CaseEvidence())
    assert verdict.outcome == outcome
    assert verdict.details.get("rule") == (None if outcome == "pass" else "gate.judge-too-weak")


# ---------------------------------------------------------------------------------------------
# Texts, files, budget, looks
# ---------------------------------------------------------------------------------------------


@given(
    distinct=st.floats(0.02, 1.0),
    entropy=st.floats(0.2, 1.0),
    length=st.floats(0.0, 3.0),
    n=st.integers(60, 300),
)
@settings(max_examples=25, deadline=None)
def test_outputs_have_the_ratios_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, distinct: float, entropy: float, length: float, n: int
) -> None:
    policy = make_policy(tmp_path_factory.mktemp("case"), COLLAPSE)
    outputs = Outputs(distinct_share=distinct, entropy_ratio=entropy, length_ratio=length)
    evidence = CaseEvidence(suites={"tasks": SuiteEvidence(n=n, outputs=outputs)})
    details = verdict_of(policy, evidence, "collapse").details
    assert distinct - 1e-4 <= float(details["distinct_share_ratio"]) <= distinct + 1 / n + 1e-4
    assert entropy - 1e-4 <= float(details["entropy_ratio"]) <= entropy + 0.03
    assert float(details["length_ratio"]) == pytest.approx(length, abs=1e-3)


def test_outputs_exactly_at_a_limit_hold_and_below_it_do_not(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, COLLAPSE)
    for changes, outcome in (
        ({"distinct_share": 0.5, "entropy_ratio": 0.5, "length_ratio": 1.5}, "pass"),
        ({"distinct_share": 0.495}, "fail"),
        ({"entropy_ratio": 0.495}, "fail"),
        ({"length_ratio": 1.505}, "fail"),
    ):
        evidence = CaseEvidence(suites={"tasks": SuiteEvidence(n=200, outputs=Outputs(**changes))})
        assert verdict_of(policy, evidence, "collapse").outcome == outcome, changes


def test_shared_rows_are_found_and_no_others(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, CONTAMINATION)
    for shared, n_hits in (
        ((), 0),
        ((SharedRows(suite="tasks"),), 1),
        ((SharedRows(suite="tasks", rows=3), SharedRows(suite="refusal", words=13)), 4),
        ((SharedRows(suite="tasks", words=12), SharedRows(suite="tasks", words=14)), 1),
    ):
        verdict = verdict_of(policy, CaseEvidence(shared=shared), "contamination")
        assert verdict.observed == n_hits and verdict.outcome == ("fail" if n_hits else "pass")


def test_texts_in_memory_are_checked_as_files_are(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, COLLAPSE)
    run = case_inputs(policy, Case(name="case", expect=Expectation())).runs["candidate", "tasks"]
    assert len(read_texts(run)) == 240
    assert run.texts is not None
    changed = run.model_copy(update={"texts": run.texts.replace(b"question 0", b"question x")})
    with pytest.raises(EvidenceError) as refused:
        read_texts(changed)
    assert refused.value.rule == "evidence.digest-mismatch"


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [((), "pass"), (("weights",), "pass"), (("dtype",), "pass")]
    + [((one,), "fail") for one in ("architecture", "tokenizer", "chat_template", "generation_config")],
)
def test_changed_files_reach_the_integrity_gate(tmp_path: Path, changed: tuple[Any, ...], outcome: str) -> None:
    policy = make_policy(tmp_path, INTEGRITY)
    assert verdict_of(policy, CaseEvidence(changed=changed), "integrity").outcome == outcome


def test_a_changed_dtype_is_noticed_where_it_is_not_allowed(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, {**INTEGRITY, "allow_changes": []})
    assert verdict_of(policy, CaseEvidence(changed=("dtype",)), "integrity").outcome == "fail"


def test_the_budget_reaches_its_gate(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, BUDGET)
    for used, outcome in (
        (BudgetUsed(cycles_without_person=3, cost_s=100.0), "pass"),
        (BudgetUsed(cycles_without_person=4), "fail"),
        (BudgetUsed(cost_s=100.5), "fail"),
    ):
        assert verdict_of(policy, CaseEvidence(budget=used), "budget").outcome == outcome


@pytest.mark.parametrize(
    ("missing", "gate", "rule"),
    [
        ("files", "integrity", "gate.no-facts"),
        ("training_rows", "contamination", "gate.no-training-rows"),
        ("budget", "budget", "gate.no-budget"),
        ("anchor", "refusal-anchor", "gate.no-checkpoint"),
        ("root", "collapse", "gate.no-checkpoint"),
    ],
)
def test_what_is_missing_is_inconclusive(tmp_path: Path, missing: Any, gate: str, rule: str) -> None:
    policy = make_policy(tmp_path, ANCHOR, COLLAPSE, CONTAMINATION, INTEGRITY, BUDGET)
    verdict = verdict_of(policy, CaseEvidence(missing=(missing,)), gate)
    assert (verdict.outcome, verdict.details["rule"]) == ("inconclusive", rule)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        ("missing", "gate.missing-run"),
        ("partial", "gate.partial-run"),
        ("other-suite", "gate.other-suite"),
        ("other-draw", "gate.other-draw"),
        ("other-checkpoint", "gate.other-checkpoint"),
        ("other-items", "gate.other-items"),
        ("other-engine", "gate.other-engine"),
    ],
)
def test_faults_of_the_evidence_are_what_they_say(tmp_path: Path, fault: Any, rule: str) -> None:
    policy = make_policy(tmp_path, EVAL_GATE)
    verdict = verdict_of(policy, CaseEvidence(suites={"refusal": SuiteEvidence(fault=fault)}))
    assert (verdict.outcome, verdict.details["rule"]) == ("inconclusive", rule)


def test_looks_spend_alpha_and_end(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, planned=4)
    assert verdict_of(policy, CaseEvidence(), look=4).alpha == pytest.approx(0.05 / 4)
    assert verdict_of(policy, CaseEvidence(), look=5).details["rule"] == "gate.alpha-spent"


def test_reads_of_a_holdout_divide_its_alpha(tmp_path: Path) -> None:
    make_policy(tmp_path, EVAL_GATE)
    (tmp_path / "refusal.yaml").write_text("items: {file: refusal.jsonl}\n")
    (tmp_path / "refusal.jsonl").write_text("{}\n")
    path = tmp_path / "policy.yaml"
    path.write_text(json.dumps(policy_body(EVAL_GATE, planned=4, holdouts={"refusal": {"reads": 4}})))
    policy = resolve_policy(path)
    first = verdict_of(policy, CaseEvidence()).alpha
    assert first is not None
    assert verdict_of(policy, CaseEvidence(holdout_reads={"refusal": 3})).alpha == pytest.approx(first / 8)
    assert verdict_of(policy, CaseEvidence(), look=3).alpha == pytest.approx(first / 4)
    spent = verdict_of(policy, CaseEvidence(holdout_reads={"refusal": 4}))
    assert spent.details["rule"] == "gate.holdout-spent"


# ---------------------------------------------------------------------------------------------
# One code path, expectations, and the form in which cases are written
# ---------------------------------------------------------------------------------------------


def test_a_case_gets_the_verdict_that_measured_evidence_gets(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, planned=2)
    metric = MetricEvidence(gains=5, losses=20, both=100)
    evidence = CaseEvidence(suites={"refusal": SuiteEvidence(n=200, metrics={"refused": metric})})
    case = verdict_of(policy, evidence)
    candidate = [1.0] * 5 + [0.0] * 20 + [1.0] * 100 + [0.0] * 75
    champion = [0.0] * 5 + [1.0] * 20 + [1.0] * 100 + [0.0] * 75
    runs = [make_run(tmp_path, policy, role, s) for role, s in (("candidate", candidate), ("champion", champion))]
    (measured,) = evaluate_gates(make_inputs(policy, *runs))
    for verdict in (case, measured):
        assert verdict.outcome == "inconclusive"
    figures = ("outcome", "reason", "observed", "bound", "margin", "n", "alpha", "policy_line")
    assert [getattr(case, name) for name in figures] == [getattr(measured, name) for name in figures]


def test_the_decision_is_the_one_that_follows(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, INTEGRITY)
    inconclusive = CaseEvidence(suites={"refusal": SuiteEvidence(fault="missing")})
    for changes, decision in (
        ({}, "hold"),
        ({"approved": True}, "promote"),
        ({"approved": True, "evidence": inconclusive}, "hold"),
        ({"approved": True, "evidence": inconclusive, "waived": ("refusal-holds",)}, "promote"),
        ({"approved": True, "evidence": CaseEvidence(changed=("tokenizer",)), "waived": ("integrity",)}, "reject"),
    ):
        case = Case(name="case", expect=Expectation(), **changes)
        assert run_case(policy, case).decision.outcome == decision, changes


@pytest.mark.parametrize(
    ("expect", "what"),
    [
        (Expectation(gates={"refusal-holds": "inconclusive"}), ["refusal-holds"]),
        (Expectation(gates={"refusal-holds": "pass"}), ["refusal-holds"]),
        (Expectation(), ["refusal-holds"]),
        (
            Expectation(gates={"refusal-holds": "fail"}, rules={"refusal-holds": "gate.unscored"}),
            ["rule of refusal-holds"],
        ),
        (Expectation(decision="hold", others="any"), ["decision"]),
        (Expectation(gates={"refusal-holds": "fail", "unheard-of": "fail"}), ["unheard-of"]),
        (Expectation(gates={"refusal-holds": "fail", "integrity": "fail"}), ["integrity"]),
        (Expectation(others="any"), []),
        (Expectation(decision="reject", gates={"refusal-holds": "fail"}, rules={"refusal-holds": "none"}), []),
    ],
)
def test_expectations_that_are_not_met_are_named(tmp_path: Path, expect: Expectation, what: list[str]) -> None:
    policy = make_policy(tmp_path, EVAL_GATE, INTEGRITY)
    result = run_case(policy, Case(name="worse", evidence=with_refusal(losses=100), expect=expect))
    assert [mismatch.what for mismatch in result.mismatches] == what
    assert result.is_met == (not what)
    for mismatch in result.mismatches:
        assert mismatch.got != mismatch.expected and mismatch.reason


def test_members_of_a_composite_may_be_named(tmp_path: Path) -> None:
    either = {"id": "either", "kind": "any_of", "gates": [EVAL_GATE, BUDGET]}
    policy = make_policy(tmp_path, either)
    evidence = with_refusal(losses=100)
    expect = Expectation(gates={"either": "pass", "refusal-holds": "fail", "budget": "pass"}, others="any")
    assert run_case(policy, Case(name="case", evidence=evidence, expect=expect)).is_met
    both = evidence.model_copy(update={"budget": BudgetUsed(cost_s=1000.0)})
    rules = {"budget": "gate.over-budget", "refusal-holds": "none"}
    expect = Expectation(decision="reject", gates={"either": "fail", "refusal-holds": "fail"}, rules=rules)
    assert run_case(policy, Case(name="case", evidence=both, expect=expect)).is_met
    wrong = Expectation(gates={"either": "fail"}, rules={"budget": "none"})
    assert not run_case(policy, Case(name="case", evidence=both, expect=wrong)).is_met


def test_evidence_that_the_policy_does_not_read_is_ignored(tmp_path: Path) -> None:
    """So that one case can be run under two policies."""
    policy = make_policy(tmp_path, EVAL_GATE)
    other = SuiteEvidence(metrics={"unheard": MetricEvidence(losses=5)})
    evidence = CaseEvidence(suites={"elsewhere": other, "refusal": other, "tasks": other})
    assert run_case(policy, Case(name="case", evidence=evidence, expect=Expectation())).is_met


names = st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)*", fullmatch=True).filter(lambda text: len(text) < 30)
counts = st.builds(
    MetricEvidence,
    gains=st.integers(0, 9),
    losses=st.integers(0, 9),
    both=st.none() | st.integers(0, 9),
    anchor=st.none() | st.builds(Compared, losses=st.integers(0, 9)),
)
gaps = st.builds(MetricEvidence, difference=st.floats(-2, 2) | st.lists(st.floats(-2, 2), min_size=1).map(tuple))
suites = st.builds(
    SuiteEvidence,
    n=st.none() | st.integers(1, 300),
    unscored=st.integers(0, 3),
    metrics=st.dictionaries(names, counts | gaps, max_size=2),
    clusters=st.dictionaries(st.text(min_size=1, max_size=9).filter(str.isprintable), st.just(Items(n=3)), max_size=2),
)
cases = st.builds(
    Case,
    name=st.text(min_size=1, max_size=40).filter(lambda text: all(ch.isprintable() for ch in text)),
    look=st.integers(1, 9),
    waived=st.lists(names, max_size=2).map(tuple),
    evidence=st.builds(
        CaseEvidence,
        suites=st.dictionaries(names, suites, max_size=2),
        changed=st.sampled_from([(), ("tokenizer", "weights")]),
    ),
    expect=st.builds(
        Expectation,
        gates=st.dictionaries(names, st.sampled_from(["pass", "fail", "inconclusive"]), max_size=3),
        decision=st.none() | st.sampled_from(["promote", "hold", "reject"]),
    ),
)


@given(case=cases)
@settings(max_examples=80, deadline=None)
def test_a_case_written_as_yaml_is_read_back_as_it_was(case: Case) -> None:
    text = "schema: stairlock/policy-test/v1\npolicy: ../p.yaml\ncases:\n" + case_to_yaml(case)
    assert load_yaml_text(text, "case", CaseFile).cases == (case,)


def test_a_case_is_written_as_people_write_it() -> None:
    case = Case(
        name="an unsafe candidate",
        approved=True,
        evidence=with_refusal(losses=100, both=106),
        expect=Expectation(decision="reject", gates={"refusal-holds": "fail"}),
    )
    assert case_to_yaml(case) == (
        "- name: an unsafe candidate\n"
        "  approved: true\n"
        "  evidence: {suites: {refusal: {metrics: {refused: {losses: 100, both: 106}}}}}\n"
        "  expect: {decision: reject, gates: {refusal-holds: fail}}\n"
    )
