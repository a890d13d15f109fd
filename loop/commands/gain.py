"""``stairlock gain``: what the champion gained over the root, on items that decided nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guards import actions
from guards.canonical import digest_of
from guards.entries import Measured
from guards.errors import StairlockError
from guards.policy import ResolvedPolicy, resolve_policy
from loop.commands.options import (
    DeviceOption,
    DtypeOption,
    HomeOption,
    JsonOption,
    QuietOption,
    actor_name,
    open_home,
    say,
    say_field,
    say_json,
)
from loop.console import show_steps
from loop.gain_words import GAIN, ON_FRESH_ITEMS, Gain, gain_lines
from loop.terminal_text import printable, short

if TYPE_CHECKING:
    from loop.home import Home

_N_HEX = 12


def gain(
    policy: Annotated[
        Path | None,
        typer.Option("--policy", metavar="FILE", help="Measure now what this policy's superiority gates ask."),
    ] = None,
    suite: Annotated[
        list[str] | None, typer.Option("--suite", metavar="NAME", help="Only this suite. Once for each.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
) -> None:
    """Show the gains that were measured in this home, or with --policy measure the champion's.

    Root and champion answer items that are drawn for this, and that no decision has used. The draw is
    recorded before any item is answered, and every result stays: the same champion is measured once under
    the same policy and suites, and asked again it is read back.
    """
    opened = open_home(home)
    if policy is None:
        if suite:
            raise typer.BadParameter("it says what to measure; give --policy, too", param_hint="--suite")
        _show(opened, as_json)
        return
    from loop.backends.local import LocalBackend
    from loop.gain import measure_gain
    from loop.recorded_steps import RecordedSteps

    resolved = resolve_policy(policy)
    suites = None if not suite else sorted(set(suite))
    for name in suites or ():
        if name not in resolved.suite_digests:
            known = ", ".join(resolved.suite_digests)
            raise typer.BadParameter(f"the policy has no suite {name!r}, only {known}", param_hint="--suite")
    run = _begin(opened, resolved, suites)
    with show_steps(quiet=quiet or as_json) as stage:
        steps = RecordedSteps(opened, LocalBackend(), stage, actor=actor_name(), run=run)
        result = measure_gain(
            opened, steps, resolved, run=run, actor=actor_name(), suites=suites, device=device, dtype=dtype
        )
    if as_json:
        say_json({"run": run, **result.model_dump(mode="json")})
        return
    say_gain(result)


def say_gain(gain: Gain) -> None:
    """Print a gain, and what it was measured on."""
    if gain.figures:
        say_field("gain", f"champion {short(gain.champion)} minus root {short(gain.root)}, {ON_FRESH_ITEMS}")
    else:
        say_field("gain", "not measured")
    for line in gain_lines(gain):
        say(f"  {printable(line)}")


def _begin(home: Home, policy: ResolvedPolicy, suites: list[str] | None) -> str:
    """The run under which this champion's gain is recorded, the same each time it is asked for."""
    with home.store.read() as history:
        root, champion = history.root(), history.champion()
    if root is None or champion is None:
        raise StairlockError(
            "gain.no-champion", "there is no champion here whose gain could be measured", fix="run the loop first"
        )
    what = {"root": root.body.checkpoint, "champion": champion, "policy": policy.digest, "suites": suites}
    name = f"gain {short(champion)} {digest_of(what).removeprefix('sha256:')[:_N_HEX]}"
    actions.start_run(
        home.store,
        run=name,
        config=digest_of(what),
        policy=policy.digest,
        plan={"measures": "gain"},
        actor=actor_name(),
    )
    return name


def _show(home: Home, as_json: bool) -> None:
    with home.store.read() as history:
        found = [
            (entry.seq, entry.body.run, Gain.from_figures(entry.body.figures))
            for entry in history.entries(kind="measured")
            if isinstance(entry.body, Measured) and entry.body.name == GAIN
        ]
    if as_json:
        say_json([{"entry": seq, "run": run, **one.model_dump(mode="json")} for seq, run, one in found])
        return
    if not found:
        say("no gain was measured here yet; --policy FILE measures the champion's")
    for seq, run, one in found:
        say_field("entry", f"{seq}, run {run}")
        say_gain(one)
