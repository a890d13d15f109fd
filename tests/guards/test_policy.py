"""Policies: what their digest covers, and what the files that ship say. Refusals: tests/faults."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from guards.canonical import digest_of, sha256_bytes
from guards.policy import (
    Approvals,
    BudgetGate,
    EvalGate,
    JudgeCalibration,
    item_digests,
    item_files,
    resolve_policy,
    suite_digest,
)
from guards.policy_gates import LEAST_LEVEL
from tests.gate_world import EVAL_GATE, make_policy, policy_body, write_policy

POLICIES = Path(__file__).resolve().parents[2] / "policies"


def test_the_digest_is_over_the_canonical_json_that_is_kept(tmp_path: Path) -> None:
    resolved = resolve_policy(write_policy(tmp_path, policy_body(EVAL_GATE)))
    assert resolved.digest == sha256_bytes(resolved.canonical_json.encode())
    body = json.loads(resolved.canonical_json)
    assert body["suites"] == resolved.suite_digests
    assert body["gates"][0]["scale"] is None, "defaults are written out"


def test_layout_and_comments_do_not_change_the_digest_and_content_does(tmp_path: Path) -> None:
    path = write_policy(tmp_path, policy_body(EVAL_GATE))
    before = resolve_policy(path).digest
    path.write_text("# a comment\n" + json.dumps(policy_body(EVAL_GATE), indent=4))
    assert resolve_policy(path).digest == before
    path.write_text(json.dumps(policy_body({**EVAL_GATE, "margin": 0.11})))
    assert resolve_policy(path).digest != before


def test_a_suite_counts_by_content_and_not_by_path(tmp_path: Path) -> None:
    path = write_policy(tmp_path, policy_body(EVAL_GATE))
    before = resolve_policy(path)
    (tmp_path / "moved").mkdir()
    (tmp_path / "refusal.yaml").rename(tmp_path / "moved" / "r.yaml")
    moved = policy_body(EVAL_GATE, suites={"refusal": "moved/r.yaml", "tasks": "tasks.yaml"})
    path.write_text(json.dumps(moved))
    assert resolve_policy(path).digest == before.digest
    (tmp_path / "moved" / "r.yaml").write_text("name: refusal\nitems: [1, 2, 3]\n")
    after = resolve_policy(path)
    assert after.digest != before.digest
    assert after.suite_digests["tasks"] == before.suite_digests["tasks"]


def test_a_suites_digest_covers_its_item_files_wherever_they_are_named(tmp_path: Path) -> None:
    suite = tmp_path / "suite.yaml"
    suite.write_text("items:\n  - {file: a.jsonl}\n  - nested: {file: b.jsonl}\n")
    (tmp_path / "a.jsonl").write_text("1")
    (tmp_path / "b.jsonl").write_text("2")
    first = suite_digest(suite)
    (tmp_path / "b.jsonl").write_text("3")
    second = suite_digest(suite)
    suite.write_text("# c\nitems: [{file: a.jsonl}, {nested: {file: b.jsonl}}]\n")
    assert first != second == suite_digest(suite)


def test_a_suite_names_its_item_files_in_order_and_each_file_counts_once(tmp_path: Path) -> None:
    """By what is read a holdout is known, so a file that is named twice is read once."""
    suite = tmp_path / "suite.yaml"
    suite.write_text("items:\n  - {file: b.jsonl}\n  - nested: {file: a.jsonl}\n  - {file: c.jsonl}\n")
    for name, text in (("a", "1"), ("b", "2"), ("c", "2")):
        (tmp_path / f"{name}.jsonl").write_text(text)
    assert item_files(suite) == ("b.jsonl", "a.jsonl", "c.jsonl")
    assert item_digests(suite) == sorted({sha256_bytes(b"1"), sha256_bytes(b"2")})


def test_a_judge_is_calibrated_on_a_million_outputs_at_most() -> None:
    """Beyond, an exact bound is not computed in reasonable time."""
    counts = {"positives": 1_000_000, "detected": 1, "negatives": 1_000_000, "cleared": 1}
    assert JudgeCalibration.model_validate(counts).positives == 1_000_000
    for name in ("positives", "negatives"):
        with pytest.raises(ValidationError):
            JudgeCalibration.model_validate({**counts, name: 1_000_001})


def test_a_suites_digest_is_the_one_that_logs_have(tmp_path: Path) -> None:
    """Of its YAML and the sha256 of its item files; what it is made of cannot change without a new scheme."""
    policy = make_policy(tmp_path, EVAL_GATE, holdouts={"refusal": {"reads": 1}})
    suite = {
        "yaml": {"name": "refusal", "items": {"file": "refusal.jsonl"}},
        "files": {"refusal.jsonl": sha256_bytes(b'{"of": "refusal"}\n')},
    }
    assert policy.suite_digests["refusal"] == suite_digest(tmp_path / "refusal.yaml") == digest_of(suite)


def test_lines_of_gates_are_those_of_the_file() -> None:
    resolved = resolve_policy(POLICIES / "default.yaml")
    lines = (POLICIES / "default.yaml").read_text().splitlines()
    for gate_id, line in resolved.gate_lines.items():
        assert lines[line - 1].strip() == f"- id: {gate_id}"


@pytest.mark.parametrize("name", ["default", "sandbox", "root", "checkpoint"])
def test_the_shipped_policies_resolve(name: str) -> None:
    assert resolve_policy(POLICIES / f"{name}.yaml").policy.name == name


def test_default_asks_for_two_people_and_sandbox_for_none_and_says_so_loudly() -> None:
    approvals = resolve_policy(POLICIES / "default.yaml").policy.approvals
    assert (approvals.required, approvals.roles) == (2, ("reviewer", "safety"))
    assert approvals.exclude == ("submitter", "trainer")
    sandbox = resolve_policy(POLICIES / "sandbox.yaml").policy
    assert sandbox.approvals.required == 0
    assert sandbox.approvals.unattended == "I accept promotion without a person"
    assert sandbox.description.startswith("SANDBOX - promotes without a person")
    first, second, *_ = (POLICIES / "sandbox.yaml").read_text().splitlines()
    assert first.startswith("# yaml-language-server: ")
    assert second.startswith("# SANDBOX. NO PERSON HAS TO APPROVE ANYTHING HERE")


def test_sandbox_has_the_gates_of_default_and_no_wider_margin() -> None:
    """It plans fewer reads of the holdouts, and so needs less."""
    default, sandbox = (resolve_policy(POLICIES / f"{name}.yaml").policy for name in ("default", "sandbox"))
    assert [gate.id for gate in default.gates] == [gate.id for gate in sandbox.gates]
    for one, other in zip(default.gates, sandbox.gates, strict=True):
        if isinstance(one, EvalGate) and isinstance(other, EvalGate):
            assert one.model_copy(update={"margin": other.margin}) == other
            assert (other.margin or 0.0) <= (one.margin or 0.0)
        else:
            assert isinstance(one, BudgetGate) or one == other
    assert (default.looks.planned, sandbox.looks.planned) == (8, 2)


@pytest.mark.parametrize(("name", "n_root_looks"), [("default", 1), ("sandbox", 1), ("checkpoint", 0), ("root", 0)])
def test_the_shipped_holdouts_last_for_the_planned_looks_after_that_of_the_root(name: str, n_root_looks: int) -> None:
    policy = resolve_policy(POLICIES / f"{name}.yaml").policy
    assert set(policy.holdouts) == {"refusal", "over_refusal", "ordinary", "language"}
    assert {holdout.reads for holdout in policy.holdouts.values()} == {policy.looks.planned + n_root_looks}


def test_checkpoint_asks_for_nothing_that_needs_provenance() -> None:
    gates = resolve_policy(POLICIES / "checkpoint.yaml").policy.gates
    assert {g.kind for g in gates} == {"eval", "integrity", "collapse"}
    assert {g.against for g in gates if isinstance(g, EvalGate)} == {"champion"}


SUPERIOR = EVAL_GATE | {"claim": "superior_by"}
LEVEL = EVAL_GATE | {"claim": "at_least", "margin": None, "against": None}


def ends(least: float, most: float) -> list[float]:
    """The ends of a range, and the next number on the inside of each."""
    return [least, math.nextafter(least, most), math.nextafter(most, least), most]


def accepts(gate: dict[str, Any], **changes: Any) -> bool:
    """Whether a policy may have this gate; the one fault that is looked for is a number out of range."""
    try:
        EvalGate.model_validate(gate | changes)
    except ValidationError as refusal:
        assert {one["type"] for one in refusal.errors()} <= {"policy.margin-range", "policy.level-range"}
        return False
    return True


@pytest.mark.parametrize("scale", [None, 0.5, 2.0])
def test_a_margin_is_below_the_largest_difference_and_only_superiority_may_be_by_nothing(scale: float | None) -> None:
    margins = [-5e-324, *ends(0.0, scale or 1.0)]
    assert [accepts(SUPERIOR, scale=scale, margin=margin) for margin in margins] == [False, True, True, True, False]
    assert [accepts(EVAL_GATE, scale=scale, margin=margin) for margin in margins] == [False, False, True, True, False]


def test_a_level_lies_where_a_test_can_exceed_it() -> None:
    least, most = LEAST_LEVEL, 1.0 - LEAST_LEVEL
    assert all(accepts(LEVEL, level=level) for level in ends(least, most))
    assert not any(accepts(LEVEL, level=level) for level in (math.nextafter(least, 0.0), math.nextafter(most, 1.0)))
    with pytest.raises(ValidationError, match=r"must lie between 0\.000001 and 0\.999999, not at 1\.0"):
        EvalGate.model_validate(LEVEL | {"level": 1.0})


UNATTENDED = {"unattended": "I accept promotion without a person"}


@pytest.mark.parametrize(
    ("approvals", "rule"),
    [
        ({"required": 0, **UNATTENDED}, ""),
        ({"required": 0, **UNATTENDED, "roles": ("safety",)}, "policy.approvals"),
        ({"required": 1, "roles": ("safety",)}, ""),
        ({"required": 1, "roles": ("safety",), **UNATTENDED}, "policy.unattended"),
        ({"required": 1}, "policy.approvals"),
    ],
)
def test_either_people_of_some_role_approve_or_nobody_and_then_the_policy_says_so(
    approvals: dict[str, Any], rule: str
) -> None:
    if not rule:
        assert Approvals.model_validate(approvals).required == approvals["required"]
        return
    with pytest.raises(ValidationError) as refusal:
        Approvals.model_validate(approvals)
    assert [one["type"] for one in refusal.value.errors()] == [rule]
