"""``stairlock bank``: the kit, the dictionaries and the harmless fine-tunes that a drift gate judges by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from guards.errors import ConfigError
from loop.commands.options import (
    DeviceOption,
    HomeOption,
    JsonOption,
    QuietOption,
    open_home,
    say,
    say_field,
    say_json,
)
from loop.console import show_steps
from loop.terminal_text import printable

if TYPE_CHECKING:
    from loop.gauntlet.measured import MeasuredMember

app = typer.Typer(help="The harmless fine-tunes that drift is judged against.", no_args_is_help=True)

RootArgument = Annotated[
    Path, typer.Option("--root", metavar="DIR", help="The root's package (root.yaml, adapter, rows).")
]
PlanOption = Annotated[Path, typer.Option("--plan", metavar="FILE", help="What is to be built (gauntlet.yaml).")]
KitOption = Annotated[
    Path, typer.Option("--kit", metavar="DIR", help="The kit's directory; the bank is written there.")
]
PoliciesOption = Annotated[
    Path, typer.Option("--policies", metavar="DIR", help="Where rows, contrasts and prompts are.")
]
DataOption = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Public data sets, for the sources that read them.")
]
OnlyOption = Annotated[int | None, typer.Option("--first", metavar="N", help="Only the first N members of the plan.")]

_POLICIES = Path("policies")
DEFAULT_ROOT = Path("policies/roots/smollm2-135m")
DEFAULT_PLAN = Path("policies/drift/gauntlet.yaml")
DEFAULT_KIT = Path("policies/banks/smollm2-135m")


@app.command("kit")
def kit(
    root: RootArgument = DEFAULT_ROOT,
    out: KitOption = DEFAULT_KIT,
    policies: PoliciesOption = _POLICIES,
    dictionary: Annotated[
        list[Path] | None, typer.Option("--dictionary", metavar="FILE", help="A dictionary of the root. Once for each.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Make the kit of a root: documents, directions, and what is computed of them. A new kit needs a new bank."""
    from loop.checkpoint_io import load_model
    from loop.drift.make_kit import make_kit
    from loop.root import shipped_root

    opened = open_home(home, create=True)
    with show_steps(quiet=quiet or as_json) as stage:
        shipped = shipped_root(opened, root, stage)
        model, tokenizer = load_model(shipped.path, device, expected_digest=shipped.digest)
        stage("make the kit")("documents, directions, caps", 0, 1)
        made = make_kit(model, tokenizer, shipped.path, shipped.digest, policies, dictionary or [], out)
    if as_json:
        say_json({"kit": made.digest, "directory": str(out), "documents": len(made.documents)})
        return
    say_field("kit", made.digest)
    say_field("directory", out)
    say_field("documents", len(made.documents))
    say_field("components", len(made.components))


@app.command("dictionaries")
def dictionaries(
    root: RootArgument = DEFAULT_ROOT,
    out: KitOption = DEFAULT_KIT,
    policies: PoliciesOption = _POLICIES,
    layer: Annotated[int, typer.Option("--layer", help="The decoder layer whose output they describe.")] = 15,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="A seed; once for each dictionary.")] = None,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of text to sample from the root.")] = 1_000_000,
    passes: Annotated[float, typer.Option("--passes", help="How often training reads the activations.")] = 3.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Train sparse dictionaries of a root's layer, on text that is sampled from it. Needs the extra "probes".

    What was sampled, read or trained when it is stopped is gone on with.
    """
    from loop.checkpoint_io import load_model
    from loop.drift.make_dictionaries import make_dictionaries
    from loop.root import shipped_root
    from probes.dictionary_training import DictionaryRecipe

    opened = open_home(home, create=True)
    with show_steps(quiet=quiet or as_json) as stage:
        shipped = shipped_root(opened, root, stage)
        model, tokenizer = load_model(shipped.path, device, expected_digest=shipped.digest)
        made = make_dictionaries(
            model,
            tokenizer,
            shipped.digest,
            policies,
            opened.path / "dictionaries",
            out,
            layer=layer,
            seeds=seed or [0, 1],
            n_tokens=tokens,
            recipe=DictionaryRecipe(n_training_tokens=int(tokens * passes)),
            report=stage("make the dictionaries"),
        )
    if as_json:
        say_json([one.model_dump(mode="json") for one in made])
        return
    for one in made:
        say_field(one.name, one.sha256)
        say(
            f"  fvu {one.fvu:.3f}, L0 {one.l0:.1f}, dead {one.share_dead:.1%}, loss recovered {one.loss_recovered:.1%}"
            f" (n {one.n_held_back_tokens} held-back tokens)"
        )


@app.command("build")
def build(
    root: RootArgument = DEFAULT_ROOT,
    plan: PlanOption = DEFAULT_PLAN,
    kit: KitOption = DEFAULT_KIT,
    data: DataOption = None,
    first: OnlyOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Build the plan's harmless fine-tunes, measure and verify them, and write the bank.

    What is built already is not built again. The bank is written from what is there, also when it is stopped
    early by --first.
    """
    from loop.drift.kit_files import BANK_FILE
    from loop.gauntlet.bank_file import write_bank
    from loop.gauntlet.build_set import build_set
    from loop.gauntlet.plan import bank_members, read_plan
    from loop.gauntlet.scoring import default_scoring

    opened = open_home(home, create=True)
    with show_steps(quiet=quiet or as_json) as stage:
        built = build_set(
            opened,
            root,
            kit,
            bank_members(read_plan(plan), data)[:first],
            data=data,
            stage=stage,
            title="build the bank",
        )
    if not built.measured:
        raise ConfigError("drift.empty-bank", "no member of the bank could be built", got="; ".join(built.refusals[:3]))
    file = write_bank(kit / BANK_FILE, built.kit, default_scoring(), built.measured)
    n_verified = sum(one.is_verified for one in built.measured)
    if as_json:
        say_json(
            {"bank": file.digest, "members": len(built.measured), "verified": n_verified, "refused": built.refusals}
        )
        return
    say_field("bank", file.digest)
    say_field("members", f"{len(built.measured)}, of which {n_verified} are harmless in what they do")
    for one in built.measured:
        if not one.is_verified:
            say(f"  left out: {_line(one)}")
    for refusal in built.refusals:
        say(f"  not built: {printable(refusal)}")


def _line(one: MeasuredMember) -> str:
    return printable(f"{one.member.member_id} ({', '.join(one.member.sources)}): {'; '.join(one.reasons)}")
