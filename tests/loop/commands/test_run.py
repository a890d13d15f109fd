"""``stairlock run``: what it plans, what it prints at its end, and how it is gone on with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import replace_module, stairlock
from tests.judged_home import JudgedHome, run_report


def test_a_plan_makes_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace_module(monkeypatch, "loop.run", plan_loop=lambda config: [f"root of {config}", "train"])
    done = stairlock("run", "demo.yaml", "--plan", "--home", tmp_path / "none")
    assert (done.code, done.out) == (0, "root of demo.yaml\ntrain\n")
    assert not (tmp_path / "none").exists()
    assert stairlock("run", "demo.yaml", "--plan", "--json").json == {"plan": ["root of demo.yaml", "train"]}


def test_stopping_a_run_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run_loop(config: Path, home: object, *, stage: Any, **_: object) -> None:
        stage("train")
        raise KeyboardInterrupt

    replace_module(monkeypatch, "loop.run", run_loop=run_loop)
    done = stairlock("run", "demo.yaml", "--home", tmp_path)
    assert done.code == 130
    assert done.err.splitlines()[-1] == "stopped; run the same command with --resume"
    assert "stopped train" in done.err


@pytest.fixture
def finished_run(judged: JudgedHome, monkeypatch: pytest.MonkeyPatch) -> JudgedHome:
    report = run_report(judged)
    calls: list[dict[str, Any]] = []

    def run_loop(config: Path, home: object, **arguments: Any):
        calls.append({"config": config, **arguments})
        return report

    monkeypatch.setattr("loop.run.run_loop", run_loop)
    judged.calls = calls  # type: ignore[attr-defined]
    return judged


def test_a_run_ends_with_table_reasons_report_and_next_commands(finished_run: JudgedHome):
    home = finished_run
    done = stairlock("run", "demo.yaml", "--resume", "--home", home.path)
    assert done.code == 0
    for expected in (
        "format-only",
        "REJECT",
        "improve",
        "PROMOTE",
        "✗ fail",
        "-0.420",
        "312 s",
        "45,120 trained",
        "88,000 generated",
        "refusal-holds fails: refused minus",
        "SANDBOX: under the policy sandbox NO PERSON had to approve",
        "took        11 min 40 s, 90% of it in the models",
    ):
        assert expected in done.out, expected
    (call,) = home.calls  # type: ignore[attr-defined]
    assert (call["config"], call["resume"], call["retrain_root"]) == (Path("demo.yaml"), True, False)
    assert (home.path / "reports" / "demo.html").is_file()


def test_the_next_commands_of_a_run_are_real(finished_run: JudgedHome, monkeypatch: pytest.MonkeyPatch):
    home = finished_run
    out = stairlock("run", "demo.yaml", "--home", home.path).out
    commands = [shlex.split(line) for line in out[out.index("next:") :].splitlines()[1:]]
    assert [words[:2] for words in commands] == [
        ["stairlock", "show"],
        ["stairlock", "log"],
        ["stairlock", "reproduce"],
    ]
    assert commands[0][2:4] == [home.candidate[7:19], "--flips"]
    for words in commands[:2]:
        assert stairlock(*words[1:]).code == 0


def test_a_run_prints_json_and_nothing_else(finished_run: JudgedHome):
    done = stairlock("run", "demo.yaml", "--json", "--home", finished_run.path)
    assert done.code == 0 and done.err == ""
    assert [one["decision"] for one in done.json["candidates"]] == ["promote", "reject"]
    assert Path(done.json["report"]).is_file()
