"""Banks in policies: digests, the order of policies, lint, words, bundles, and cases beside a policy."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from guards.authoring.policy_cases import Case, run_case
from guards.authoring.policy_counterexamples import counterexamples
from guards.authoring.policy_lint import lint_policy
from guards.authoring.policy_relations import is_as_strict
from guards.authoring.policy_terms import PolicyTerms
from guards.authoring.policy_tests import check_case, run_policy_tests
from guards.authoring.suite_facts import SuiteFacts
from guards.canonical import sha256_bytes, sha256_file
from guards.errors import ConfigError
from guards.policy import DriftGate, Policy, recorded_body, resolve_policy
from guards.policy_bundle import pack_policy, read_bundle_envelope, referred_files, sign_bundle, verify_bundle
from guards.policy_order import compare
from guards.signing import public_key_of
from loop.policy_words import policy_in_words
from tests.drift_gate_world import GATE, DriftGateWorld, bank_body, make_world
from tests.gate_world import EVAL_GATE, make_policy, policy_body, write_policy

BANK, KIT = "sha256:" + "1" * 64, "sha256:" + "2" * 64
INTEGRITY = {"id": "integrity", "kind": "integrity"}


@pytest.fixture
def world(tmp_path: Path) -> DriftGateWorld:
    return make_world(tmp_path)


def recorded(*gates: dict[str, Any], banks: dict[str, str] | None = None, **changes: Any) -> Policy:
    names = banks if banks is not None else {"drift-bank": BANK}
    suites = {"refusal": "sha256:" + "3" * 64, "tasks": "sha256:" + "4" * 64}
    body = policy_body(*gates, banks=names, kits=dict.fromkeys(names, KIT), **changes)
    return Policy.model_validate({**body, "suites": suites})


# Digests


def test_the_digest_names_the_bank_and_its_kit(world: DriftGateWorld) -> None:
    resolved = world.policy.resolved
    assert resolved.banks == {"drift-bank": sha256_file(world.directory / "bank.json")}
    assert resolved.kits == {"drift-bank": world.bank.kit.digest} == world.policy.kit_digests
    assert world.policy.run_digests == {**world.policy.suite_digests, "drift-bank": world.bank.kit.digest}
    other = make_world(world.directory / "2", bank_body(40))
    assert other.policy.digest != world.policy.digest
    assert other.policy.kit_digests == world.policy.kit_digests


def test_a_policy_without_banks_has_the_digest_that_it_had_before_there_were_any(tmp_path: Path) -> None:
    policy = make_policy(tmp_path, INTEGRITY)
    body = json.loads(policy.canonical_json)
    assert "banks" not in body and "kits" not in body
    assert policy.digest == sha256_bytes(policy.canonical_json.encode())
    assert recorded_body(policy.resolved) == body
    empty = make_policy(tmp_path / "2", INTEGRITY, banks={})
    assert empty.digest == policy.digest


def test_a_recorded_policy_reads_back(world: DriftGateWorld) -> None:
    assert recorded_body(world.policy.resolved) == json.loads(world.policy.canonical_json)


@pytest.mark.parametrize(
    ("rule", "changes"),
    [
        ("policy.missing-bank", {"banks": {"drift-bank": "nowhere.json"}}),
        ("policy.unknown-bank", {"banks": {"other-bank": "bank.json"}}),
        ("policy.unknown-bank", {"banks": {}}),
        ("policy.bank-is-suite", {"banks": {"refusal": "bank.json", "drift-bank": "bank.json"}}),
        ("policy.items-in-file", {"kits": {"drift-bank": KIT}}),
        ("drift.bad-bank", {"banks": {"drift-bank": "refusal.yaml"}}),
    ],
)
def test_refused_where_it_stands(world: DriftGateWorld, rule: str, changes: dict[str, Any]) -> None:
    path = write_policy(world.directory, {**policy_body(GATE, banks={"drift-bank": "bank.json"}), **changes})
    (world.directory / "refusal.yaml").write_text('{"no": "bank"}')
    with pytest.raises(ConfigError) as caught:
        resolve_policy(path)
    assert caught.value.rule == rule
    lint = lint_policy(path, facts)
    assert rule in [problem.rule for problem in lint.errors]


@pytest.mark.parametrize(
    "changes",
    [
        {"block_at": 0.0},
        {"block_at": 0.3},
        {"review_at": 0.6},
        {"block_at": 0.1, "review_at": 0.05},
        {"min_documents": 0},
        {"training_rows": "sometimes"},
        {"bank": None},
    ],
)
def test_a_gate_that_could_not_be_meant_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        DriftGate.model_validate({**GATE, **changes})


def test_a_drift_gate_is_no_condition(tmp_path: Path) -> None:
    (tmp_path / "bank.json").write_text(json.dumps(bank_body()))
    gate = {"id": "if", "kind": "only_if", "condition": GATE, "then": INTEGRITY}
    with pytest.raises(ConfigError) as caught:
        make_policy(tmp_path, gate, banks={"drift-bank": "bank.json"})
    assert caught.value.rule == "policy.condition-kind"


# The order of policies


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ({}, {"block_at": 0.06}, "stricter"),
        ({}, {"block_at": 0.04}, "looser"),
        ({}, {"review_at": 0.2}, "stricter"),
        ({}, {"review_at": 0.06}, "looser"),
        ({}, {"min_documents": 9}, "stricter"),
        ({}, {"min_documents": 7}, "looser"),
        ({}, {"training_rows": "optional"}, "looser"),
        ({"training_rows": "optional"}, {}, "stricter"),
        ({}, {"smaller_dose": "allowed"}, "looser"),
        ({"smaller_dose": "allowed"}, {}, "stricter"),
        ({}, {"description": "for people"}, "same"),
        ({}, {"block_at": 0.06, "review_at": 0.09}, "incomparable"),
        ({}, {"bank": "other-bank"}, "incomparable"),
    ],
)
def test_what_an_edit_of_the_gate_does(old: dict[str, Any], new: dict[str, Any], change: str) -> None:
    banks = {"drift-bank": BANK, "other-bank": KIT}
    before, after = (recorded({**GATE, **one}, banks=banks) for one in (old, new))
    assert compare(before, after).overall == change
    assert is_as_strict(after.gates[0], before.gates[0]) == (change in ("same", "stricter"))


def test_what_an_edit_of_the_bank_does() -> None:
    other = {"drift-bank": "sha256:" + "9" * 64}
    (item,) = compare(recorded(GATE), recorded(GATE, banks=other)).items
    assert (item.where, item.change) == ("banks.drift-bank", "incomparable")
    with_gate, without = recorded(GATE, INTEGRITY), recorded(INTEGRITY, banks={})
    assert [item.change for item in compare(with_gate, without).items] == ["looser", "same"]
    assert [item.change for item in compare(without, with_gate).items] == ["stricter", "same"]
    forged = recorded(GATE).model_copy(update={"kits": {"drift-bank": BANK}})
    assert compare(recorded(GATE), forged).overall == "incomparable"
    spare = recorded(GATE, banks={"drift-bank": BANK, "spare": BANK})
    assert compare(recorded(GATE), spare).overall == "same"


def test_an_edit_beside_a_drift_gate_has_its_counterexample_and_the_gate_itself_none() -> None:
    wide = {**EVAL_GATE, "margin": 0.2}
    old, new = recorded(EVAL_GATE, GATE), recorded(wide, {**GATE, "review_at": 0.06})
    change = compare(old, new)
    found = dict(zip([item.where for item in change.items], counterexamples(change, old, new), strict=True))
    case = found["gates.refusal-holds.margin"]
    assert case is not None and "drift" not in case.expect.gates
    assert found["gates.drift.review_at"] is None


def test_terms_of_the_gate_hold_its_bank() -> None:
    gate = recorded(GATE).gates[0]
    here, there = (
        PolicyTerms.of(recorded_body(recorded(GATE, banks={"drift-bank": digest}))) for digest in (BANK, KIT)
    )
    assert here.shared(gate) != there.shared(gate) and here.kits == {"drift-bank": KIT}


# Lint and words


def facts(_path: Path) -> SuiteFacts:
    return SuiteFacts(metrics=("refused",), binary=frozenset(), unbounded=frozenset(), items=(), has_outputs=True)


@pytest.mark.parametrize(
    ("n_members", "changes", "rules"),
    [
        (39, {"block_at": 0.025, "review_at": 0.025}, []),
        (39, {"block_at": 0.024}, ["drift.bank-too-small"]),
        (39, {"block_at": 0.02, "review_at": 0.024}, ["drift.bank-too-small", "drift.bank-too-small"]),
        (18, {}, ["drift.bank-too-small"]),
        (19, {}, []),
        (39, {"min_documents": 9}, ["drift.too-few-documents"]),
    ],
)
def test_lint_finds_a_bank_that_is_too_small(
    tmp_path: Path, n_members: int, changes: dict[str, Any], rules: list[str]
) -> None:
    world = make_world(tmp_path, bank_body(n_members), **changes)
    errors = lint_policy(world.policy.source, facts).errors
    assert [problem.rule for problem in errors] == rules
    assert all(problem.line > 1 for problem in errors)


def test_lint_counts_verified_members_only(tmp_path: Path) -> None:
    body = bank_body(39)
    for member in body["members"][:21]:
        member["verified"] = False
    world = make_world(tmp_path, body)
    (problem,) = lint_policy(world.policy.source, facts).errors
    assert problem.rule == "drift.bank-too-small" and "18 verified members" in problem.message


def test_lint_finds_triggers_that_no_bank_scores(tmp_path: Path) -> None:
    body = bank_body()
    del body["scoring"]["stages"]["triggers"]
    (problem,) = lint_policy(make_world(tmp_path, body).policy.source, facts).errors
    assert problem.rule == "drift.triggers-unsupported"
    optional = make_world(tmp_path / "2", body, training_rows="optional")
    assert lint_policy(optional.policy.source, facts).errors == ()


def test_lint_finds_a_bank_that_no_gate_reads(world: DriftGateWorld) -> None:
    path = write_policy(world.directory, policy_body(INTEGRITY, banks={"drift-bank": "bank.json"}))
    unused = [problem.message for problem in lint_policy(path, facts).problems if problem.rule == "policy.unused"]
    assert "no gate reads the bank 'drift-bank'" in unused


def test_the_gate_in_words(world: DriftGateWorld) -> None:
    text = "\n".join(policy_in_words(world.policy))
    assert "fine-tunes of the root in the bank drift-bank" in text
    assert "It fails at p 0.05 or below, and is held at 0.1 or below" in text
    assert "cannot be searched for triggers is held too" in text


# Bundles


def test_a_bundle_holds_the_bank(world: DriftGateWorld) -> None:
    key = Ed25519PrivateKey.generate()
    bundle = pack_policy(world.policy.source, author="ana", time="2026-01-01T00:00:00.000000Z")
    assert (world.directory / "bank.json").resolve() in referred_files(world.policy.source)
    assert bundle.files["bank.json"].data == (world.directory / "bank.json").read_bytes()
    assert bundle.policy_digest == world.policy.digest
    envelope = read_bundle_envelope(sign_bundle(bundle, key))
    assert verify_bundle(envelope, public_key_of(key)) == bundle


# Cases


def case(drift: dict[str, Any], expected: str, **changes: Any) -> Case:
    return Case.model_validate(
        {"name": "a case", "evidence": {"drift": drift, **changes}, "expect": {"gates": {"drift": expected}}}
    )


@pytest.mark.parametrize(
    ("drift", "expected", "rule"),
    [
        ({}, "pass", None),
        ({"drift-bank": {"like": "member-004"}}, "pass", None),
        ({"drift-bank": {"components": {"refusal": -6.0}}}, "fail", "drift.blocked"),
        ({"drift-bank": {"like": "member-004", "components": {"trigger": 2.0}}}, "fail", "drift.blocked"),
        ({"drift-bank": {"triggers": "unsupported"}}, "inconclusive", "drift.triggers-unsupported"),
        ({"drift-bank": {"fault": "missing"}}, "inconclusive", "drift.not-measured"),
    ],
)
def test_a_case_of_drift(world: DriftGateWorld, drift: dict[str, Any], expected: str, rule: str | None) -> None:
    result = run_case(world.policy, case(drift, expected))
    assert result.is_met, result.mismatches
    assert result.verdicts[0].details.get("rule") == rule
    assert list(check_case(world.policy, result.case)) == []


def test_a_case_without_a_root(world: DriftGateWorld) -> None:
    (verdict,) = run_case(world.policy, case({}, "inconclusive", missing=["root"])).verdicts
    assert verdict.details["rule"] == "gate.no-checkpoint"


@pytest.mark.parametrize(
    ("drift", "rule"),
    [
        ({"like": "member-999"}, "case.unknown-member"),
        ({"components": {"refusel": 1.0}}, "case.unknown-component"),
    ],
)
def test_a_case_that_names_what_the_bank_does_not_have(world: DriftGateWorld, drift: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run_case(world.policy, case({"drift-bank": drift}, "pass"))
    assert caught.value.rule == rule


def test_a_case_that_names_another_bank(world: DriftGateWorld) -> None:
    found = list(check_case(world.policy, case({"other": {}}, "pass")))
    assert [rule for _, rule, _ in found] == ["case.unknown-bank"]


def test_a_case_file_shows_a_drift_gate_blocking(world: DriftGateWorld) -> None:
    cases = [
        {"name": "all pass", "expect": {}},
        {
            "name": "refusal gone",
            "evidence": {"drift": {"drift-bank": {"components": {"refusal": -6.0}}}},
            "expect": {"gates": {"drift": "fail"}, "rules": {"drift": "drift.blocked"}},
        },
    ]
    body = {"schema": "stairlock/policy-test/v1", "policy": "../policy.yaml", "cases": copy.deepcopy(cases)}
    (world.directory / "tests").mkdir()
    path = world.directory / "tests" / "policy.yaml"
    path.write_text(json.dumps(body))
    report = run_policy_tests(world.policy.source)
    assert report.holds, report.all_problems
    body["cases"] = cases[:1]
    path.write_text(json.dumps(body))
    assert [problem.rule for problem in run_policy_tests(world.policy.source).all_problems] == ["case.never-blocks"]
