"""How this program was called, so that a command that we print can be pasted and runs."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

PROGRAM = "stairlock"


def program(argv0: str, *, cwd: Path | None = None) -> str:
    """What to type for ``stairlock``: as it was typed, or the bare name where the shell finds that.

    The shell hands over a whole path for what it found on PATH; then the bare name is enough.
    """
    called = Path(argv0)
    if called.name != PROGRAM:
        return PROGRAM  # run as a module, or by a test
    if not called.is_absolute():
        return argv0 if "/" in argv0 else PROGRAM
    if shutil.which(PROGRAM) == argv0:
        return PROGRAM
    here = cwd or Path.cwd()
    return str(called.relative_to(here)) if called.is_relative_to(here) else argv0


def command_line(argv0: str, *words: str | Path, home: Path | None = None) -> str:
    """A command as one line for a shell. ``home`` is given where it is not the default one."""
    options = ["--home", str(home)] if home is not None else []
    return shlex.join([program(argv0), *map(str, words), *options])
