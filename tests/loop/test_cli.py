"""What all commands share: errors, exit codes, the home, the actor, and what is loaded at start-up."""

from __future__ import annotations

import errno
import inspect
import json
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loop.commands.options import actor_name
from tests.command_line import replace_module, stairlock, with_keys
from tests.judged_home import JudgedHome

REPOSITORY = Path(__file__).resolve().parents[2]


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
    ("abandon", "abcd", "--reason", "x"),
]


@pytest.mark.parametrize("words", READ_ONLY, ids=lambda words: words[0])
def test_a_command_that_needs_a_home_makes_none(tmp_path: Path, words: tuple[str, ...]):
    home = tmp_path / "none"
    done = stairlock(*words, "--home", home)
    assert done.code == 1 and "store.missing" in done.err
    assert not home.exists()


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


@pytest.mark.parametrize("number", [errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT])
def test_a_path_that_leads_nowhere_is_a_refusal(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run_loop(*_: object, **__: object) -> None:
        raise OSError(number, "it is not so", "some/path")

    replace_module(monkeypatch, "loop.run", run_loop=run_loop, plan_loop=None)
    done = stairlock("run", "demo.yaml", "--home", tmp_path, "--quiet")
    assert done.code == 1 and "system.wrong-path" in done.err and "some/path" in done.err and "it is not so" in done.err


def test_the_actor_is_the_account_and_not_what_the_environment_says(monkeypatch: pytest.MonkeyPatch):
    for name in ("USER", "LOGNAME", "USERNAME", "LNAME"):
        monkeypatch.setenv(name, "somebody-else")
    assert actor_name() == pwd.getpwuid(os.getuid()).pw_name


def test_the_modules_that_do_the_work_take_what_the_commands_give():
    """The stand-ins, here and in tests/loop/commands, would hide a renamed argument."""
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
