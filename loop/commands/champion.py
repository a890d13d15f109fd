"""``stairlock promote`` and ``stairlock rollback``: which checkpoint is in use."""

from __future__ import annotations

from typing import Annotated

import typer

from guards import actions
from loop.commands.options import HomeOption, JsonOption, ReasonOption, actor_name, open_home, say, say_json
from loop.terminal_text import printable


def promote(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="A digest, or the beginning of one.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a candidate the champion, if its gates passed and the approvals are there, at this moment.

    Everything is checked again first: verdicts, signatures, evidence, and the files of the checkpoint.
    """
    from loop.sealed_checkpoints import sealed_directory

    opened = open_home(home)
    with opened.store.read() as history:
        digest = history.find_candidate(candidate).body.candidate
        champion = history.champion() or ""
    promoted = actions.promote(
        opened.store,
        candidate=digest,
        champion_expected=champion,
        checkpoint_dir=sealed_directory(opened.path, digest),
        actor=actor_name(),
    )
    if as_json:
        say_json(promoted.as_json())
        return
    body = promoted.body
    say(f"entry {promoted.seq}: {digest} is the champion, in place of {body.champion_before or 'none'}")
    say(f"approved by {printable(', '.join(body.approvers))}" if body.approvers else "UNATTENDED: nobody approved it")


def rollback(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A past champion, or the beginning of its digest.")
    ],
    reason: ReasonOption,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a past champion back into use. Possible while everything is halted."""
    from loop.sealed_checkpoints import sealed_directory

    opened = open_home(home)
    with opened.store.read() as history:
        digest = history.find_checkpoint(checkpoint)
    done = actions.rollback(
        opened.store,
        to=digest,
        checkpoint_dir=sealed_directory(opened.path, digest),
        reason=reason,
        actor=actor_name(),
    )
    if as_json:
        say_json(done.as_json())
        return
    say(f"entry {done.seq}: {digest} is the champion again, in place of {done.body.champion_before}")
