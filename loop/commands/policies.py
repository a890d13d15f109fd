"""``stairlock policy``: reading and checking a policy before it counts."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from guards.policy import resolve_policy
from loop.commands.options import JsonOption, say, say_field, say_json
from loop.commands.policy_bundles import install, pack
from loop.commands.policy_changes import adopt, diff, sign
from loop.commands.policy_lint import lint, schema
from loop.commands.simulate import simulate
from loop.policy_words import policy_in_words
from loop.terminal_text import printable

app = typer.Typer(help="Read and check policies, and bring them into force.", no_args_is_help=True)

_WIDTH = 100

TEST_FAILED = 5
"""Exit code of ``policy test`` where a policy's cases do not hold."""

app.command("lint")(lint)
app.command("schema")(schema)
app.command("simulate")(simulate)
app.command("diff")(diff)
app.command("adopt")(adopt)
app.command("sign")(sign)
app.command("pack")(pack)
app.command("install")(install)

PolicyArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The policy's YAML file.")]
TestArguments = Annotated[
    list[Path], typer.Argument(metavar="FILE...", help="Case files, or policies whose cases stand beside them.")
]


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
        named: dict[str, Any] = {
            "policy": resolved.policy.name,
            "digest": resolved.digest,
            "suites": resolved.suite_digests,
            "banks": resolved.resolved.banks,
        }
        named["holdouts"] = {name: holdout.reads for name, holdout in resolved.policy.holdouts.items()}
        say_json({**named, "gates": [asdict(gate) for gate in gates], "warnings": warnings})
        return
    say_field("policy", resolved.policy.name)
    say_field("digest", resolved.digest)
    for name, digest in resolved.suite_digests.items():
        say(f"  {printable(name):<16} {digest}")
    for name, digest in resolved.resolved.banks.items():
        bank = resolved.banks[name]
        n_documents = len(bank.kit.documents)
        say(f"bank {printable(name):<11} {digest}, {len(bank.verified)} verified members, {n_documents} documents")
    for name, holdout in resolved.policy.holdouts.items():
        say(
            f"holdout {printable(name):<14} {holdout.reads} reads, then it is spent; each halves the alpha of its tests"
        )
    say(f"eval gates pass four times out of five at the last of {resolved.policy.looks.planned} planned looks, if")
    for gate in gates:
        say(f"  {printable(gate.gate_id):<22} n {gate.n_items:<5} {gate.passes_if}")
    for warning in warnings:
        say(f"warning: {printable(warning)}")


@app.command("test")
def test(files: TestArguments, as_json: JsonOption = False) -> None:
    """Run the cases that stand beside policies: evidence in, expected verdicts out.

    A policy's file stands for tests/NAME.yaml beside it. Exits with 5 where a case did not come as
    expected, names what the policy does not have, or a gate blocks in no case.
    """
    from guards.authoring.policy_tests import run_policy_tests
    from loop.policy_test_report import report_json, report_lines

    reports = [run_policy_tests(file) for file in files]
    holds = all(report.holds for report in reports)
    if as_json:
        say_json({"holds": holds, "files": [report_json(report) for report in reports]})
    else:
        for report in reports:
            for line in report_lines(report):
                say(printable(line))
    if not holds:
        raise typer.Exit(TEST_FAILED)
