"""``stairlock log``: what was recorded, in order."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from guards.canonical import canonical_bytes
from guards.entries import BODIES
from guards.ledger import TreeHead
from guards.roles import load_roles
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
        bool,
        typer.Option(
            "--verify",
            help="First hash the whole log again and replay it: was each entry allowed by those before it? "
            "Refuse to show one that was edited, or has an entry that was made up.",
        ),
    ] = False,
    trusted_head: Annotated[
        str | None,
        typer.Option(
            "--trusted-head",
            metavar="SIZE:HEX",
            help="With --verify: a head that --verify printed before, kept elsewhere; the log must extend it.",
        ),
    ] = None,
    roles: Annotated[
        list[Path] | None,
        typer.Option(
            "--roles",
            metavar="FILE",
            help="With --verify: verify the signatures of sign-offs against this roles file. Once for each version.",
        ),
    ] = None,
) -> None:
    """List the entries of the ledger.

    With --json, one entry a line, exactly the bytes that were hashed (on a terminal, what is not
    ASCII is escaped: the same JSON in other bytes).

    --verify finds what was edited, dropped or reordered, and entries that no action would have
    written then. It does not find: a log that was cut off or written anew as a whole (give
    --trusted-head), forged signatures (give --roles, from somebody you trust), verdicts that do
    not follow from their evidence, false measurements, actors and times.
    """
    for option, given in (("--trusted-head", trusted_head), ("--roles", roles)):
        if given and not verify:
            raise typer.BadParameter("it says what to verify against; give --verify, too", param_hint=option)
    kept = None if trusted_head is None else _head(trusted_head)
    if kind is not None and kind not in BODIES:
        raise typer.BadParameter(
            f"no entry is of kind {kind!r}; the kinds are {', '.join(BODIES)}", param_hint="--kind"
        )
    opened = open_home(home)
    head = None
    if verify:
        known = [load_roles(path) for path in roles or ()]
        head = opened.store.verify(trusted_head=kept, roles=known)
    with opened.store.read() as history:
        signed_kinds = ("signoff", "policy_signoff", "waiver") if verify else ()
        n_signatures = sum(1 for kind_ in signed_kinds for _ in history.entries(kind=kind_))
        about = None if candidate is None else history.find_checkpoint(candidate)
        for entry in history.entries(kind=kind, candidate=about):
            typer.echo(_json_line(entry.as_json()) if as_json else log_line(entry))
    if head is not None:
        if n_signatures and not roles:
            typer.echo(
                f"not verified: the signatures of {n_signatures} sign-offs and waivers (give --roles FILE)", err=as_json
            )
        if kept is None:
            typer.echo("not verified: that the log extends an earlier head (give --trusted-head)", err=as_json)
        typer.echo(f"verified: {head.size} entries, head {head.root}", err=as_json)


def _head(text: str) -> TreeHead:
    match = re.fullmatch(r"([0-9]{1,15}):([0-9a-f]{64})", text)
    if match is None:
        raise typer.BadParameter(
            "a head is its size and its root: SIZE:HEX, with 64 lower-case hex digits", param_hint="--trusted-head"
        )
    return TreeHead(size=int(match[1]), root=match[2])


def _json_line(entry: dict[str, Any]) -> bytes | str:
    """The entry as it was hashed. Bytes, so that no stream recodes them; a person's terminal gets them escaped."""
    line = canonical_bytes(entry)
    if not sys.stdout.isatty():
        return line
    return json.dumps(json.loads(line), ensure_ascii=True, separators=(",", ":"))
