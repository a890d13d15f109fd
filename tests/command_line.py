"""The command line as tests call it, with stand-ins for the modules that train or evaluate."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from guards.roles import Roles
from guards.signing import new_key
from loop.cli import app
from tests.store_world import World


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
