"""``stairlock model``: getting models into a home, each under its digest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from guards.manifest import read_manifest
from loop.commands.options import DEFAULT_HOME, HomeOption, JsonOption, QuietOption, open_home, say, say_field, say_json
from loop.console import show_steps
from loop.terminal_text import printable, short

app = typer.Typer(help="Get models into the home, and list them.", no_args_is_help=True)


@app.command("add")
def add(
    model: Annotated[
        str, typer.Argument(metavar="NAME_OR_PATH", help="A pinned name, or a local checkpoint's directory.")
    ],
    adapter: Annotated[
        Path | None, typer.Option("--adapter", metavar="DIR", help="A PEFT LoRA adapter to merge into it first.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check a model and seal it in the home. What is there already is not fetched again."""
    from loop.models import add_model

    opened = open_home(home, create=True)
    with show_steps(quiet=quiet or as_json) as stage:
        title = f"add {model}" if adapter is None else f"add {model} with its adapter"
        directory, manifest = add_model(model, opened.path, adapter=adapter, progress=stage(title))
    if as_json:
        say_json({"digest": manifest.digest, "directory": str(directory), "size_bytes": manifest.size_bytes})
        return
    say_field("digest", manifest.digest)
    say_field("directory", directory)
    say_field("size", _size_text(manifest.size_bytes))


@app.command("list")
def list_models(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the pinned names, and the checkpoints that are sealed in the home."""
    from loop.models import PINNED

    checkpoints = _sealed(home or DEFAULT_HOME)
    if as_json:
        say_json({"pinned": list(PINNED), "sealed": checkpoints})
        return
    say("pinned names (stairlock model add NAME)")
    for name, pinned in PINNED.items():
        known = getattr(pinned, "checkpoint_digest", None)
        is_here = any(checkpoint["digest"] == known for checkpoint in checkpoints)
        say(f"  {name:<28} {f'{short(known)}, sealed here' if known and is_here else ''}".rstrip())
    say(f"sealed in {printable(str(home or DEFAULT_HOME))}{'' if checkpoints else ': none'}")
    for checkpoint in checkpoints:
        size, directory = _size_text(checkpoint["size_bytes"]), printable(checkpoint["directory"])
        say(f"  {short(checkpoint['digest'])}  {size:>8}  {directory}")


def _sealed(home: Path) -> list[dict[str, Any]]:
    """Every checkpoint whose manifest lies in the home; its files are not hashed here."""
    found: list[dict[str, Any]] = []
    for path in sorted((home / "checkpoints").glob("*.manifest.json")):
        manifest = read_manifest(path)
        directory = path.with_name(path.name.removesuffix(".manifest.json"))
        if directory.is_dir():
            found.append({"digest": manifest.digest, "directory": str(directory), "size_bytes": manifest.size_bytes})
    return found


def _size_text(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:,.1f} kB"
