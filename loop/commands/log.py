"""``stairlock log``: what was recorded, in order."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from guards.canonical import canonical_bytes
from guards.entries import BODIES
from loop.commands.options import HomeOption, JsonOption, open_home
from loop.log_lines import log_line


def log(
    home: HomeOption = None,
    as_json: JsonOption = False,
    kind: Annotated[str | None, typer.Option("--kind", metavar="KIND", help="Only entries of this kind.")] = None,
    candidate: Annotated[
        str | None,
        typer.Option("--candidate", metavar="DIGEST", help="Only entries about this checkpoint (a prefix is enough)."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="First hash the whole log again; refuse to show one that was edited.")
    ] = False,
) -> None:
    """List the entries of the ledger.

    With --json, one entry a line, exactly the bytes that were hashed (on a terminal, what is not
    ASCII is escaped: the same JSON in other bytes). --verify finds what was edited,
    dropped, reordered or made up; that the end was cut off shows only against a head kept elsewhere.
    """
    if kind is not None and kind not in BODIES:
        raise typer.BadParameter(
            f"no entry is of kind {kind!r}; the kinds are {', '.join(BODIES)}", param_hint="--kind"
        )
    opened = open_home(home)
    head = opened.store.verify() if verify else None
    with opened.store.read() as history:
        about = None if candidate is None else history.find_checkpoint(candidate)
        for entry in history.entries(kind=kind, candidate=about):
            typer.echo(_json_line(entry.as_json()) if as_json else log_line(entry))
    if head is not None:
        typer.echo(f"verified: {head.size} entries, head {head.root}", err=as_json)


def _json_line(entry: dict[str, Any]) -> bytes | str:
    """The entry as it was hashed. Bytes, so that no stream recodes them; a person's terminal gets them escaped."""
    line = canonical_bytes(entry)
    if not sys.stdout.isatty():
        return line
    return json.dumps(json.loads(line), ensure_ascii=True, separators=(",", ":"))
