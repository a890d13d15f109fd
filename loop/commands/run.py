"""``stairlock run``: the loop, from data to promotion."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from guards.errors import StairlockError
from guards.gates.verdict import explain
from loop.commands.gain import say_gain
from loop.commands.options import HomeOption, JsonOption, QuietOption, actor_name, open_home, say, say_field, say_json
from loop.console import duration_text, show_steps, text_console
from loop.invoked_as import command_line
from loop.terminal_text import printable, short
from loop.verdict_table import Judged, has_drift, verdict_table

if TYPE_CHECKING:
    from loop.drift.report import DriftReport
    from loop.run import CandidateReport, RunReport


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run's YAML file.")],
    plan: Annotated[bool, typer.Option("--plan", help="Only print what would be done.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped or killed.")] = False,
    retrain_root: Annotated[
        bool, typer.Option("--retrain-root", help="Train the root here, and do not use the shipped one.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Propose, train, seal, gate, and promote or refuse; then say what happened.

    The exit code is 0 if the run came to its end, whatever was decided in it.
    """
    if plan:
        _say_plan(config, as_json)
        return
    from loop.backends.local import LocalBackend
    from loop.report import write_report
    from loop.run import run_loop

    opened = open_home(home, create=True)
    with show_steps(quiet=quiet or as_json) as stage:
        report = run_loop(
            config,
            opened,
            backend=LocalBackend(),
            stage=stage,
            actor=actor_name(),
            resume=resume,
            retrain_root=retrain_root,
        )
    path = write_report(report, opened.path, drift=_drift(config, report))
    if as_json:
        say_json(_as_json(report, path))
        return
    text_console().print(verdict_table([_judged(candidate, report) for candidate in report.candidates]))
    for candidate in report.candidates:
        say(f"\n{printable(candidate.name)} ({short(candidate.digest)}): {candidate.outcome.upper()}")
        for reason in candidate.reasons:
            say(f"  {printable(reason)}")
    say()
    if report.unattended:
        _say_sandbox(report)
    say_field("champion", f"{report.champion_after} {_champion_note(report)}")
    if report.gain is not None:
        say_gain(report.gain)
    say_field("took", _took(report))
    say_field("report", _near(path))
    say("\nnext:")
    for command in _next_commands(report, home):
        say(f"  {printable(command)}")


def _say_plan(config: Path, as_json: bool) -> None:
    from loop.run import plan_loop

    lines = plan_loop(config)
    if as_json:
        say_json({"plan": lines})
        return
    for line in lines:
        say(printable(line))


def _drift(config: Path, report: RunReport) -> dict[str, tuple[DriftReport, ...]]:
    """Drift reports by candidate, where a drift gate judged one."""
    if not any(has_drift(candidate.verdicts) for candidate in report.candidates):
        return {}
    from loop.drift.candidate_reports import reports_under
    from loop.run_config import load_run_config

    try:
        policy = config.parent / load_run_config(config).policy
    except StairlockError:  # the run is over: what became of its file since must not cost the report
        return {}
    return {one.digest: reports_under(policy, report.policy_digest, one.runs) for one in report.candidates}


def _judged(candidate: CandidateReport, report: RunReport) -> Judged:
    return Judged(
        name=candidate.name,
        digest=candidate.digest,
        outcome=candidate.outcome,
        is_champion=candidate.digest == report.champion_after,
        verdicts=candidate.verdicts,
        cost=candidate.cost,
    )


def _say_sandbox(report: RunReport) -> None:
    line = f"SANDBOX: under the policy {report.policy_name} NO PERSON had to approve anything."
    typer.secho(f"*** {printable(line)} Do not use it for a model that matters. ***", bold=True, reverse=True)


def _champion_note(report: RunReport) -> str:
    if report.champion_after == report.champion_before:
        return "(as before)"
    return f"(before: {short(report.champion_before)})"


def _took(report: RunReport) -> str:
    took = duration_text(report.wall_s)
    if not 0 < report.model_s <= report.wall_s:
        return f"{took} (most steps were finished before)" if report.model_s else took
    return f"{took}, {report.model_s / report.wall_s:.0%} of it in the models"


def _near(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _next_commands(report: RunReport, home: Path | None) -> list[str]:
    """Three commands that show the most about this run; each runs as it stands."""
    by_outcome = {candidate.outcome: candidate.digest for candidate in reversed(report.candidates)}
    called = sys.argv[0]
    commands: list[str] = []
    if report.candidates:
        bad = next((by_outcome[o] for o in ("reject", "hold", "promote") if o in by_outcome), report.root)
        commands.append(command_line(called, "show", short(bad), "--flips", home=home))
    commands.append(command_line(called, "log", home=home))
    if report.candidates:
        good = next((by_outcome[o] for o in ("promote", "hold", "reject") if o in by_outcome), report.root)
        commands.append(command_line(called, "reproduce", short(good), home=home))
    return commands


def _as_json(report: RunReport, path: Path) -> dict[str, Any]:
    return {
        "run": report.run,
        "root": report.root,
        "champion_before": report.champion_before,
        "champion_after": report.champion_after,
        "policy": {"name": report.policy_name, "digest": report.policy_digest},
        "unattended": report.unattended,
        "wall_s": report.wall_s,
        "model_s": report.model_s,
        "report": str(path),
        "gain": None if report.gain is None else report.gain.model_dump(mode="json"),
        "candidates": [
            {
                "name": candidate.name,
                "digest": candidate.digest,
                "proposer": candidate.proposer,
                "decision": candidate.outcome,
                "promoted": candidate.promoted,
                "reasons": list(candidate.reasons),
                "n_rows": candidate.n_rows,
                "notes": list(candidate.notes),
                "cost": candidate.cost.model_dump(),
                "verdicts": [{**v.model_dump(mode="json"), "explanation": explain(v)} for v in candidate.verdicts],
            }
            for candidate in report.candidates
        ],
        "steps": [{"step": title, "cost": cost.model_dump()} for title, cost in report.costs],
    }
