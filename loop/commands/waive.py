"""``stairlock waive``: what people sign about a gate that showed neither."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from guards import actions
from guards.actions.signoff import home_roles
from guards.roles import load_roles
from guards.signing import public_key_of
from guards.waivers import sign_waiver
from loop.commands.options import HomeOption, JsonOption, ReasonOption, actor_name, open_home, say, say_field, say_json
from loop.commands.signing import unlocked
from loop.invoked_as import command_line
from loop.terminal_text import printable, short


def waive(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="A digest, or the beginning of one.")],
    gate: Annotated[str, typer.Option("--gate", metavar="GATE", help="The gate that is inconclusive.")],
    reason: ReasonOption,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Your private key (NAME.key).")],
    ticket: Annotated[
        str | None, typer.Option("--ticket", metavar="TEXT", help="Where it is followed up; all signers say the same.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            metavar="TIME",
            help="When it ends: ISO, with a time zone, at most 90 days from now; all signers say the same.",
        ),
    ] = None,
    reject: Annotated[
        bool, typer.Option("--reject", help="Object: nobody may waive this gate of this candidate.")
    ] = False,
    person: Annotated[
        str | None, typer.Option("--person", metavar="ID", help="Who signs (default: the key's owner in roles.yaml).")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign that an inconclusive gate of one candidate counts as passed until a date. It never helps a failed gate.

    It is about this evidence and this policy: another look needs another waiver. It takes as many people,
    of the same roles, as the policy asks approvals of (one at least), and each says the same gate, ticket and
    expiry. It approves nothing: sign-offs and the promotion come after it.
    """
    if reject and (ticket is not None or expires is not None):
        raise typer.BadParameter("an objection has no ticket and no expiry", param_hint="--reject")
    if not reject and (ticket is None or expires is None):
        raise typer.BadParameter("a waiver needs both", param_hint="--ticket/--expires")
    until = None if expires is None else _time(expires)
    store = open_home(home).store
    with store.read() as history:
        digest = history.find_candidate(candidate).body.candidate
    private_key = unlocked(key)
    signer = person or load_roles(store.roles_path).owner_of(public_key_of(private_key).id)[0].id
    statement = actions.draft_waiver(
        store,
        candidate=digest,
        gate=gate,
        decision="reject" if reject else "grant",
        reason=reason,
        signer=signer,
        ticket=ticket,
        expires=until,
    )
    recorded = actions.waive(store, envelope=sign_waiver(statement, private_key), actor=actor_name())
    with store.read() as history:
        look = history.latest_look(digest)
        assert look is not None  # waive refuses a candidate without one
        standing = [
            one
            for one in actions.waivers_now(history, look, home_roles(store), store.now())
            if one.waiver.gate == statement.gate
        ]
    if as_json:
        say_json({"entry": recorded.as_json(), "waivers": [one.as_json() for one in standing]})
        return
    word = "objects to waiving" if reject else "waives"
    say(f"entry {recorded.seq}: {printable(signer)} {word} {printable(statement.gate)} of")
    say_field("candidate", statement.candidate)
    say_field("evidence", statement.evidence)
    say_field("policy", statement.policy)
    for one in standing:
        say_field("waiver", one.summary)
    if any(one.is_live for one in standing):
        again = command_line(sys.argv[0], "show", short(digest), home=home)
        say(f"what it waits for now: {printable(again)}")


def _time(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no time: write it as 2030-01-31T12:00:00Z", param_hint="--expires"
        ) from error
