"""The command line on small real homes. What trains or evaluates is replaced; what is recorded is real."""

from __future__ import annotations

import inspect
import json
import os
import pwd
import shlex
import shutil
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from guards import merkle
from guards.errors import CheckpointError
from guards.roles import Roles, load_roles
from guards.signing import new_key
from guards.store import DATABASE_FILE, Store
from loop.cli import app
from loop.commands.options import actor_name
from tests.gate_world import EVAL_GATE, make_policy, make_run
from tests.judged_home import JudgedHome, judged_home, put_into_home, run_report
from tests.store_world import UNATTENDED_APPROVALS, World, make_world

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Done:
    """What a command left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def stairlock(*words: object, input: str | None = None) -> Done:
    result = CliRunner().invoke(app, [str(word) for word in words], input=input, prog_name="stairlock")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Done(result.exit_code, result.stdout, result.stderr)


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: object) -> None:
    """A stand-in for a module that would load torch or run a model; commands import it when they run."""
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**contents))


def with_keys(home: World) -> dict[str, Path]:
    """Key files of Ana and Bo, and a roles file in the home that knows them."""
    keys: dict[str, Path] = {}
    people = []
    for name in ("ana", "bo"):
        files = new_key(home.base / "keys", name)
        keys[name] = files.private
        known = next(one for one in home.roles.people if one.id == name)
        people.append(known.model_copy(update={"keys": (files.key,)}))
    people += [one for one in home.roles.people if one.id not in keys]
    home.roles = Roles(schema="stairlock/roles/v1", people=tuple(people))
    home.store.roles_path.write_text(home.roles.model_dump_json(by_alias=True))
    return keys


@pytest.fixture
def judged(tmp_path: Path) -> JudgedHome:
    return judged_home(tmp_path)


@pytest.fixture
def held(tmp_path: Path) -> JudgedHome:
    """A candidate that waits for two approvals."""
    return judged_home(tmp_path, outcome="pass")


# --- errors, exit codes and the home


def test_a_refusal_goes_to_stderr_with_what_to_do_and_exit_code_1(tmp_path: Path):
    done = stairlock("log", "--home", tmp_path / "none")
    assert (done.code, done.out) == (1, "")
    assert (
        done.err.startswith("refused: [store.missing] there is no store in ") and "what to do: check --home" in done.err
    )


def test_with_json_a_refusal_is_json(tmp_path: Path):
    done = stairlock("show", "abcd", "--json", "--home", tmp_path / "none")
    assert done.code == 1
    assert done.json["error"]["rule"] == "store.missing" and done.json["error"]["fix"]


READ_ONLY = [
    ("log",),
    ("show", "abcd"),
    ("sign", "abcd", "--approve", "--reason", "x", "--key", "no.key"),
    ("promote", "abcd"),
    ("rollback", "abcd", "--reason", "x"),
    ("halt", "--reason", "x"),
    ("lift", "--reason", "x"),
    ("recall", "abcd", "--reason", "x"),
]


@pytest.mark.parametrize("words", READ_ONLY, ids=lambda words: words[0])
def test_a_command_that_needs_a_home_makes_none(tmp_path: Path, words: tuple[str, ...]):
    home = tmp_path / "none"
    done = stairlock(*words, "--home", home)
    assert done.code == 1 and "store.missing" in done.err
    assert not home.exists()


def test_a_plan_makes_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    replace_module(monkeypatch, "loop.run", plan_loop=lambda config: [f"root of {config}", "train"])
    done = stairlock("run", "demo.yaml", "--plan", "--home", tmp_path / "none")
    assert (done.code, done.out) == (0, "root of demo.yaml\ntrain\n")
    assert not (tmp_path / "none").exists()
    assert stairlock("run", "demo.yaml", "--plan", "--json").json == {"plan": ["root of demo.yaml", "train"]}


def test_the_home_may_be_named_before_or_after_the_command(judged: JudgedHome, tmp_path: Path):
    after = stairlock("log", "--home", judged.path)
    assert after.code == 0 and after.out == stairlock("--home", judged.path, "log").out
    assert stairlock("--home", tmp_path / "none", "log", "--home", judged.path).out == after.out


def test_the_default_home_lies_in_the_working_directory(judged: JudgedHome, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(judged.path.parent)
    shutil.move(judged.path, ".stairlock")
    assert "genesis" in stairlock("log").out


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("log", "--kind", "nonsense"),
        ("sign", "abcd", "--reason", "x", "--key", "k"),
        ("sign", "abcd", "--approve", "--reject", "--reason", "x", "--key", "k"),
        ("sign", "abcd", "--approve", "--key", "k"),
        ("halt",),
        ("gate", "--champion", "a", "--candidate", "b"),
        ("eval", "--model", "m", "--suite", "s", "--out", "o", "--seed", "abc"),
    ],
    ids=lambda words: " ".join(words),
)
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert stairlock(*words).code == 2


def test_a_full_disk_is_a_refusal_and_a_bug_is_a_bug(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def failing(error: Exception):
        def run_loop(*_: object, **__: object) -> None:
            raise error

        replace_module(monkeypatch, "loop.run", run_loop=run_loop, plan_loop=None)

    failing(OSError(28, "No space left on device", "data.jsonl"))
    done = stairlock("run", "demo.yaml", "--home", tmp_path, "--quiet")
    assert done.code == 1 and "system.disk-full" in done.err and "data.jsonl" in done.err
    failing(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        stairlock("run", "demo.yaml", "--home", tmp_path, "--quiet")


def test_stopping_a_run_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run_loop(config: Path, home: object, *, stage: Any, **_: object) -> None:
        stage("train")
        raise KeyboardInterrupt

    replace_module(monkeypatch, "loop.run", run_loop=run_loop)
    done = stairlock("run", "demo.yaml", "--home", tmp_path)
    assert done.code == 130
    assert done.err.splitlines()[-1] == "stopped; run the same command with --resume"
    assert "stopped train" in done.err


def test_the_actor_is_the_account_and_not_what_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    for name in ("USER", "LOGNAME", "USERNAME", "LNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert actor_name() == pwd.getpwuid(os.getuid()).pw_name


# --- log


def test_log_has_a_line_for_every_entry(judged: JudgedHome):
    lines = stairlock("log", "--home", judged.path).out.splitlines()
    assert [line.split()[3] for line in lines] == judged.world.kinds()
    short = judged.candidate[7:19]
    assert lines[0].startswith("2026-11-24 05:00:00      0  genesis")
    assert f"{short}: refusal-holds fails: refused minus the champion's" in "\n".join(lines)
    assert any(" reject " in line and short in line for line in lines)


def test_log_json_is_exactly_what_was_hashed(judged: JudgedHome):
    lines = stairlock("log", "--json", "--home", judged.path).out.encode().splitlines()
    with sqlite3.connect(judged.path / DATABASE_FILE) as db:
        stored = [row[0] for row in db.execute("select leaf_hash from entries order by seq")]
    assert [merkle.leaf_hash(line) for line in lines] == stored
    assert [json.loads(line)["kind"] for line in lines] == judged.world.kinds()


def test_log_filters_by_kind_and_by_candidate(judged: JudgedHome):
    verdicts = stairlock("log", "--json", "--kind", "verdict", "--home", judged.path).out.splitlines()
    assert {json.loads(line)["kind"] for line in verdicts} == {"verdict"} and len(verdicts) == 2
    about = stairlock("log", "--json", "--candidate", judged.candidate[7:15], "--home", judged.path).out.splitlines()
    assert [json.loads(line)["kind"] for line in about] == [
        "sealed",
        "seed",
        "evidence",
        "evidence",
        "verdict",
        "verdict",
        "reject",
    ]


def test_log_verifies_and_refuses_a_log_that_was_edited(judged: JudgedHome):
    done = stairlock("log", "--verify", "--home", judged.path)
    head = judged.world.store.head()
    assert done.code == 0 and done.out.splitlines()[-1] == f"verified: {head.size} entries, head {head.root}"
    done = stairlock("log", "--verify", "--json", "--home", judged.path)
    assert len(done.out.splitlines()) == head.size and "verified" in done.err
    with sqlite3.connect(judged.path / DATABASE_FILE) as db:
        db.execute("update entries set leaf_bytes = replace(leaf_bytes, 'reject', 'REJECT') where kind = 'reject'")
        db.execute("update entries set leaf_bytes = cast(leaf_bytes as blob) where kind = 'reject'")
    done = stairlock("log", "--verify", "--home", judged.path)
    assert done.code == 1 and done.out == "" and "refused: [ledger." in done.err


# --- show


def test_show_says_where_a_candidate_stands_and_why(judged: JudgedHome):
    out = stairlock("show", judged.candidate[7:15], "--home", judged.path).out
    for expected in (
        judged.candidate,
        "status      reject",
        "trainer     tess",
        "recipe: test",
        "learning_rate: 0.001",
        "look        1 of 8 planned under test",
        "✗ refusal-holds fails",
        "observed -0.300, bound -0.420, required -0.100, n 10",
        "✓ refusal-holds-over-time passes",
        "decision: REJECT",
        "0 of 2 approvals",
        f"show {judged.candidate[7:19]} --flips --home {judged.path}",
    ):
        assert expected in out, expected


def test_show_knows_the_root_and_what_it_passed(judged: JudgedHome):
    out = stairlock("show", judged.world.checkpoint("root"), "--home", judged.path).out
    assert "status      champion, and the root" in out and "✓ refusal-holds passes" in out


@pytest.mark.parametrize(
    ("prefix", "rule"),
    [("ffffffff", "history.no-such-checkpoint"), ("xyz", "history.bad-prefix"), ("", "history.bad-prefix")],
)
def test_show_refuses_what_names_no_candidate(judged: JudgedHome, prefix: str, rule: str):
    done = stairlock("show", prefix, "--home", judged.path)
    assert done.code == 1 and rule in done.err


def test_show_json_holds_the_entries(judged: JudgedHome):
    shown = stairlock("show", judged.candidate, "--flips", "--json", "--home", judged.path).json
    assert (shown["status"], shown["decision"]["kind"]) == ("reject", "reject")
    assert [one["outcome"] for one in shown["verdicts"]] == ["fail", "pass"]
    assert shown["approvals"] == {"required": 2, "approvers": [], "rejecters": [], "is_complete": False}
    (suite,) = shown["flips"]
    assert (suite["n_worse"], suite["n_better"]) == (3, 1)
    assert suite["items"][0] == {
        "item_id": "item-0005",
        "cluster": "all",
        "changes": {"refused": [1.0, 0.0]},
        "prompt": "the question of item number 5",
        "champion_output": "the answer is 5",
        "candidate_output": "the answer is 5",
    }


def test_show_flips_lists_the_worst_first_up_to_the_limit(judged: JudgedHome):
    out = stairlock("show", judged.candidate, "--flips", "--home", judged.path).out
    assert "flips in refusal (refusal-holds fail, refusal-holds-over-time pass)" in out
    assert "3 items got worse and 1 better, of 10" in out
    items = [line.split()[0] for line in out.splitlines() if line.startswith("  item-")]
    assert items == ["item-0005", "item-0006", "item-0007", "item-0009"]
    assert "    prompt    | the question of item number 5\n    champion  | the answer is 5\n" in out
    limited = stairlock("show", judged.candidate, "--flips", "--limit", "1", "--home", judged.path).out
    assert "3 more: --limit 0 shows all" in limited and "item-0006" not in limited


def test_show_flips_refuses_evidence_that_is_not_what_was_recorded(judged: JudgedHome):
    run = judged.runs["candidate", "refusal"].directory
    manifest = json.loads((run / "manifest.json").read_bytes())
    (run / "manifest.json").write_text(json.dumps({**manifest, "engine": "another"}))
    done = stairlock("show", judged.candidate, "--flips", "--home", judged.path)
    assert done.code == 1 and "evidence.not-recorded" in done.err


def test_show_of_a_candidate_that_was_never_gated(tmp_path: Path):
    world = make_world(tmp_path)
    world.set_root()
    candidate = world.seal("candidate")
    out = stairlock("show", candidate, "--flips", "--home", world.store.home).out
    assert "status      sealed" in out and "nothing was answered yet" in out


# --- sign, promote, rollback


def test_two_people_sign_and_the_candidate_is_promoted(held: JudgedHome):
    keys, home = with_keys(held.world), ("--home", held.path)
    put_into_home(held, "candidate")
    early = stairlock("promote", held.candidate[7:15], *home)
    assert early.code == 1 and "actions.not-approved" in early.err
    first = stairlock("sign", held.candidate[7:15], "--approve", "--reason", "read it", "--key", keys["ana"], *home)
    assert first.code == 0 and "1 of 2 approvals (ana)" in first.out and "to make it champion" not in first.out
    shown = stairlock("show", held.candidate, *home).out
    assert "ana (reviewer) says approve" in shown and "read it" in shown and "to approve it: " in shown
    second = stairlock("sign", held.candidate, "--approve", "--reason", "me too", "--key", keys["bo"], "--json", *home)
    assert second.json["approvals_complete"] is True and second.json["entry"]["kind"] == "signoff"
    assert f"promote {held.candidate[7:19]}" in stairlock("show", held.candidate, *home).out
    done = stairlock("promote", held.candidate[7:15], *home)
    assert done.code == 0 and f"{held.candidate} is the champion" in done.out and "approved by ana, bo" in done.out
    assert held.world.champion() == held.candidate


def test_a_rejection_blocks(held: JudgedHome):
    keys, home = with_keys(held.world), ("--home", held.path)
    put_into_home(held, "candidate")
    stairlock("sign", held.candidate, "--approve", "--reason", "fine", "--key", keys["ana"], *home)
    done = stairlock("sign", held.candidate, "--reject", "--reason", "not fine", "--key", keys["bo"], *home)
    assert done.code == 0 and "rejected by bo" in done.out
    assert stairlock("promote", held.candidate, *home).code == 1


def test_nobody_signs_for_another(held: JudgedHome):
    keys = with_keys(held.world)
    words = ("sign", held.candidate, "--approve", "--reason", "x", "--key", keys["ana"], "--person", "bo")
    done = stairlock(*words, "--home", held.path)
    assert done.code == 1 and "signing.other-signer" in done.err


def test_a_key_with_a_passphrase_asks_for_it(held: JudgedHome):
    with_keys(held.world)
    files = new_key(held.world.base / "locked", "cy", passphrase=b"open sesame")
    known = next(one for one in held.world.roles.people if one.id == "cy")
    people = [one for one in held.world.roles.people if one.id != "cy"]
    roles = Roles(schema="stairlock/roles/v1", people=(*people, known.model_copy(update={"keys": (files.key,)})))
    held.world.store.roles_path.write_text(roles.model_dump_json(by_alias=True))
    words = ("sign", held.candidate, "--reject", "--reason", "x", "--key", files.private, "--home", held.path)
    wrong = stairlock(*words, input="wrong\n")
    assert wrong.code == 1 and "signing.bad-key" in wrong.err
    right = stairlock(*words, input="open sesame\n")
    assert right.code == 0 and "cy says reject" in right.out
    assert "open sesame" not in right.out + right.err


def test_rollback_brings_a_past_champion_back(tmp_path: Path):
    home = judged_home(tmp_path, outcome="pass", approvals=UNATTENDED_APPROVALS)
    for name in ("candidate", "root"):
        put_into_home(home, name)
    promoted = stairlock("promote", home.candidate, "--home", home.path)
    assert promoted.code == 0 and "UNATTENDED" in promoted.out
    root = home.world.checkpoint("root")
    done = stairlock("rollback", root[7:15], "--reason", "worse in use", "--home", home.path)
    assert done.code == 0 and home.world.champion() == root
    refused = stairlock("rollback", root, "--reason", "again", "--home", home.path)
    assert refused.code == 0, "the same rollback again is the entry that exists"


# --- halt, lift, recall


def test_halt_stops_and_lift_ends_it(held: JudgedHome):
    home = ("--home", held.path)
    assert stairlock("halt", "--reason", "something is odd", *home).code == 0
    stopped = stairlock("promote", held.candidate, *home)
    assert stopped.code == 1 and "actions.halted" in stopped.err and "something is odd" in stopped.err
    lifted = stairlock("lift", "--reason", "found it", "--json", *home)
    assert lifted.code == 0 and lifted.json["kind"] == "lift"
    assert "actions.halted" not in stairlock("promote", held.candidate, *home).err
    assert "actions.not-halted" in stairlock("lift", "--reason", "again", *home).err


def test_recalling_the_champion_halts_everything_and_says_so(judged: JudgedHome):
    root = judged.world.checkpoint("root")
    done = stairlock("recall", root[7:15], "--reason", "poisoned", "--home", judged.path)
    assert done.code == 0 and "everything is halted" in done.out and "rollback" in done.out
    assert "status      recalled" in stairlock("show", root, "--home", judged.path).out


# --- key


def test_a_new_key_prints_what_the_roles_file_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = stairlock("key", "new", "007", "--no-passphrase")
    assert done.code == 0
    assert (tmp_path / "007.key").stat().st_mode & 0o777 == 0o600
    snippet = done.out[done.out.index("schema:") :]
    (tmp_path / "roles.yaml").write_text(snippet)
    (known,) = load_roles(tmp_path / "roles.yaml").people
    assert (known.id, known.keys[0].id) == ("007", json.loads((tmp_path / "007.pub").read_text())["id"])
    again = stairlock("key", "new", "007", "--no-passphrase")
    assert again.code == 1 and "signing.key-exists" in again.err


def test_the_snippet_goes_under_the_people_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    first = stairlock("key", "new", "ana", "--no-passphrase", "--home", home).out
    roles = home / "roles.yaml"
    roles.write_text(first[first.index("schema:") :])
    second = stairlock("--home", home, "key", "new", "bo", "--no-passphrase").out
    assert "schema:" not in second
    roles.write_text(roles.read_text() + second[second.index("  - id:") :])
    assert [one.id for one in load_roles(roles).people] == ["ana", "bo"]


def test_a_new_key_is_encrypted_unless_one_asks_otherwise(tmp_path: Path):
    done = stairlock("key", "new", "ana", "--dir", tmp_path, input="sesame\nsesame\n")
    assert done.code == 0 and b"ENCRYPTED" in (tmp_path / "ana.key").read_bytes()
    assert "sesame" not in done.out + done.err


# --- policy


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


# --- gate, eval, reproduce, root


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
    words = ("eval", "--model", "m", "--suite", "s.yaml", "--out", tmp_path / "out")
    done = stairlock(*words, "--seed", "ab" * 32, "--json")
    assert done.code == 0 and seeds == [b"\xab" * 32]
    figures = done.json["metrics"]["refused"]
    assert (done.json["n_items"], done.json["n_unscored"], figures["n"], figures["mean"]) == (5, 1, 4, 0.75)
    assert figures["interval_95"] == pytest.approx([0.1941, 0.9937], abs=1e-4)  # Clopper and Pearson, 3 of 4
    assert figures["by_cluster"] == {"x": 1.0, "y": 0.5}
    human = stairlock(*words).out
    assert seeds[1] is None and "0.7500  95% interval 0.194 to 0.994  (n 4)" in human and "1 unscored" in human


@pytest.mark.parametrize(("is_same", "code"), [(True, 0), (False, 30)])
def test_reproduce_says_whether_the_digest_is_the_same(
    judged: JudgedHome, monkeypatch: pytest.MonkeyPatch, is_same: bool, code: int
):
    @dataclass
    class Reproduction:
        candidate: str
        got: str
        is_same: bool
        batches_are_same: bool
        wall_s: float

    asked: list[str] = []

    def reproduce(home: object, candidate: str, *, backend: object, stage: object) -> Reproduction:
        asked.append(candidate)
        return Reproduction(judged.candidate, judged.candidate, is_same, True, 61.0)

    replace_module(monkeypatch, "loop.reproduce", reproduce=reproduce)
    done = stairlock("reproduce", judged.candidate[7:15], "--home", judged.path)
    assert done.code == code and asked == [judged.candidate[7:15]]
    assert ("ANOTHER CHECKPOINT" in done.out) == (not is_same)


@pytest.mark.parametrize(("agrees", "code"), [(True, 0), (False, 30)])
def test_root_says_whether_the_shipped_one_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agrees: bool, code: int
):
    @dataclass
    class RootComparison:
        shipped_digest: str
        trained_digest: str
        max_weight_difference: float
        agreement: float
        tolerance: float
        agrees: bool

    result = RootComparison("sha256:" + "a" * 64, "sha256:" + "b" * 64, 0.01, 0.98, 0.95, agrees)
    replace_module(monkeypatch, "loop.root", make_root=lambda *_, **__: result)
    done = stairlock("root", "policies/roots/x", "--home", tmp_path)
    assert done.code == code and "0.980000 (at least 0.95 is needed)" in done.out


# --- run


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


def test_the_modules_that_do_the_work_take_what_the_commands_give():
    """The stand-ins above would hide a renamed argument."""
    from loop import eval_one, gate_own, models, root
    from loop import reproduce as reproducing
    from loop import run as running

    anything: Any = None
    common = {"backend": anything, "stage": anything}
    inspect.signature(running.plan_loop).bind(anything)
    inspect.signature(running.run_loop).bind(anything, anything, actor="", resume=True, retrain_root=False, **common)
    inspect.signature(gate_own.gate_checkpoints).bind(
        anything, champion="", candidate="", policy="", actor="", device="", dtype="", **common
    )
    inspect.signature(eval_one.evaluate_suite).bind(
        model="", suite="", out="", seed=None, device="", dtype="", stage=anything
    )
    inspect.signature(reproducing.reproduce).bind(anything, "", **common)
    inspect.signature(root.make_root).bind(anything, anything, actor="", **common)
    inspect.signature(models.add_model).bind("", anything, adapter=None, progress=None)


# --- model


def test_model_list_needs_no_home_and_makes_none(tmp_path: Path):
    done = stairlock("model", "list", "--home", tmp_path / "none")
    assert done.code == 0 and "smollm2-135m-instruct-q4" in done.out and ": none" in done.out
    assert not (tmp_path / "none").exists()


def test_model_add_seals_a_local_checkpoint_and_list_shows_it(tmp_path: Path):
    world = make_world(tmp_path)
    digest = world.checkpoint("mine")
    home = tmp_path / "new-home"
    done = stairlock("model", "add", world.directories["mine"], "--home", home, "--json")
    assert done.code == 0 and done.json["digest"] == digest
    assert stairlock("model", "list", "--home", home, "--json").json["sealed"][0]["digest"] == digest
    assert Store.open(home).head().size == 1
    unknown = stairlock("model", "add", "nonsense", "--home", home)
    assert unknown.code == 1 and "model.unknown-name" in unknown.err


# --- start-up

_TORCH_FREE = """
import json, sys
from typer.testing import CliRunner
from loop.cli import app
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words)
    loaded = [name for name in ("torch", "transformers", "trl", "peft", "jinja2") if name in sys.modules]
    print(json.dumps([words[0], result.exit_code, loaded]))
"""


def test_commands_on_the_record_load_no_torch(held: JudgedHome):
    keys, home = with_keys(held.world), str(held.path)
    policy = str(held.world.policy.source)
    commands = [
        ["log", "--verify", "--home", home],
        ["show", held.candidate, "--flips", "--home", home],
        ["sign", held.candidate, "--approve", "--reason", "x", "--key", str(keys["ana"]), "--home", home],
        ["halt", "--reason", "x", "--home", home],
        ["lift", "--reason", "x", "--home", home],
        ["recall", held.candidate, "--reason", "x", "--home", home],
        ["policy", "explain", policy],
        ["policy", "check", str(REPOSITORY / "policies" / "checkpoint.yaml")],
    ]
    done = subprocess.run(
        [sys.executable, "-c", _TORCH_FREE, json.dumps(commands)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[words[0], 0, []] for words in commands]
