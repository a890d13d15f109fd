"""``stairlock gate``, ``abandon`` and ``eval``: exit codes, JUnit, intervals."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from guards import actions
from guards.errors import CheckpointError
from tests.command_line import replace_module, stairlock
from tests.gate_world import EVAL_GATE, make_policy, make_run
from tests.judged_home import judged_home
from tests.store_world import UNATTENDED_APPROVALS, World, make_checkpoint, make_world


@pytest.fixture
def fake_gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``gate_checkpoints`` replaced by a real decision on made-up verdicts; returns what it was called with."""
    calls: list[dict[str, Any]] = []

    def install(outcome: str) -> list[dict[str, Any]]:
        judged = judged_home(tmp_path / "world", outcome=outcome, approvals=UNATTENDED_APPROVALS)

        def gate_checkpoints(home: Any, **arguments: Any) -> tuple[str, str, Any]:
            calls.append(arguments)
            arguments["stage"]("evaluate the candidate")("answering", 1, 2)
            result = SimpleNamespace(
                draw=judged.world.draw(judged.candidate, run="x") if outcome == "pass" else SimpleNamespace(look=1),
                verdicts=judged.verdicts,
                decision=judged.decision,
                runs=judged.runs,
            )
            return judged.candidate, judged.world.checkpoint("root"), result

        replace_module(monkeypatch, "loop.gate_own", gate_checkpoints=gate_checkpoints)
        return calls

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    return install


SUITES = Path(__file__).resolve().parents[3] / "policies" / "suites"
GATE = ("gate", "--champion", "a", "--candidate", "b", "--policy", "p.yaml")


@pytest.mark.parametrize(("outcome", "code"), [("pass", 0), ("fail", 10), ("inconclusive", 20)])
def test_the_exit_code_of_gate_is_the_decision(fake_gate: Any, outcome: str, code: int, tmp_path: Path):
    calls = fake_gate(outcome)
    done = stairlock(*GATE, "--junit", "out.xml")
    assert done.code == code and f"(exit code {code})" in done.out
    (call,) = calls
    assert (call["champion"], call["candidate"], call["policy"]) == (Path("a"), Path("b"), Path("p.yaml"))
    suite = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert (suite.get("failures"), suite.get("errors")) == {0: ("0", "0"), 10: ("2", "0"), 20: ("0", "2")}[code]
    assert "begin   evaluate the candidate" in done.err


def test_gate_json_has_verdicts_and_decision_and_no_progress(fake_gate: Any):
    fake_gate("fail")
    done = stairlock(*GATE, "--json")
    assert done.code == 10 and done.err == ""
    assert done.json["decision"] == "reject" and done.json["verdicts"][0]["outcome"] == "fail"
    assert "policy line 12" in done.json["verdicts"][0]["explanation"]


def test_a_gate_run_that_is_refused_leaves_no_older_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "out.xml").write_text("<testsuite tests='1' failures='0' errors='0'/>")

    def gate_checkpoints(*_: object, **__: object) -> None:
        raise CheckpointError("manifest.pickle", "a pickle", got="weights.bin")

    replace_module(monkeypatch, "loop.gate_own", gate_checkpoints=gate_checkpoints)
    done = stairlock(*GATE, "--junit", "out.xml")
    assert done.code == 1 and "manifest.pickle" in done.err
    assert ElementTree.parse(tmp_path / "out.xml").getroot().get("errors") == "1"


