"""The gain of a run: root against champion, on items that decided nothing, drawn after all decisions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from guards import actions
from guards.entries import Measured
from guards.errors import StairlockError
from guards.evidence import Scored, read_run
from guards.policy import resolve_policy
from guards.recorded_run import prompts_of_recorded_run
from guards.statistics import tango_interval
from loop.gain import measure_gain
from loop.gain_words import DRAWN, GAIN, ON_FRESH_ITEMS, Gain, GainFigure, Interval, gain_lines
from loop.home import Home
from loop.log_lines import log_line
from loop.recorded_steps import RecordedSteps
from loop.report import render_report
from loop.run import RunReport, run_loop
from tests.command_line import stairlock
from tests.in_process_backend import InProcessBackend, quiet
from tests.judged_home import JudgedHome, run_report
from tests.tiny_world import build_tiny_world

BETTER = """\
  - id: better
    kind: any_of
    gates:
      - {id: gain, kind: eval, suite: families, metric: lenient, claim: superior_by, margin: 0.0, against: champion,
         alpha: 0.2, min_items: 12, max_unscored: 0.0}
      - {id: harmless, kind: eval, suite: families, metric: lenient, claim: at_most, level: 0.9, alpha: 0.2,
         min_items: 12, max_unscored: 0.0}
"""
"""Random weights gain nothing, but pass as harmless; the policy still names what a gain is."""


def run(config: Path, home: Home, *, resume: bool = False) -> RunReport:
    return run_loop(
        config, home, backend=InProcessBackend(), stage=quiet, actor="tester", resume=resume, retrain_root=False
    )


def with_better_gate(config: Path) -> Path:
    policy = config.parent / "policy.yaml"
    policy.write_text(policy.read_text().replace("approvals:", BETTER + "approvals:"))
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> tuple[Path, Home, RunReport]:
    directory = tmp_path_factory.mktemp("gain")
    config = with_better_gate(build_tiny_world(directory / "world", tiny_checkpoint))
    home = Home.open(directory / "home")
    return config, home, run(config, home)


def measured(home: Home, run_name: str) -> dict[str, Any]:
    """Entries ``gain/drawn`` and ``gain`` of a run, by name."""
    with home.store.read() as history:
        return {entry.body.name: entry for entry in history.measured(run_name) if entry.body.name in (DRAWN, GAIN)}


def new_run(home: Home, config: Path, name: str) -> dict[str, Any]:
    """What ``measure_gain`` takes, for a run of this name that was begun."""
    policy = resolve_policy(config.parent / "policy.yaml")
    actions.start_run(home.store, run=name, config=policy.digest, plan={}, actor="tester")
    steps = RecordedSteps(home, InProcessBackend(), quiet, actor="tester", run=name)
    return {"home": home, "steps": steps, "policy": policy, "run": name, "actor": "tester", "device": "cpu"}


def test_a_run_measures_its_gain_against_the_root(finished: tuple[Path, Home, RunReport]) -> None:
    _, _, report = finished
    gain = report.gain
    assert gain is not None and gain.notes == ()
    assert (gain.root, gain.champion) == (report.root, report.champion_after) and gain.root != gain.champion
    (figure,) = gain.figures
    assert (figure.suite, figure.metric, figure.n + figure.n_left_out) == ("families", "lenient", 12)
    assert figure.betting.low <= figure.difference <= figure.betting.high
    assert figure.tango is not None and figure.tango.low <= figure.difference <= figure.tango.high


def test_the_figure_is_that_of_the_evidence(finished: tuple[Path, Home, RunReport]) -> None:
    """Counted here from the two runs' records, without the code that the gates share."""
    _, home, report = finished
    gain = report.gain
    assert gain is not None
    by_digest = {}
    for manifest in (home.path / "steps").glob("evaluate-*/families/manifest.json"):
        found = read_run(manifest.parent)
        by_digest[found.manifest.evidence_digest] = found
    root, champion = (by_digest[gain.evidence[f"{role}:families"]] for role in ("root", "champion"))
    assert root.manifest.checkpoint_digest == gain.root and champion.manifest.checkpoint_digest == gain.champion
    used = set()
    with home.store.read() as history:
        for entry in history.entries(kind="seed"):
            for answered in history.evidence(entry.seq):
                used |= prompts_of_recorded_run(home.path, answered)
    differences = []
    for mine, other in zip(champion.records, root.records, strict=True):
        assert mine.item_id == other.item_id
        if mine.prompt_digest in used:
            continue
        assert isinstance(mine.outcome, Scored) and isinstance(other.outcome, Scored)
        differences.append(mine.outcome.scores["lenient"] - other.outcome.scores["lenient"])
    (figure,) = gain.figures
    assert figure.n == len(differences) and figure.n_left_out == 12 - len(differences)
    assert figure.difference == pytest.approx(sum(differences) / len(differences))
    low, high = tango_interval(differences.count(1.0), differences.count(-1.0), figure.n)
    assert (figure.tango and (figure.tango.low, figure.tango.high)) == pytest.approx((low, high))


