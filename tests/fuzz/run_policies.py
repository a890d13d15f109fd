"""Fuzz the reading of policies, for as long as one likes; goes on where it was stopped.

``python -m tests.fuzz.run_policies --files 20000 --state DIR --out FILE`` changes seeds at random.
With ``--coverage`` (needs atheris: ``pip install 'stairlock[fuzz]'``) libFuzzer chooses what to change
further by the branches that it reached; the changes themselves are the same, and libFuzzer's own.

``--state`` holds what was done so far, the corpus, and any file that violated something.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.fuzz.policy_mutations import any_seed, file_number, mutated, seeds

SAVE_EVERY = 200
SEED = "policies"
MAX_BYTES = 1 << 16


class Progress:
    """What was done so far, kept in a file."""

    def __init__(self, state: Path) -> None:
        state.mkdir(parents=True, exist_ok=True)
        self.path = state / "progress.json"
        self.found: dict[str, Any] = {"n_files": 0, "n_loaded": 0, "slowest_cpu_s": 0.0, "refused": {}, "linted": {}}
        self.found |= {"took_s": 0.0, "violations": []}
        if self.path.exists():
            self.found = json.loads(self.path.read_text(encoding="utf-8"))

    def add(self, tally: dict[str, Any], took_s: float) -> None:
        """Add one part of the run, and keep the sum."""
        self.found["n_files"] += tally["n_files"]
        self.found["n_loaded"] += tally["n_loaded"]
        self.found["took_s"] = round(self.found["took_s"] + took_s, 1)
        self.found["slowest_cpu_s"] = round(max(self.found["slowest_cpu_s"], tally["slowest_cpu_s"]), 3)
        for name in ("refused", "linted"):
            total = Counter(self.found[name]) + Counter(tally[name])
            self.found[name] = dict(sorted(total.items(), key=lambda pair: (-pair[1], pair[0])))
        self.save()

    def violated(self, what: str, file: str) -> None:
        """Keep that something did not hold."""
        self.found["violations"].append({"what": what, "file": file})
        self.save()

    def save(self) -> None:
        """Write it whole or not at all."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(self.found, indent=2) + "\n", encoding="utf-8")
        part.replace(self.path)


def run_at_random(n_files: int, state: Path) -> Progress:
    """Files ``progress`` to ``n_files``, each made from its number."""
    from tests.fuzz.policy_target import PolicyTarget, Tally

    progress = Progress(state)
    pool = seeds()
    with tempfile.TemporaryDirectory() as folder:
        target = PolicyTarget(Path(folder))
        while progress.found["n_files"] < n_files:
            first = progress.found["n_files"]
            began_s = time.monotonic()
            target.tally = Tally()
            for number in range(first, min(n_files, first + SAVE_EVERY)):
                data = file_number(number, SEED, pool)
                try:
                    target(data)
                except Exception as error:  # whatever comes out is what is looked for
                    kept = state / f"violation-{number}.yaml"
                    kept.write_bytes(data)
                    progress.violated(f"{type(error).__name__}: {error}"[:500], kept.name)
            tally = dict(vars(target.tally))
            tally["n_files"] = min(n_files, first + SAVE_EVERY) - first
            progress.add(tally, time.monotonic() - began_s)
    return progress


def run_by_coverage(n_files: int, state: Path, n_workers: int) -> Progress:
    """The same with libFuzzer: workers that share a corpus, each in processes of its own."""
    corpus = state / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    with ThreadPoolExecutor(n_workers) as pool:
        shares = [(n_files + number) // n_workers for number in range(n_workers)]
        folders = [state / f"worker-{number}" for number in range(n_workers)]
        done = list(pool.map(lambda share, folder: _work(share, folder, corpus), shares, folders))
    (state / "progress.json").unlink(missing_ok=True)
    total = Progress(state)
    for part in done:
        total.add(part.found, part.found["took_s"])
        total.found["violations"] += part.found["violations"]
    total.found["corpus"] = {"n_files": len(list(corpus.iterdir())), "last_lines": [_last_line(f) for f in folders]}
    total.save()
    return total


def _work(n_files: int, state: Path, corpus: Path) -> Progress:
    """Part by part, as libFuzzer ends its process."""
    progress = Progress(state)
    flags = [f"-max_len={MAX_BYTES}", f"-artifact_prefix={state}/", "-timeout=60", "-report_slow_units=60", str(corpus)]
    while progress.found["n_files"] < n_files and not progress.found["violations"]:
        n_runs = min(10 * SAVE_EVERY, n_files - progress.found["n_files"])
        command = [sys.executable, "-m", "tests.fuzz.run_policies", "--one-part", "--state", str(state), "--"]
        with (state / "last-part.log").open("w", encoding="utf-8") as out:
            done = subprocess.run([*command, f"-runs={n_runs}", *flags], stdout=out, stderr=out, check=False)
        progress = Progress(state)
        if done.returncode:
            artifacts = sorted(state.glob("crash-*")) + sorted(state.glob("timeout-*"))
            progress.violated(f"libFuzzer stopped with {done.returncode}", ", ".join(a.name for a in artifacts))
    return progress


def _last_line(state: Path) -> str:
    """What libFuzzer said last about the branches and features that it reached."""
    log = state / "last-part.log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return next((line for line in reversed(lines) if " cov: " in line), "")


def _one_part(state: Path, flags: list[str]) -> None:
    """One libFuzzer process; its tally is kept whenever a part of it is done, as it never returns."""
    import atheris

    with atheris.instrument_imports(include=["guards"]):
        from tests.fuzz.policy_target import PolicyTarget, Tally

    progress = Progress(state)
    pool = seeds()
    folder = tempfile.mkdtemp()
    target = PolicyTarget(Path(folder))
    n_wanted = int(next(flag for flag in flags if flag.startswith("-runs=")).removeprefix("-runs="))
    n_done = 0
    began_s = time.monotonic()

    def test_one(data: bytes) -> None:
        nonlocal n_done, began_s
        target(data)
        n_done += 1
        if target.tally.n_files >= SAVE_EVERY or n_done >= n_wanted:
            progress.add(vars(target.tally), time.monotonic() - began_s)
            target.tally, began_s = Tally(), time.monotonic()

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        chance = rng.random()
        if chance < 0.15:
            return atheris.Mutate(data, max_size)
        # The corpus soon consists of broken files, which say little about those that load.
        start = any_seed(rng, pool) if chance < 0.55 or not data else data
        return mutated(start, rng, pool)[:max_size]

    atheris.Setup([sys.argv[0], *flags], test_one, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> None:
    """Run, report, and leave with 1 if anything was violated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--workers", type=int, default=1, help="with --coverage: processes at a time")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one-part", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("flags", nargs="*", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one_part:
        _one_part(chosen.state, chosen.flags)
        os._exit(0)
    if chosen.coverage:
        progress = run_by_coverage(chosen.files, chosen.state, chosen.workers)
    else:
        progress = run_at_random(chosen.files, chosen.state)
    how = f" --coverage --workers {chosen.workers}" if chosen.coverage else ""
    command = f"python -m tests.fuzz.run_policies --files {chosen.files} --state DIR --out FILE{how}"
    text = json.dumps({"command": command, "python": platform.python_version(), **progress.found}, indent=2) + "\n"
    if chosen.out is not None:
        chosen.out.write_text(text, encoding="utf-8")
    print(text, end="")
    sys.exit(1 if progress.found["violations"] else 0)


if __name__ == "__main__":
    main()
