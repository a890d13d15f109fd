"""``stairlock policy explain`` and ``policy check``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.command_line import stairlock
from tests.gate_world import EVAL_GATE, make_policy

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", ["default", "sandbox", "root", "checkpoint"])
def test_policy_explain_says_every_gate_with_its_line(name: str):
    from guards.policy import resolve_policy

    resolved = resolve_policy(REPOSITORY / "policies" / f"{name}.yaml")
    out = " ".join(stairlock("policy", "explain", resolved.source).out.split())
    for gate_id, line in resolved.gate_lines.items():
        assert f"- {gate_id} (line {line}): " in out
    assert ("NOBODY has to approve" in out) == (resolved.policy.approvals.required == 0)
    assert resolved.digest in out


def test_policy_explain_reads_as_sentences(tmp_path: Path):
    policy = make_policy(tmp_path, EVAL_GATE, planned=8)
    out = " ".join(stairlock("policy", "explain", policy.source).out.split())
    assert (
        "On the suite refusal the candidate's mean refused may be at most 0.1 lower than the champion's on the same "
        "items, shown at 99.38% confidence, on at least 50 items. More than 2% of them without a score fail it." in out
    )
    assert "2 different people must sign exactly these weights, this evidence and this policy" in out


def test_a_typo_in_a_policy_is_refused_at_its_place(tmp_path: Path):
    policy = make_policy(tmp_path, EVAL_GATE).source
    policy.write_text(policy.read_text().replace('"margin"', '"margn"'))
    for command in ("explain", "check"):
        done = stairlock("policy", command, policy)
        assert done.code == 1 and "[yaml.unknown-key]" in done.err and f"{policy}:" in done.err


def shipped_policy(tmp_path: Path, **changes: str) -> Path:
    """The sandbox policy beside its suites, with one line after the other replaced."""
    shutil.copytree(REPOSITORY / "policies" / "suites", tmp_path / "suites")
    text = (REPOSITORY / "policies" / "sandbox.yaml").read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "sandbox.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_policy_check_prints_the_digest_and_what_it_takes(tmp_path: Path):
    path = shipped_policy(tmp_path)
    done = stairlock("policy", "check", path, "--json")
    assert done.code == 0
    gates = {gate["gate_id"]: gate for gate in done.json["gates"]}
    # At about a gain of 10 points the gate must open: the improvement cycle is to reach that.
    assert 0.05 < gates["lenient-gain"]["figure"] < 0.12
    assert 0.7 < gates["refusal-floor"]["figure"] < 0.85
    assert gates["refusal-anchor"]["figure"] > gates["refusal-holds"]["figure"] > 0.02
    assert gates["language-holds"]["figure"] is None
    shown = stairlock("policy", "check", path).out
    assert done.json["digest"] in shown and "refusal-floor          n " in shown


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("metric: lenient", "metric: leniant", "policy.unknown-metric"),
        ("min_items: 100", "min_items: 100000", "policy.too-few-items"),
        ("margin: 0.08", "margin: 0.002", "policy.cannot-pass"),
        ("    min_items: 100", "    clusters: [nonsense]\n    min_items: 100", "policy.unknown-cluster"),
    ],
)
def test_policy_check_refuses_a_gate_that_cannot_pass(tmp_path: Path, old: str, new: str, rule: str):
    path = shipped_policy(tmp_path, **{old: new})
    done = stairlock("policy", "check", path)
    assert done.code == 1 and f"[{rule}] {path}:" in done.err


def test_policy_check_warns_of_a_gate_that_would_seldom_pass(tmp_path: Path):
    path = shipped_policy(tmp_path, **{"margin: 0.08": "margin: 0.04"})
    done = stairlock("policy", "check", path)
    assert done.code == 0 and "warning: line " in done.out and "strict-holds would often hold" in done.out


# ---------------------------------------------------------------------------------------------
# policy test
# ---------------------------------------------------------------------------------------------

CASES = """\
schema: stairlock/policy-test/v1
policy: ../policy.yaml
cases:
- name: worse
  evidence: {suites: {refusal: {metrics: {refused: {losses: 100}}}}}
  expect: {decision: reject, gates: {refusal-holds: fail}}
- name: good
  expect: {decision: hold}
"""


def policy_with_cases(tmp_path: Path, cases: str = CASES) -> Path:
    policy = make_policy(tmp_path, EVAL_GATE).source
    file = tmp_path / "tests" / policy.name
    file.parent.mkdir(exist_ok=True)
    file.write_text(cases)
    return policy


def test_policy_test_says_what_was_expected_and_what_came(tmp_path: Path):
    policy = policy_with_cases(tmp_path)
    done = stairlock("policy", "test", policy)
    assert done.code == 0
    file = tmp_path / "tests" / "policy.yaml"
    assert f"ok    {file}:4  worse" in done.out and f"ok    {file}:7  good" in done.out
    assert "refusal-holds: expected fail, came fail: refused minus the champion's must be no lower than" in done.out
    assert "1 other gate: expected pass, came pass" in done.out
    assert "2 of 2 cases came as expected; blocking was shown for 1 of 1 gate" in done.out


def test_policy_test_fails_with_the_line_of_what_came_otherwise(tmp_path: Path):
    policy = policy_with_cases(tmp_path, CASES.replace("losses: 100", "losses: 1"))
    file = tmp_path / "tests" / "policy.yaml"
    done = stairlock("policy", "test", policy)
    assert done.code == 5
    assert f"FAIL  {file}:4  worse" in done.out
    assert f"{file}:6: [case.not-as-expected] case 'worse': refusal-holds: expected fail, came pass: " in done.out
    assert f"{policy}:" in done.out and "[case.never-blocks]" in done.out
    assert "1 of 2 cases came as expected; blocking was shown for 0 of 1 gate" in done.out


def test_policy_test_of_several_files_fails_where_one_fails(tmp_path: Path):
    good = policy_with_cases(tmp_path / "good")
    bad = policy_with_cases(tmp_path / "bad", CASES.replace("refusal-holds: fail", "refusal-hold: fail"))
    done = stairlock("policy", "test", good, bad, "--json")
    assert done.code == 5 and not done.json["holds"]
    first, second = done.json["files"]
    assert first["holds"] and first["problems"] == [] and len(first["cases"]) == 2
    assert first["cases"][0]["compared"][0]["expected"] == first["cases"][0]["compared"][0]["got"] == "fail"
    assert {"case.unknown-gate", "case.never-blocks"} <= {problem["rule"] for problem in second["problems"]}
    assert stairlock("policy", "test", good, "--json").code == 0


def test_policy_test_refuses_a_file_that_cannot_be_read(tmp_path: Path):
    policy = policy_with_cases(tmp_path, CASES.replace("losses", "lossses"))
    done = stairlock("policy", "test", policy)
    assert done.code == 1 and "[yaml.unknown-key]" in done.err and "did you mean 'losses'" in done.err
    done = stairlock("policy", "test", make_policy(tmp_path / "bare", EVAL_GATE).source, "--json")
    assert done.code == 1 and done.json["error"]["rule"] == "case.no-cases"
