"""``stairlock policy lint`` and ``policy schema``: what is wrong with a policy, and help for editors."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guards.roles import load_roles
from loop.commands.options import JsonOption, say, say_json
from loop.terminal_text import printable

if TYPE_CHECKING:
    from guards.authoring.policy_lint import LintReport, Problem

PROBLEMS_FOUND = 1
"""Exit code where some file has an error; warnings alone leave it at 0."""


class FileKind(StrEnum):
    """What may be written with the help of a schema."""

    POLICY = "policy"
    POLICY_TEST = "policy-test"
    SUITE = "suite"
    ROLES = "roles"


def lint(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Policies.")],
    roles: Annotated[
        Path | None,
        typer.Option("--roles", metavar="FILE", help="The roles file: can the approvals be given by its people?"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Report everything that is wrong with policies, as FILE:LINE:COLUMN, with a rule id and what to do.

    Errors are what the loop would refuse, and gates that can never pass; the exit code is 1 then.
    """
    from guards.authoring.policy_lint import lint_policy
    from loop.suite_facts import facts_of_suite

    people = None if roles is None else load_roles(roles)
    reports = [lint_policy(file, facts_of_suite, roles=people) for file in files]
    if as_json:
        say_json({"files": [_as_json(report) for report in reports]})
    else:
        for report in reports:
            _show(report)
        _show_sum(reports)
    if any(report.errors for report in reports):
        raise typer.Exit(PROBLEMS_FOUND)


def schema(
    kind: Annotated[FileKind, typer.Argument(metavar="KIND", help="policy, policy-test, suite or roles.")] = (
        FileKind.POLICY
    ),
) -> None:
    """Print the JSON Schema of a kind of file, for editors; policies/schema holds the same."""
    from loop.file_schemas import schema_text

    typer.echo(schema_text(kind.value), nl=False)


def _show(report: LintReport) -> None:
    for problem in report.problems:
        say(
            f"{printable(problem.file)}:{problem.line}:{problem.column}: {problem.severity} [{problem.rule}] "
            f"{printable(problem.message)}"
        )
        if problem.fix:
            say(f"    what to do: {printable(problem.fix)}")
    for joint in report.joint_power:
        say(
            f"{printable(report.file)}: at look {joint.look} all eval gates pass a good candidate with probability "
            f"{joint.power.independent:.2f} if they are independent ({joint.power.at_least:.2f} to "
            f"{joint.power.at_most:.2f} if not)"
        )


def _show_sum(reports: list[LintReport]) -> None:
    problems = [problem for report in reports for problem in report.problems]
    n_errors = sum(problem.severity == "error" for problem in problems)
    files = "1 file" if len(reports) == 1 else f"{len(reports)} files"
    say(f"{_count(n_errors, 'error')}, {_count(len(problems) - n_errors, 'warning')} in {files}")


def _count(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _as_json(report: LintReport) -> dict[str, Any]:
    problems: list[Problem] = list(report.problems)
    return {
        "file": report.file,
        "problems": [asdict(problem) for problem in problems],
        "gates": [
            {
                "id": fit.gate.id,
                "n_items": fit.n_items,
                "alpha_first": fit.alpha_first,
                "alpha_last": fit.alpha_last,
                "power_first": fit.power_first,
                "power_last": fit.power_last,
            }
            for fit in report.fits
        ],
        "joint_power": [{"look": joint.look, **asdict(joint.power)} for joint in report.joint_power],
    }
