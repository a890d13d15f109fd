"""Policies: what their digest covers, and what the files that ship say. Refusals: tests/faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guards.canonical import sha256_bytes
from guards.policy import BudgetGate, EvalGate, resolve_policy, suite_digest
from tests.gate_world import EVAL_GATE, policy_body, write_policy

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
