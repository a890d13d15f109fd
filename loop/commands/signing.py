"""``stairlock sign`` and ``stairlock key``: what people say about a candidate, and what they say it with."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from guards import actions
from guards.actions.signoff import home_roles
from guards.errors import SignatureRefused
from guards.roles import load_roles
from guards.signing import load_private_key, new_key, public_key_of
from guards.signing import sign as sign_statement
from loop.commands.options import (
    DEFAULT_HOME,
    HomeOption,
    JsonOption,
    ReasonOption,
    actor_name,
    open_home,
    say,
    say_field,
    say_json,
)
from loop.invoked_as import command_line
from loop.terminal_text import printable, short

app = typer.Typer(help="Make keys for signing.", no_args_is_help=True)


def sign(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="A digest, or the beginning of one.")],
    reason: ReasonOption,
    key: Annotated[Path, typer.Option("--key", metavar="FILE", help="Your private key (NAME.key).")],
    approve: Annotated[bool, typer.Option("--approve", help="Approve it.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="Reject it; a rejection blocks the promotion.")] = False,
    person: Annotated[
        str | None, typer.Option("--person", metavar="ID", help="Who signs (default: the key's owner in roles.yaml).")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sign what was decided about a candidate: these weights, this evidence, this policy.

    An approval releases only a candidate whose gates passed. It takes effect with `stairlock promote`.
    """
    if approve == reject:
        raise typer.BadParameter("say exactly one of the two", param_hint="--approve/--reject")
    decision: Literal["approve", "reject"] = "approve" if approve else "reject"
    store = open_home(home).store
    with store.read() as history:
        digest = history.find_candidate(candidate).body.candidate
    private_key = unlocked(key)
    signer = person or load_roles(store.roles_path).owner_of(public_key_of(private_key).id)[0].id
    statement = actions.draft_statement(store, candidate=digest, decision=decision, reason=reason, signer=signer)
    recorded = actions.sign_off(store, envelope=sign_statement(statement, private_key), actor=actor_name())
    with store.read() as history:
        look = history.latest_look(digest)
        assert look is not None  # sign_off refuses a candidate without one
        approvals = actions.approval_status(history, look, home_roles(store), store.now())
    if as_json:
        say_json(
            {"entry": recorded.as_json(), "approvals_complete": approvals.is_complete, "summary": approvals.summary}
        )
        return
    say(f"entry {recorded.seq}: {printable(signer)} says {decision} to")
    say_field("candidate", statement.candidate)
    say_field("evidence", statement.evidence)
    say_field("policy", statement.policy)
    say_field("approvals", approvals.summary)
    if approvals.is_complete:
        say(f"to make it champion: {printable(command_line(sys.argv[0], 'promote', short(digest), home=home))}")


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Your id; it becomes NAME.key and NAME.pub.")],
    directory: Annotated[Path, typer.Option("--dir", help="Where the two files go.")] = Path(),
    no_passphrase: Annotated[
        bool, typer.Option("--no-passphrase", help="Do not encrypt the private key: whoever reads the file can sign.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Make an Ed25519 key pair, and print what to add to the roles file.

    Keep the private key to yourself. Nobody may sign with it before the public one is in roles.yaml.
    """
    passphrase = None
    if not no_passphrase:
        passphrase = typer.prompt("passphrase", hide_input=True, confirmation_prompt=True, err=True).encode()
    files = new_key(directory, name, passphrase=passphrase)
    say_field("private", f"{files.private} (readable by you alone)")
    say_field("public", files.public)
    roles = (home or DEFAULT_HOME) / "roles.yaml"
    # Quoted as JSON, which YAML reads too: a name like 007 or yes would otherwise be no text.
    said = json.dumps(name)
    say(f"\nadd to {printable(str(roles))}, with the roles that this person has:\n")
    if not roles.exists():
        say("schema: stairlock/roles/v1\npeople:")
    say(f"  - id: {said}\n    name: {said}\n    roles: [reviewer]   # reviewer, safety, governance\n    keys:")
    say(f'      - {{id: "{files.key.id}", public_key: "{files.key.public_key}"}}')


def unlocked(path: Path):
    """The private key; asks for its passphrase if it has one."""
    try:
        return load_private_key(path)
    except SignatureRefused as refusal:
        if refusal.rule != "signing.passphrase-needed":
            raise
    return load_private_key(path, passphrase=typer.prompt("passphrase", hide_input=True, err=True).encode())
