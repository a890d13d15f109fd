"""``python -m tests.run_driver CONFIG HOME``: begin or resume a run, in a process that a test may kill."""

from __future__ import annotations

import sys
from pathlib import Path

from loop.backends.local import LocalBackend
from loop.home import Home
from loop.run import run_loop


def main(argv: list[str]) -> None:
    """Run to the end."""
    run_loop(
        Path(argv[0]),
        Home.open(Path(argv[1])),
        backend=LocalBackend(),
        stage=lambda _title: lambda _what, _done, _total: None,
        actor="tester",
        resume=True,
        retrain_root=False,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