def test_the_draw_is_recorded_after_every_decision_and_before_any_answer(
    finished: tuple[Path, Home, RunReport],
) -> None:
    _, home, report = finished
    found = measured(home, "tiny")
    with home.store.read() as history:
        entries = list(history.entries())
        seeds = {entry.body.seed for entry in entries if entry.kind == "seed"}
    drawn = found[DRAWN]
    assert all(entry.seq < drawn.seq for entry in entries if entry.kind in ("promote", "promoted", "reject", "hold"))
    answers = [e.seq for e in entries if e.kind == "step_started" and e.seq > drawn.seq]
    assert len(answers) == 2 and max(answers) < found[GAIN].seq
    assert drawn.body.figures["seed"] not in seeds, "it is a draw of its own"
    assert Gain.from_figures(found[GAIN].body.figures) == report.gain


def test_resuming_measures_nothing_again(finished: tuple[Path, Home, RunReport]) -> None:
    config, home, report = finished
    before = home.store.head()
    again = run(config, home, resume=True)
    assert again.gain == report.gain and home.store.head() == before


def test_a_measurement_that_was_killed_goes_on_with_its_draw(finished: tuple[Path, Home, RunReport]) -> None:
    config, home, _ = finished
    arguments = new_run(home, config, "killed")

    class Killed(Exception):
        pass

    class KilledSteps(RecordedSteps):
        def run(self, *_: Any, **__: Any) -> Any:
            raise Killed

    with pytest.raises(Killed):
        killed = KilledSteps(home, InProcessBackend(), quiet, actor="tester", run="killed")
        measure_gain(**{**arguments, "steps": killed})
    seed = measured(home, "killed")[DRAWN].body.figures["seed"]
    measure_gain(**arguments, draw=lambda _: pytest.fail("there is a draw already"))
    assert measured(home, "killed")[DRAWN].body.figures["seed"] == seed and GAIN in measured(home, "killed")


def test_items_that_a_decision_used_are_left_out(finished: tuple[Path, Home, RunReport]) -> None:
    config, home, _ = finished
    with home.store.read() as history:
        look = next(iter(history.entries(kind="seed")))
    gain = measure_gain(**new_run(home, config, "used"), draw=lambda _: bytes.fromhex(look.body.seed))
    assert gain.figures == ()
    assert gain.notes == ("lenient of families was not measured: a look had used every item that was drawn",)


def test_lost_evidence_of_a_look_is_said(finished: tuple[Path, Home, RunReport]) -> None:
    config, home, _ = finished
    with home.store.read() as history:
        look = next(iter(history.entries(kind="seed")))
        paths = [home.path / one.body.path / "records.jsonl" for one in history.evidence(look.seq)]
    kept = {path: path.read_bytes() for path in paths}
    try:
        for path in paths:
            path.unlink()
        gain = measure_gain(**new_run(home, config, "lost"))
    finally:
        for path, data in kept.items():
            path.write_bytes(data)
    assert gain.figures and gain.notes == (
        "1 looks left no evidence on families, so what they used could not be left out",
    )


def test_another_policy_does_not_finish_a_measurement(finished: tuple[Path, Home, RunReport], tmp_path: Path) -> None:
    config, home, _ = finished
    arguments = new_run(home, config, "edited")
    policy = arguments["policy"]
    figures = {"root": "r", "champion": "c", "policy": "sha256:other", "seed": "00" * 32, "suites": ["families"]}
    actions.record_measured(home.store, run="edited", name=DRAWN, figures=figures, actor="tester")
    with pytest.raises(StairlockError) as refused:
        measure_gain(**arguments)
    assert (refused.value.rule, refused.value.got) == ("gain.other-policy", policy.digest)


def test_a_champion_that_is_still_the_root_costs_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = with_better_gate(build_tiny_world(tmp_path / "world", tiny_checkpoint, level=0.01))
    config.write_text(config.read_text().replace("cycles: 2", "cycles: 1"))
    home = Home.open(tmp_path / "home")
    report = run(config, home)
    assert report.champion_after == report.root and report.gain is not None
    assert report.gain.figures == ()
    assert report.gain.notes == ("the champion is still the root, so there is no gain to measure",)
    assert set(measured(home, "tiny")) == {GAIN}, "nothing was drawn"
    assert not [title for title, _ in report.costs if title.startswith("gain")]


def test_a_policy_without_superiority_gates_names_no_gain(finished: tuple[Path, Home, RunReport]) -> None:
    config, home, _ = finished
    arguments = new_run(home, config, "unnamed")
    gain = measure_gain(**arguments, suites=["language"])
    assert gain.figures == () and "has no superiority gate of language" in gain.notes[0]


