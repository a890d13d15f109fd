"""Kill -9 at random moments of a run, and resume: the same champion, no entry lost and none doubled.

A killed step begins once more, and the log counts that: only there may the logs differ.

``make test`` kills twice; ``make soak`` twenty times (STAIRLOCK's own processes and the step's, in
turn: sometimes only the parent dies, and its step lives on).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from guards.store import Store
from tests.tiny_world import build_tiny_world

REPOSITORY = Path(__file__).resolve().parents[2]


def start(config: Path, home: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.run_driver", str(config), str(home)],
            cwd=REPOSITORY,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def finish(config: Path, home: Path, log: Path) -> float:
    """Run to the end; returns the seconds that it took."""
    began_s = time.monotonic()
    process = start(config, home, log)
    assert process.wait(timeout=550) == 0, log.read_text()[-3000:]
    return time.monotonic() - began_s


def what_the_log_says(home: Path, n_kills: int) -> tuple[str | None, Counter[str]]:
    """The champion, and how many entries there are of each kind, but for the beginnings of steps.

    Of those, each kill may leave at most one without its end: the step that it met.
    """
    store = Store.open(home)
    store.verify()
    with store.read() as history:
        champion, counted = history.champion(), Counter(entry.kind for entry in history.entries())
    n_unfinished = counted.pop("step_started") - counted["step_finished"]
    assert 0 <= n_unfinished <= n_kills, f"{n_unfinished} attempts without an end, after {n_kills} kills"
    return champion, counted


def killed_often(config: Path, home: Path, log: Path, n_kills: int, chance: random.Random, longest_s: float) -> int:
    """Kill the run at up to ``n_kills`` random moments, then let it end; returns how many kills met it alive."""
    for number in range(n_kills):
        process = start(config, home, log)
        try:
            assert process.wait(timeout=chance.uniform(0.3, longest_s)) == 0, log.read_text()[-3000:]
            return number  # it ended before this kill
        except subprocess.TimeoutExpired:
            if number % 4 == 3:  # only the parent: its step outlives it for a while
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finish(config, home, log)
    return n_kills


def compare(directory: Path, tiny_checkpoint: Path, n_kills: int, longest_s: float) -> list[int]:
    """Kill until ``n_kills`` met a run alive, in as many homes as that takes; returns the kills of each home."""
    config = build_tiny_world(directory / "world", tiny_checkpoint)
    finish(config, directory / "whole", directory / "whole.log")
    champion, counted = what_the_log_says(directory / "whole", n_kills=0)
    chance = random.Random(5)
    met: list[int] = []
    while sum(met) < n_kills:
        home = directory / f"killed-{len(met)}"
        met.append(killed_often(config, home, home.with_suffix(".log"), n_kills - sum(met), chance, longest_s))
        assert what_the_log_says(home, n_kills=met[-1]) == (champion, counted)
        leftovers = [path for path in (home / "steps").glob("*") if path.is_dir()]
        assert all((path / "step.json").is_file() for path in leftovers if not path.name.startswith("."))
    return met


def test_two_kills(tmp_path: Path, tiny_checkpoint: Path) -> None:
    assert sum(compare(tmp_path, tiny_checkpoint, n_kills=2, longest_s=12.0)) == 2


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path, tiny_checkpoint: Path) -> None:
    met = compare(tmp_path, tiny_checkpoint, n_kills=20, longest_s=8.0)
    print(f"kills that met a run alive, by run: {met}")
    assert sum(met) == 20
