"""The linter's speed, measured again in small, and the committed figures."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

from benchmarks.lint_speed import POLICIES, policy_text
from guards.authoring.policy_lint import lint_policy
from guards.policy import resolve_policy
from loop.suite_facts import facts_of_suite

RESULT = Path(__file__).resolve().parents[2] / "docs" / "results" / "lint_speed.json"


def test_200_gates_of_which_no_two_are_alike_take_less_than_a_second(tmp_path: Path) -> None:
    shutil.copytree(POLICIES / "suites", tmp_path / "suites")
    path = tmp_path / "policy.yaml"
    path.write_text(policy_text(200, all_different=True), encoding="utf-8")
    assert len(resolve_policy(path).policy.gates) == 200
    # Of a process that shares its cores with others, CPU time says how long it takes where it has one.
    began_s = time.process_time()
    report = lint_policy(path, facts_of_suite)
    took_s = time.process_time() - began_s
    assert report.errors == () and len(report.fits) == 200
    figures = {(fit.gate.margin, fit.alpha_last) for fit in report.fits}
    assert len(figures) == 200, "gates with the same figures are enumerated once: this would measure too little"
    assert took_s < 1.0


def test_the_committed_figures_are_below_a_second() -> None:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    assert found["n_gates"] == 200
    for name in ("some_figures_repeat", "all_figures_differ"):
        assert found[name]["wall_s_median"] < 1.0 and found[name]["n_errors"] == 0
