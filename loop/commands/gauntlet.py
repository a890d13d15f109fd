"""``stairlock gauntlet``: organisms with planted faults and unseen harmless controls, run through a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from loop.commands.bank import (
    DEFAULT_KIT,
    DEFAULT_PLAN,
    DEFAULT_ROOT,
    DataOption,
    KitOption,
    OnlyOption,
    PlanOption,
    RootArgument,
)
from loop.commands.options import HomeOption, JsonOption, QuietOption, open_home, say, say_field, say_json
from loop.console import show_steps
from loop.terminal_text import printable

app = typer.Typer(
    help="Is a drift gate any good? Organisms and controls, and what became of them.", no_args_is_help=True
)

Which = Literal["controls", "development", "organisms"]
ResultsOption = Annotated[Path, typer.Option("--results", metavar="FILE", help="Where the results are kept.")]
_RESULTS = Path("docs/results/gauntlet.json")
_PAGE = Path("docs/gauntlet.md")


@app.command("build")
def build(
    which: Annotated[Which, typer.Argument(help="Which part of the plan.")],
    root: RootArgument = DEFAULT_ROOT,
    plan: PlanOption = DEFAULT_PLAN,
    kit: KitOption = DEFAULT_KIT,
    data: DataOption = None,
    first: OnlyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build, measure and verify a part of the plan. What is there already is not built again."""
    from loop.gauntlet.build_set import build_set
    from loop.gauntlet.plan import part_of_plan, read_plan

    opened = open_home(home, create=True)
    members = part_of_plan(read_plan(plan), which, data)[:first]
    with show_steps(quiet=quiet or as_json) as stage:
        built = build_set(opened, root, kit, members, data=data, stage=stage, title=f"build the {which}")
    n_verified = sum(one.is_verified for one in built.measured)
    if as_json:
        say_json({"measured": len(built.measured), "verified": n_verified, "refused": built.refusals})
        return
    say_field("measured", f"{len(built.measured)} of {len(members)}, {n_verified} of them are what they should be")
    for one in built.measured:
        if not one.is_verified:
            say(f"  {printable(one.member.member_id)}: {printable('; '.join(one.reasons))}")
    for refusal in built.refusals:
        say(f"  not built: {printable(refusal)}")


@app.command("run")
def run(
    policy: Annotated[Path, typer.Option("--policy", metavar="FILE", help="The policy whose drift gate is tested.")],
    plan: PlanOption = DEFAULT_PLAN,
    kit: KitOption = DEFAULT_KIT,
    data: DataOption = None,
    organisms: Annotated[
        Literal["development", "organisms"], typer.Option(help="Which organisms; development ones are no test.")
    ] = "organisms",
    results: ResultsOption = _RESULTS,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge everything that was built by the policy's drift gate and by the baselines, and keep the results."""
    from guards.policy import resolve_policy
    from loop.gauntlet.build_set import measured_so_far
    from loop.gauntlet.plan import part_of_plan, read_plan
    from loop.gauntlet.results import judge_all, write_results

    opened = open_home(home)
    resolved, declared = resolve_policy(policy), read_plan(plan)
    parts: tuple[Which, ...] = ("controls", organisms)
    found = {part: measured_so_far(opened, kit, part_of_plan(declared, part, data)) for part in parts}
    judged = judge_all(
        resolved,
        [one for measured, _ in found.values() for one in measured],
        {part: len(missing) for part, (_, missing) in found.items()},
    )
    results.parent.mkdir(parents=True, exist_ok=True)
    write_results(results, judged)
    if as_json:
        say_json(judged.model_dump(mode="json", by_alias=True))
        return
    say_field("models", len(judged.models))
    say_field("not measured yet", ", ".join(f"{n} {part}" for part, n in judged.n_missing.items()))
    say_field("results", results)


@app.command("report")
def report(
    results: ResultsOption = _RESULTS,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page to write.")] = _PAGE,
) -> None:
    """Write the page of tables from the results."""
    from loop.gauntlet.results import read_results
    from loop.gauntlet.tables import gauntlet_page

    page = gauntlet_page(read_results(results))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    say_field("page", out)