def test_a_suite_of_item_files_has_no_fresh_items(finished: tuple[Path, Home, RunReport]) -> None:
    config, home, _ = finished
    text = (config.parent / "policy.yaml").read_text()
    text = text.replace(
        "suite: families, metric: lenient, claim: superior_by",
        "suite: language, metric: mean_loglik_nats, scale: 1.0, claim: superior_by",
    )
    holdout = config.parent / "holdout.yaml"
    holdout.write_text(
        text.replace(
            "min_items: 12, max_unscored: 0.0}\n      - {id: harmless",
            "min_items: 4, max_unscored: 0.0}\n      - {id: harmless",
        )
        + "holdouts: {language: {reads: 4}}\n"
    )
    arguments = {**new_run(home, config, "holdout"), "policy": resolve_policy(holdout)}
    gain = measure_gain(**arguments)
    assert gain.figures == ()
    assert gain.notes == (
        "mean_loglik_nats of language was not measured: its items come from a file, so that none are fresh",
    )


# What people see

FIGURE = GainFigure(
    gate="lenient-gain",
    suite="families",
    metric="lenient",
    n=238,
    n_left_out=2,
    n_unscored=1,
    difference=0.125,
    betting=Interval(low=0.031, high=0.22),
    tango=Interval(low=0.0622, high=0.188),
)
SAID = Gain(root="sha256:" + "a" * 64, champion="sha256:" + "b" * 64, policy="sha256:" + "c" * 64, figures=(FIGURE,))


def test_a_gain_reads_as_a_sentence() -> None:
    assert gain_lines(SAID) == [
        "lenient of families: +0.1250, 95% interval +0.0310 to +0.2200 (betting), +0.0622 to +0.1880 (Tango), n 238; "
        "2 more were left out, because a decision had used them; 1 without a score, counted against the champion"
    ]


def test_run_report_and_log_show_the_gain(judged: JudgedHome, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run_report(judged, gain=SAID)
    monkeypatch.setattr("loop.run.run_loop", lambda *_, **__: report)
    done = stairlock("run", "demo.yaml", "--home", judged.path)
    assert f"gain        champion {'b' * 12} minus root {'a' * 12}, {ON_FRESH_ITEMS}" in done.out
    assert "  lenient of families: +0.1250, 95% interval +0.0310 to +0.2200 (betting)" in done.out
    assert stairlock("run", "demo.yaml", "--json", "--home", judged.path).json["gain"]["figures"][0]["n"] == 238
    page = render_report(report, now=datetime(2026, 11, 24, tzinfo=UTC))
    assert "+0.1250" in page and "+0.0310 to +0.2200" in page and "that decided nothing" in page
    assert 'id="gain"' not in render_report(run_report(judged), now=datetime(2026, 11, 24, tzinfo=UTC))
    actions.start_run(judged.world.store, run="r", config=SAID.policy, plan={}, actor="a")
    entry = actions.record_measured(judged.world.store, run="r", name=GAIN, figures=SAID.to_figures(), actor="a")
    assert "r, gain: lenient of families: +0.1250, 95% interval +0.0310 to +0.2200 (betting)" in log_line(entry)


def test_a_gain_of_another_version_does_not_stop_the_log(judged: JudgedHome) -> None:
    actions.start_run(judged.world.store, run="r", config=SAID.policy, plan={}, actor="a")
    entry = actions.record_measured(judged.world.store, run="r", name=GAIN, figures={"lenient": 0.5}, actor="a")
    assert "r, gain: lenient 0.5" in log_line(entry)


def test_the_command_measures_once_and_then_shows(
    finished: tuple[Path, Home, RunReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, home, report = finished
    shown = stairlock("gain", "--home", home.path)
    assert shown.code == 0 and "run tiny" in shown.out and "lenient of families" in shown.out
    measure = ("gain", "--policy", config.parent / "policy.yaml", "--device", "cpu", "--quiet", "--home", home.path)
    monkeypatch.setattr("loop.backends.local.LocalBackend", InProcessBackend)
    first = stairlock(*measure, "--json").json
    assert first["champion"] == report.champion_after and first["figures"][0]["metric"] == "lenient"
    head = home.store.head()
    assert stairlock(*measure, "--json").json == first and home.store.head() == head
    with home.store.read() as history:
        named = [e.body.run for e in history.entries(kind="measured") if isinstance(e.body, Measured)]
    assert first["run"] in named


def test_the_command_refuses_what_it_cannot_measure(finished: tuple[Path, Home, RunReport], tmp_path: Path) -> None:
    config, home, _ = finished
    policy = config.parent / "policy.yaml"
    unknown = stairlock("gain", "--policy", policy, "--suite", "poems", "--home", home.path)
    assert unknown.code == 2 and "poems" in unknown.err
    assert stairlock("gain", "--suite", "families", "--home", home.path).code == 2
    Home.open(tmp_path / "empty")
    empty = stairlock("gain", "--policy", policy, "--home", tmp_path / "empty")
    assert empty.code == 1 and "gain.no-champion" in empty.err
    assert "no gain was measured here yet" in stairlock("gain", "--home", tmp_path / "empty").out
