"""``stairlock halt``, ``lift`` and ``recall``: stopping needs no key, so that it never waits for one."""

from __future__ import annotations

from typing import Annotated

import typer

from guards import actions
from loop.commands.options import HomeOption, JsonOption, ReasonOption, actor_name, open_home, say, say_json


def halt(reason: ReasonOption, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Stop everything: no run, gate, promotion or clean-up goes on until it is lifted."""
    halted = actions.halt(open_home(home).store, reason=reason, actor=actor_name())
    if as_json:
        say_json(halted.as_json())
        return
    say(f"entry {halted.seq}: everything is halted; stairlock lift --reason TEXT ends it")


def lift(
    reason: ReasonOption,
    entry: Annotated[
        list[int] | None, typer.Option("--entry", metavar="SEQ", help="Only the halt of this entry (default: all).")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a halt."""
    lifted = actions.lift(open_home(home).store, reason=reason, actor=actor_name(), halts=entry or None)
    if as_json:
        say_json(lifted.as_json())
        return
    say(f"entry {lifted.seq}: lifted the halt of entry {', '.join(map(str, lifted.body.halts))}")


def recall(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A digest, or the beginning of one.")],
    reason: ReasonOption,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forbid a checkpoint for good. If it is the champion or the root, everything is halted with it."""
    store = open_home(home).store
    with store.read() as history:
        digest = history.find_checkpoint(checkpoint)
    recalled = actions.recall(store, checkpoint=digest, reason=reason, actor=actor_name())
    with store.read() as history:
        halts = history.halts()
        is_champion = history.champion() == digest
    if as_json:
        say_json({**recalled.as_json(), "halted": bool(halts)})
        return
    say(f"entry {recalled.seq}: {digest} must not be used any more")
    if halts:
        say(f"everything is halted since entry {halts[0].seq}")
    if is_champion:
        say("it is still the champion in use: stairlock rollback CHECKPOINT --reason TEXT brings a past one back")
