"""``stairlock policy``: reading and checking a policy before it counts."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
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
    """Resolve a policy with its suites, print its digest, and say what it takes to pass each gate.

    A gate that cannot pass, or that reads what its suite does not measure, is refused with its line.
    """
    from loop.policy_check import check_policy

    resolved = resolve_policy(file)
    gates = check_policy(resolved)
    warnings = [
        f"line {gate.line}: {gate.gate_id} would often hold a good candidate: it passes only if {gate.passes_if}"
        for gate in gates
        if gate.is_narrow
    ]
    if as_json:
        named = {"policy": resolved.policy.name, "digest": resolved.digest, "suites": resolved.suite_digests}
        say_json({**named, "gates": [asdict(gate) for gate in gates], "warnings": warnings})
        return
    say_field("policy", resolved.policy.name)
    say_field("digest", resolved.digest)
    for name, digest in resolved.suite_digests.items():
        say(f"  {printable(name):<16} {digest}")
    say(f"eval gates pass four times out of five, at each of {resolved.policy.looks.planned} planned looks, if")
    for gate in gates:
        say(f"  {printable(gate.gate_id):<22} n {gate.n_items:<5} {gate.passes_if}")
    for warning in warnings:
        say(f"warning: {printable(warning)}")
