"""Drift reports of a look: made from what it was judged by, and shown beside its verdicts."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from loop.drift.candidate_reports import candidate_reports, reports_under, write_candidate_reports
from loop.report import render_report
from loop.verdict_table import has_drift
from tests.drift_gate_world import DriftGateWorld, make_world
from tests.gate_world import DIGEST
from tests.judged_home import judged_home, run_report, verdict
from tests.loop.test_report import Reader

NOW = datetime(2026, 11, 24, 5, 0, tzinfo=UTC)


def reports(world: DriftGateWorld, **values: float):
    return candidate_reports(world.policy, {("candidate", "drift-bank"): world.run(values)})


def test_a_report_says_what_the_gate_said(tmp_path: Path):
    world = make_world(tmp_path)
    for values in ({}, {"refusal": -30.0}):
        run = world.run(values)
        (one,) = candidate_reports(world.policy, {("candidate", "drift-bank"): run})
        assert one.p == world.judge(run).observed
        assert one.levels is not None and one.levels.gate == "drift"
        assert one.bank == world.policy.resolved.banks["drift-bank"] and one.candidate == DIGEST["candidate"]


def test_evidence_that_cannot_be_assessed_has_no_report(tmp_path: Path):
    world = make_world(tmp_path)
    run = world.run()
    assert candidate_reports(world.policy, {}) == ()
    assert candidate_reports(world.policy, {("champion", "drift-bank"): run}) == ()
    assert candidate_reports(world.policy, {("candidate", "drift-bank"): world.run(dtype="float32")}) == ()
    other_kit = world.run(suite_digest=DIGEST["root"])
    assert candidate_reports(world.policy, {("candidate", "drift-bank"): other_kit}) == ()


def test_a_policy_that_is_no_longer_the_decisions_has_no_report(tmp_path: Path):
    world = make_world(tmp_path)
    runs = {("candidate", "drift-bank"): world.run()}
    assert len(reports_under(world.policy.source, world.policy.digest, runs)) == 1
    assert reports_under(world.policy.source, DIGEST["root"], runs) == ()
    assert reports_under(tmp_path / "gone.yaml", world.policy.digest, runs) == ()


def test_each_gate_has_its_pages_in_the_home(tmp_path: Path):
    world = make_world(tmp_path / "world")
    (page,) = write_candidate_reports(reports(world), tmp_path)
    assert page == tmp_path / "reports" / f"drift-{DIGEST['candidate'][7:19]}" / "drift" / "drift-report.html"
    assert page.is_file() and page.with_suffix(".json").is_file()


def test_the_report_of_a_run_has_it_beside_the_verdicts(tmp_path: Path):
    found = reports(make_world(tmp_path / "world"), refusal=-30.0)
    home = judged_home(tmp_path / "home")
    report = run_report(home)
    digest = report.candidates[-1].digest
    page = Reader(render_report(report, now=NOW, drift={digest: found}))
    assert not page.open
    assert "drift: how it drifted from the root" in page.said()
    assert "None of the 39 changed in a way as unusual" in page.said()
    assert "how it drifted" not in Reader(render_report(report, now=NOW)).said()


def test_a_drift_gate_is_found_in_a_composite_one_too():
    assert not has_drift([verdict("integrity", "pass", kind="integrity")])
    drift = verdict("drift", "fail", kind="drift")
    assert has_drift([drift])
    assert has_drift([verdict("all", "fail", kind="all_of").model_copy(update={"members": (drift,)})])
