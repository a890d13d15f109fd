"""``stairlock reproduce`` and ``stairlock root``: training again what the record says was trained."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from loop.commands.options import HomeOption, JsonOption, QuietOption, actor_name, open_home, say, say_field, say_json
from loop.console import duration_text, show_steps

EXIT_DIFFERS = 30


def reproduce(
    candidate: Annotated[str, typer.Argument(metavar="CANDIDATE", help="A digest, or the beginning of one.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a candidate again from its manifest, and compare the digests. Nothing in the home changes.

    The exit code is 0 if the digest is the same, and 30 if it differs. Same machine, same versions and
    same number of threads: the same digest is to be expected.
    """
    from loop.backends.local import LocalBackend
    from loop.reproduce import reproduce as train_again

    opened = open_home(home)
    with show_steps(quiet=quiet or as_json) as stage:
        result = train_again(opened, candidate, backend=LocalBackend(), stage=stage)
    if as_json:
        say_json(asdict(result))
    else:
        say_field("recorded", result.candidate)
        say_field("got now", result.got)
        say_field("batches", "the same, in the same order" if result.batches_are_same else "NOT the same")
        say_field("took", duration_text(result.wall_s))
        say("the same checkpoint" if result.is_same else "ANOTHER CHECKPOINT than the one that was recorded")
    raise typer.Exit(0 if result.is_same else EXIT_DIFFERS)


def root(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="The directory with root.yaml.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train the root again, and compare it with the one that the package ships.

    The exit code is 0 if they agree within the package's tolerance, and 30 if not.
    """
    from loop.backends.local import LocalBackend
    from loop.root import make_root

    opened = open_home(home, create=True)
    with show_steps(quiet=quiet or as_json) as stage:
        result = make_root(package, opened, backend=LocalBackend(), stage=stage, actor=actor_name())
    if as_json:
        say_json(asdict(result))
    else:
        say_field("shipped", result.shipped_digest)
        say_field("trained now", result.trained_digest)
        say_field("agreement", f"{result.agreement:.6f} (at least {result.tolerance:g} is needed)")
        say_field("difference", f"{result.max_weight_difference:.3g} at most in one weight")
        say("they agree" if result.agrees else "THEY DO NOT AGREE within the stated tolerance")
    raise typer.Exit(0 if result.agrees else EXIT_DIFFERS)