def test_a_gate_run_that_breaks_leaves_no_older_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "out.xml").write_text("<testsuite tests='1' failures='0' errors='0'/>")

    def gate_checkpoints(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    replace_module(monkeypatch, "loop.gate_own", gate_checkpoints=gate_checkpoints)
    with pytest.raises(RuntimeError):
        stairlock(*GATE, "--junit", "out.xml")
    assert not (tmp_path / "out.xml").exists()


def test_a_junit_file_that_could_not_be_written_is_refused_before_the_gate_runs(fake_gate: Any):
    calls = fake_gate("pass")
    assert stairlock(*GATE, "--junit", "no/such/directory/out.xml").code == 2
    assert calls == []


def test_a_junit_path_that_is_a_directory_is_refused_before_the_gate_runs(fake_gate: Any, tmp_path: Path):
    calls = fake_gate("pass")
    done = stairlock(*GATE, "--junit", tmp_path)
    assert done.code == 2 and "directory" in done.err and calls == []


def test_a_home_that_is_a_file_is_a_refusal(fake_gate: Any, tmp_path: Path):
    calls = fake_gate("pass")
    (tmp_path / "file").write_text("")
    done = stairlock(*GATE, "--home", tmp_path / "file")
    assert done.code == 1 and "system.wrong-path" in done.err and calls == []


def test_gate_takes_the_digest_of_a_sealed_checkpoint(fake_gate: Any, tmp_path: Path):
    calls = fake_gate("fail")
    home = judged_home(tmp_path / "other")
    words = ("gate", "--champion", home.world.checkpoint("root")[7:15], "--candidate", "b", "--policy", "p.yaml")
    assert stairlock(*words, "--home", home.path, "--quiet").code == 10
    assert calls[0]["champion"] == home.path / "checkpoints" / home.world.checkpoint("root")[7:23]
    unknown = stairlock("gate", "--champion", "nowhere", "--candidate", "b", "--policy", "p.yaml", "--home", home.path)
    assert unknown.code == 1 and "gate.no-checkpoint" in unknown.err


def test_eval_shows_means_with_exact_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seeds: list[bytes | None] = []

    def evaluate_suite(*, seed: bytes | None, **_: object):
        seeds.append(seed)
        policy = make_policy(tmp_path / "policy", EVAL_GATE)
        clusters = ["x", "x", "y", "y", "y"]
        return make_run(tmp_path / f"run{len(seeds)}", policy, "candidate", [1, 1, 0, None, 1], clusters=clusters)

    replace_module(monkeypatch, "loop.eval_one", evaluate_suite=evaluate_suite)
    monkeypatch.chdir(tmp_path)  # where there is no home
    words = ("eval", "--model", "m", "--suite", "s.yaml", "--out", tmp_path / "out")
    done = stairlock(*words, "--seed", "ab" * 32, "--json")
    assert done.code == 0 and seeds == [b"\xab" * 32]
    figures = done.json["metrics"]["refused"]
    assert (done.json["n_items"], done.json["n_unscored"], figures["n"], figures["mean"]) == (5, 1, 4, 0.75)
    assert figures["interval_95"] == pytest.approx([0.1941, 0.9937], abs=1e-4)  # Clopper and Pearson, 3 of 4
    assert figures["by_cluster"] == {"x": 1.0, "y": 0.5}
    human = stairlock(*words).out
    assert seeds[1] is None and "0.7500  95% interval 0.194 to 0.994  (n 4)" in human and "1 unscored" in human


def test_eval_refuses_the_items_that_a_policy_of_the_home_holds_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[Path] = []

    def evaluate_suite(*, suite: Path, **_: object):
        asked.append(suite)
        return make_run(tmp_path / f"run{len(asked)}", policy, "candidate", [1, 0])

    policy = make_policy(tmp_path / "policy", EVAL_GATE, holdouts={"refusal": {"reads": 3}})
    world = make_world(tmp_path / "world")
    monkeypatch.setattr("loop.eval_one.evaluate_suite", evaluate_suite)
    held, other = tmp_path / "policy" / "refusal.yaml", tmp_path / "policy" / "tasks.yaml"

    def evaluated(suite: Path) -> Any:
        return stairlock(
            "eval", "--model", "m", "--suite", suite, "--out", tmp_path / "out", "--home", world.store.home, "--json"
        )

    assert evaluated(held).code == 0
    actions.record_policy(world.store, policy=policy, actor="sam")
    held.write_text("name: mine\nitems: {file: refusal.jsonl}\n")  # the same items under another suite
    refusal = evaluated(held)
    assert refusal.code == 1 and "eval.holdout" in refusal.err + refusal.out
    assert evaluated(other).code == 0
    assert asked == [held, other]


def test_a_look_is_given_up_once_and_with_a_reason(sandbox: World):
    candidate, home = sandbox.seal("one"), ("--home", sandbox.store.home)
    words = ("abandon", candidate[7:19], "--reason", "the engine was updated", *home)
    draw = sandbox.draw(candidate)
    early = stairlock(*words)
    assert early.code == 0 and "no evidence yet" in early.out and sandbox.draw(candidate) == draw
    sandbox.record_evidence(draw, "candidate", sandbox.run_directory(draw, "candidate", candidate))
    done = stairlock(*words)
    assert done.code == 0 and f"look 2, in place of that of entry {draw.look_seq}" in done.out
    assert "the engine was updated" in stairlock("log", "--kind", "seed", *home).out
    assert stairlock(*words, "--json").json["body"]["abandons"]["look_seq"] == draw.look_seq
    assert sandbox.draw(candidate).look == 2


def test_eval_into_a_file_is_a_refusal(tmp_path: Path):
    checkpoint = make_checkpoint(tmp_path / "model", 1)
    (tmp_path / "file").write_text("")
    done = stairlock(
        "eval", "--model", checkpoint, "--suite", SUITES / "language.yaml", "--out", tmp_path / "file" / "x"
    )
    assert done.code == 1 and "system.wrong-path" in done.err


def test_eval_of_a_model_that_cannot_be_asked_is_refused_before_anything_is_written(tmp_path: Path):
    checkpoint = make_checkpoint(tmp_path / "model", 1)
    done = stairlock("eval", "--model", checkpoint, "--suite", SUITES / "refusal.yaml", "--out", tmp_path / "out")
    assert done.code == 1 and "engine.no-chat-template" in done.err and "chat_template.jinja" in done.err
    assert not (tmp_path / "out").exists()
