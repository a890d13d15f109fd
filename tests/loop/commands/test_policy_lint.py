"""``stairlock policy lint``: what it prints, its exit codes, and that ``check`` refuses what it reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.command_line import stairlock
from tests.store_world import person

REPOSITORY = Path(__file__).resolve().parents[3]
NAMES = ("default", "sandbox", "root", "checkpoint")


def changed(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """The default policy beside its suites, with some text replaced."""
    shutil.copytree(REPOSITORY / "policies" / "suites", tmp_path / "suites", dirs_exist_ok=True)
    text = (REPOSITORY / "policies" / "default.yaml").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "default.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_policies_have_no_errors_and_enough_joint_power() -> None:
    done = stairlock("policy", "lint", *(REPOSITORY / "policies" / f"{name}.yaml" for name in NAMES), "--json")
    assert done.code == 0
    for report in done.json["files"]:
        assert {problem["severity"] for problem in report["problems"]} <= {"warning"}
        assert [joint["independent"] >= 0.5 for joint in report["joint_power"]] == [True, True]


def test_every_problem_is_a_line_with_its_place_and_a_fix(tmp_path: Path) -> None:
    path = changed(
        tmp_path, ("margin: 0.08", "margn: 0.08"), ("level: 0.70", "level: 0.999"), ("metric: lenient", "metric: x")
    )
    done = stairlock("policy", "lint", path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert done.code == 1
    places = [line.removeprefix(f"{path}:") for line in done.out.splitlines() if line.startswith(f"{path}:")]
    errors = [place.split(": error ") for place in places if ": error " in place]
    assert [rule.split("]")[0] for _, rule in errors] == [
        "[policy.unknown-metric",
        "[yaml.unknown-key",
        "[policy.cannot-pass",
    ]
    at = [lines[int(place.split(":")[0]) - 1] for place, _ in errors]
    assert at == ["    metric: x", "    margn: 0.08", "  - id: refusal-floor"]
    assert "did you mean 'margin'?" in done.out and "what to do: " in done.out
    assert done.out.splitlines()[-1].startswith("3 errors, ")


def test_json_says_the_same(tmp_path: Path) -> None:
    path = changed(tmp_path, ("margin: 0.08", "margn: 0.08"))
    done = stairlock("policy", "lint", path, "--json")
    (report,) = done.json["files"]
    (problem,) = (one for one in report["problems"] if one["severity"] == "error")
    assert done.code == 1 and problem["rule"] == "yaml.unknown-key" and problem["file"] == str(path)
    assert "margn" in path.read_text(encoding="utf-8").splitlines()[problem["line"] - 1]


def test_several_files_are_linted_and_one_error_is_enough(tmp_path: Path) -> None:
    bad = changed(tmp_path, ("margin: 0.08", "margn: 0.08"))
    done = stairlock("policy", "lint", REPOSITORY / "policies" / "default.yaml", bad, tmp_path / "gone.yaml")
    assert done.code == 1 and "[yaml.no-file]" in done.out and done.out.rstrip().endswith("in 3 files")


def test_a_roles_file_says_whether_the_approvals_can_be_given(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from guards.roles import Roles

    key = Ed25519PrivateKey.generate()
    roles = Roles(schema="stairlock/roles/v1", people=(person("ana", "reviewer", key=key),))
    file = tmp_path / "roles.yaml"
    file.write_text(json.dumps(roles.model_dump(mode="json", by_alias=True)), encoding="utf-8")
    path = REPOSITORY / "policies" / "default.yaml"
    assert "policy.no-approvers" not in stairlock("policy", "lint", path).out
    done = stairlock("policy", "lint", path, "--roles", file)
    assert done.code == 1 and "error [policy.no-approvers]" in done.out


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("level: 0.70", "level: 0.999", "policy.cannot-pass"),
        ("metric: lenient", "metric: strcit", "policy.unknown-metric"),
        ("metric: mean_loglik_nats", "metric: margin_nats", "policy.unknown-metric"),
        ("    scale: 1.0\n", "", "policy.unbounded-metric"),
    ],
)
def test_check_refuses_what_lint_calls_an_error(tmp_path: Path, old: str, new: str, rule: str) -> None:
    path = changed(tmp_path, (old, new))
    assert f"[{rule}]" in stairlock("policy", "lint", path).out
    done = stairlock("policy", "check", path)
    assert done.code == 1 and f"[{rule}] {path}:" in done.err


def test_hostile_text_in_a_policy_does_not_reach_the_terminal(tmp_path: Path) -> None:
    path = changed(tmp_path, ("margin: 0.08", '"\\u001b[2Jx": 0.08'))
    done = stairlock("policy", "lint", path)
    assert done.code == 1 and "\x1b" not in done.out
