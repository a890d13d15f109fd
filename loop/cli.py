"""The command line: ``stairlock COMMAND``.

This is the one place where a refusal (:class:`guards.errors.StairlockError`) becomes a message and
an exit code: 1. Wrong usage is 2, Ctrl-C is 130; ``gate`` and ``reproduce`` add their own. What
else escapes is a bug, and is shown as one.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from guards.errors import StairlockError
from loop.commands import (
    audit,
    bank,
    champion,
    gain,
    gate,
    gauntlet,
    log,
    models,
    policies,
    reproduce,
    run,
    show,
    signing,
    stop,
    waive,
)
from loop.commands.options import Invocation
from loop.terminal_text import printable, printable_lines

EXIT_REFUSED = 1
EXIT_STOPPED = 130

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EROFS)
_WRONG_PATH = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOENT)


class RefusingGroup(TyperGroup):
    """The command group; whatever a command refuses ends here."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command, and show its refusal."""
        try:
            return super().invoke(ctx)
        except StairlockError as error:
            _show_refusal(error, as_json=ctx.obj.as_json)
            raise typer.Exit(EXIT_REFUSED) from error
        except KeyboardInterrupt as error:
            again = "; run the same command with --resume" if ctx.invoked_subcommand == "run" else ""
            typer.echo(f"stopped{again}", err=True)
            raise typer.Exit(EXIT_STOPPED) from error
        except OSError as error:
            refusal = _system_refusal(error)
            if refusal is None:
                raise
            _show_refusal(refusal, as_json=ctx.obj.as_json)
            raise typer.Exit(EXIT_REFUSED) from error


app = typer.Typer(
    cls=RefusingGroup,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug's traceback must not show the values of variables: keys are among them
    help="A model may improve itself; no candidate replaces it before declared gates pass and people sign.",
)


@app.callback()
def _before_the_command(
    ctx: typer.Context,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home", metavar="DIR", help="Where the ledger, checkpoints and evidence are.", show_default=False
        ),
    ] = None,
) -> None:
    ctx.obj = Invocation(home=home)


app.command("run")(run.run)
app.command("gate")(gate.gate)
app.command("abandon")(gate.abandon)
app.command("eval")(gate.evaluate)
app.command("gain")(gain.gain)
app.command("reproduce")(reproduce.reproduce)
app.command("root")(reproduce.root)
app.command("log")(log.log)
app.command("show")(show.show)
app.command("sign")(signing.sign)
app.command("waive")(waive.waive)
app.command("promote")(champion.promote)
app.command("rollback")(champion.rollback)
app.command("halt")(stop.halt)
app.command("lift")(stop.lift)
app.command("recall")(stop.recall)
app.add_typer(models.app, name="model")
app.add_typer(signing.app, name="key")
app.add_typer(policies.app, name="policy")
app.command("audit")(audit.audit)
app.add_typer(bank.app, name="bank")
app.add_typer(gauntlet.app, name="gauntlet")


def main() -> None:
    """The entry point of ``stairlock``; leaves with the exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter gets its escape, not a crash in the middle of a report.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app(prog_name="stairlock")


def _show_refusal(error: StairlockError, *, as_json: bool) -> None:
    if as_json:
        fields = {name: getattr(error, name) for name in ("rule", "message", "got", "expected", "fix")}
        typer.echo(json.dumps({"error": fields}, ensure_ascii=True))
        return
    typer.echo(f"refused: [{printable(error.rule)}] {_indented(error.message)}", err=True)
    for label, text in (("got", error.got), ("expected", error.expected), ("what to do", error.fix)):
        if text:
            typer.echo(f"  {label}: {_indented(text)}", err=True)


def _indented(text: str) -> str:
    """Text of several lines, none of which can pass for a line of ours."""
    first, *more = printable_lines(text)
    return "\n".join([first, *(f"    {line.strip()}" for line in more)])


def _system_refusal(error: OSError) -> StairlockError | None:
    """A disk that is full, a directory that may not be written and a path that leads nowhere are no bugs."""
    where = str(error.filename or "a file")
    if error.errno in _DISK_FULL:
        return StairlockError(
            "system.disk-full",
            f"{where} could not be written; what was being written is not believed",
            got=error.strerror or "",
            fix="free some disk space and run the same command again: finished steps are not repeated",
        )
    if error.errno in _NOT_PERMITTED:
        return StairlockError(
            "system.not-permitted", f"{where}: {error.strerror}", fix="check who owns it, and who you are"
        )
    if error.errno in _WRONG_PATH:
        return StairlockError(
            "system.wrong-path",
            f"{where} is not what is needed there",
            got=error.strerror or "",
            fix="check the paths that you gave: a directory where a file is needed, a file where a directory is "
            "needed, or nothing there at all",
        )
    return None


if __name__ == "__main__":
    main()
