"""What the commands share: their common options, the home they work on, and how they print."""

from __future__ import annotations

import json
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loop.terminal_text import printable

if TYPE_CHECKING:
    from loop.home import Home

DEFAULT_HOME = Path(".stairlock")


@dataclass
class Invocation:
    """What was said before the subcommand, and what the place that catches refusals must know."""

    home: Path | None = None
    as_json: bool = False


def _or_the_global_home(ctx: typer.Context, value: Path | None) -> Path | None:
    invocation = ctx.find_root().obj
    return value if value is not None or not isinstance(invocation, Invocation) else invocation.home


def _remember_json(ctx: typer.Context, value: bool) -> bool:
    invocation = ctx.find_root().obj
    if value and isinstance(invocation, Invocation):
        invocation.as_json = True
    return value


HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        metavar="DIR",
        callback=_or_the_global_home,
        help="Where the ledger, checkpoints and evidence are (default: ./.stairlock).",
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", callback=_remember_json, help="Print JSON, and refusals as JSON too.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it goes into the ledger.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto (CUDA where there is one), cpu, cuda, ...")]
DtypeOption = Annotated[str, typer.Option("--dtype", help="auto (bfloat16), float32, ...")]


def open_home(home: Path | None, *, create: bool = False) -> Home:
    """The home that ``--home`` names, or the default one; only commands that begin something create it.

    Raises:
        LedgerError: ``store.missing`` and the like (:meth:`guards.store.Store.open`).
    """
    from loop.home import Home

    return Home.open(home or DEFAULT_HOME, create=create)


def actor_name() -> str:
    """The login name of the account that runs this process, from the system and not from the environment."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number that has no name
        return f"uid {os.getuid()}"


def say(text: str = "") -> None:
    """Print one line, or several of our own, to stdout."""
    typer.echo(text)


def say_field(name: str, value: object, *, width: int = 11) -> None:
    """Print ``name`` and one line of text that may come from anywhere."""
    typer.echo(f"{name:<{width}} {printable(str(value))}")


def say_json(value: Any) -> None:
    """Print a JSON value. Only ASCII leaves, so that it may be looked at on a terminal, too."""
    typer.echo(json.dumps(value, ensure_ascii=True, allow_nan=False, indent=2))
