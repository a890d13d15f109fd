"""Commands that we print run when they are pasted."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from loop.invoked_as import command_line, program


@pytest.mark.parametrize(
    ("argv0", "expected"),
    [
        (".venv/bin/stairlock", ".venv/bin/stairlock"),
        ("../tools/stairlock", "../tools/stairlock"),
        ("/here/.venv/bin/stairlock", ".venv/bin/stairlock"),
        ("/elsewhere/bin/stairlock", "/elsewhere/bin/stairlock"),
        ("stairlock", "stairlock"),
        ("/usr/lib/python3/pytest/__main__.py", "stairlock"),
    ],
)
def test_a_command_is_called_as_it_was_called(argv0: str, expected: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda _name: None)
    assert program(argv0, cwd=Path("/here")) == expected


def test_what_the_shell_found_by_itself_needs_no_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("shutil.which", lambda _name: "/here/.venv/bin/stairlock")
    assert program("/here/.venv/bin/stairlock", cwd=Path("/here")) == "stairlock"


def test_a_home_is_quoted_for_the_shell():
    line = command_line("stairlock", "show", "abcd", home=Path("my home; rm x"))
    assert shlex.split(line) == ["stairlock", "show", "abcd", "--home", "my home; rm x"]
