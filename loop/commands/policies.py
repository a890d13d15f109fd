"""``stairlock policy``: reading and checking a policy before it counts."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from guards.policy import resolve_policy
from loop.commands.options import JsonOption, say, say_field, say_json
from loop.policy_words import policy_in_words
from loop.terminal_text import printable

app = typer.Typer(help="Read and check policies. Nothing is recorded.", no_args_is_help=True)

_WIDTH = 100

PolicyArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The policy's YAML file.")]


@app.command("explain")
def explain(file: PolicyArgument, as_json: JsonOption = False) -> None:
    """Say in plain words what it takes to be promoted under a policy."""
    resolved = resolve_policy(file)
    paragraphs = [printable(paragraph) for paragraph in policy_in_words(resolved)]
    if as_json:
        say_json({"policy": resolved.policy.name, "digest": resolved.digest, "words": paragraphs})
        return
    was_item = False
    for number, paragraph in enumerate(paragraphs):
        is_item = paragraph.startswith("- ")
        if number and not (is_item and was_item):
            say()
        say(textwrap.fill(paragraph, _WIDTH, subsequent_indent="  " if is_item else "", break_on_hyphens=False))
        was_item = is_item


@app.command("check")
def check(file: PolicyArgument, as_json: JsonOption = False) -> None:
    """Resolve a policy with its suites, print its digest, and warn of gates that would seldom pass.

    A gate that cannot pass is refused, with its line.
    """
    from loop.policy_check import GOOD_POWER, check_policy, joint_power_at_least

    resolved = resolve_policy(file)
    powers = check_policy(resolved)
    joint = joint_power_at_least(powers)
    warnings = [
        f"line {gate.line}: {gate.gate_id} passes with a probability of only {gate.power:.2f} if {gate.assuming}"
        for gate in powers
        if gate.power is not None and gate.is_weak
    ]
    if as_json:
        gates = [
            {"id": g.gate_id, "line": g.line, "n_items": g.n_items, "power": g.power, "assuming": g.assuming}
            for g in powers
        ]
        digests = {"policy": resolved.policy.name, "digest": resolved.digest, "suites": resolved.suite_digests}
        say_json({**digests, "gates": gates, "joint_power_at_least": joint, "warnings": warnings})
        return
    say_field("policy", resolved.policy.name)
    say_field("digest", resolved.digest)
    for name, digest in resolved.suite_digests.items():
        say(f"  {printable(name):<16} {digest}")
    say(f"power at each of the {resolved.policy.looks.planned} planned looks")
    for gate in powers:
        shown = "  –  " if gate.power is None else f"{gate.power:.3f}"
        say(f"  {printable(gate.gate_id):<24} {shown}  n {gate.n_items:<5} if {gate.assuming}")
    say(f"  {'all of these together':<24} {joint:.3f}  or more")
    for warning in warnings:
        say(f"warning: {printable(warning)} (below {GOOD_POWER})")
