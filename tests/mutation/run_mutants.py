"""Mutation testing of the part of guards that decides; goes on where it was stopped.

``python -m tests.mutation.run_mutants --state DIR --out docs/results/mutation.json``

Every change of tests/mutation/mutants.py is made to every module of ``MODULES``, one at a time, and the tests
of ``TESTS`` are run against it until one fails. ``--module guards/decision.py`` takes only that one, and
``--again`` runs the tests against survivors once more, after tests were added.

mutmut and cosmic-ray do not reach what matters here. mutmut 3.8 changes only undecorated functions, so no
validator and no bound of a field; cosmic-ray 8.7's parser does not know ``match``, and it starts the
interpreter for every mutant.

``--state`` holds which test reaches what, and the outcome of every mutant so far. A mutant's outcome stands
until the mutant itself changes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from tests.mutation.host import (
    KILLED,
    SURVIVED,
    TIMEOUT,
    CalledFunctions,
    Host,
    first_failure_afresh,
    forget_caches,
    function_of,
    in_a_fork,
    replace_function,
)
from tests.mutation.mutants import OPERATORS, Mutant, mutants_of, mutated

REPOSITORY = Path(__file__).resolve().parents[2]
REASONS = Path(__file__).with_name("survivors.json")

MODULES = (
    "guards/decision.py",
    "guards/statistics.py",
    "guards/authoring/power.py",
    "guards/policy.py",
    "guards/policy_gates.py",
    "guards/gates/alpha.py",
    "guards/gates/holdouts.py",
    "guards/gates/look_alpha.py",
    "guards/gates/composite.py",
    "guards/gates/table_verdict.py",
    "guards/gates/score_table.py",
)
TESTS = (
    *(
        f"tests/guards/test_{name}.py"
        for name in (
            "decision statistics power gates alpha holdouts composite policy score_table judged_scores sources "
            "least_alpha look_alpha past_looks policy_lint policy_cases policy_relations gate_power certainty "
            "early_stop shipped_policies"
        ).split()
    ),
    *(f"tests/faults/test_{name}_faults.py" for name in ("gate", "look", "policy")),
    "tests/loop/test_file_schemas.py",
    "tests/benchmarks/test_enumeration.py",
    "tests/benchmarks/test_statistics_results.py",
)
OPTIONS = (
    "-q",
    "--hypothesis-profile=mutation",
    "-p",
    "no:cacheprovider",
    "-p",
    "no:randomly",
    "-m",
    "not slow and not model",
    "-p",
    "no:faulthandler",
    "--tb=no",
)
# Loaded before the first fork, so that no child has to.
PRELOADED = ("cryptography", "hypothesis.strategies", "numpy", "pydantic", "rfc8785", "ruamel.yaml", "sqlalchemy")
FIRST_FILES = 6


@dataclass(frozen=True)
class Reach:
    """What one test calls in :data:`MODULES` (``path:function``), and how many seconds of processor it takes."""

    functions: frozenset[str]
    cpu_s: float


class State:
    """What was done so far, kept in a folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._reach = folder / "reach.json"
        self._outcomes = folder / "outcomes.jsonl"
        self.outcomes: dict[str, tuple[str, str]] = {}
        if self._outcomes.exists():
            for line in self._outcomes.read_text(encoding="utf-8").splitlines():
                try:
                    found = json.loads(line)
                except ValueError:
                    continue  # the run was stopped while it wrote this
                self.outcomes[found["id"]] = (found["outcome"], found["by"])

    def note(self, mutant: Mutant, outcome: str, by: str) -> None:
        """Keep one outcome."""
        self.outcomes[mutant.id] = (outcome, by)
        with self._outcomes.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"id": mutant.id, "outcome": outcome, "by": by}) + "\n")

    def reach(self, keys: Mapping[str, str]) -> dict[str, Reach]:
        """What was measured of the tests in files whose key is still the same."""
        kept = json.loads(self._reach.read_text(encoding="utf-8")) if self._reach.exists() else {}
        return {
            name: Reach(frozenset(one["functions"]), one["cpu_s"])
            for file, key in keys.items()
            if file in kept and kept[file]["key"] == key
            for name, one in kept[file]["tests"].items()
        }

    def keep_reach(self, keys: Mapping[str, str], reach: Mapping[str, Reach]) -> None:
        """Keep what was measured of the tests."""
        files: dict[str, Any] = {file: {"key": key, "tests": {}} for file, key in keys.items()}
        for name, one in reach.items():
            files[_file(name)]["tests"][name] = {"functions": sorted(one.functions), "cpu_s": one.cpu_s}
        self._reach.write_text(json.dumps(files), encoding="utf-8")


class Run:
    """One run over the mutants of some modules that have no outcome yet."""

    def __init__(self, state: State, modules: Sequence[str], *, again: bool, limit: int | None) -> None:
        self._state = state
        self.sources = {path: (REPOSITORY / path).read_text(encoding="utf-8") for path in modules}
        self.mutants = [one for path, source in self.sources.items() for one in mutants_of(path, source)]
        todo = [
            one
            for one in self.mutants
            if one.id not in state.outcomes or (again and state.outcomes[one.id][0] == SURVIVED)
        ][:limit]
        self._in_functions = [one for one in todo if one.function]
        self._others = [one for one in todo if not one.function]
        self._keys: dict[str, str] = {}
        self._reach: dict[str, Reach] = {}

    def all(self) -> None:
        """Every mutant without an outcome: those inside functions, then the others."""
        settings.register_profile(
            "mutation", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
        )
        for name in PRELOADED:
            __import__(name)
        sources = b"".join((REPOSITORY / path).read_bytes() for path in MODULES)
        self._keys = {
            file: hashlib.sha256(sources + (REPOSITORY / file).read_bytes()).hexdigest()
            for file in TESTS
            if (REPOSITORY / file).exists()
        }
        # In a process of its own, since this one must not import guards.
        child = os.fork()
        if child == 0:
            try:
                self._host()
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            raise SystemExit("the tests could not be run against mutants")
        self._state.__init__(self._state._outcomes.parent)
        self._reach = self._state.reach(self._keys)
        rest = [one for one in self._in_functions if one.id not in self._state.outcomes]
        for mutant in [*rest, *self._others]:
            self._afresh(mutant)

    def _host(self) -> None:
        called = CalledFunctions({_module(path): str(REPOSITORY / path) for path in MODULES})

        def work(host: Host) -> None:
            self._measure(host, called)
            for mutant in self._in_functions:
                self._in_place(host, mutant)

        status = pytest.main([*OPTIONS, *TESTS], plugins=[Host(work)])
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.TESTS_FAILED):
            raise SystemExit(f"pytest ended with {status!r}")

    def _measure(self, host: Host, called: CalledFunctions) -> None:
        """Which functions each test calls; a test that fails without any mutant is left out."""
        known = self._state.reach(self._keys)
        files = {_file(name) for name in known}
        for node_id in host.items:
            if _file(node_id) in files:
                continue
            forget_caches()
            called.found.clear()
            began = time.process_time()
            host.run([node_id])
            known[node_id] = Reach(frozenset(called.found), round(time.process_time() - began, 4))
        for node_id in host.failed:
            print(f"left out, it fails without any mutant: {node_id}", flush=True)
        self._reach = {name: one for name, one in known.items() if name not in host.failed}
        self._state.keep_reach(self._keys, self._reach)

    def _in_place(self, host: Host, mutant: Mutant) -> None:
        module = _module(mutant.path)
        try:
            code = mutated(str(REPOSITORY / mutant.path), self.sources[mutant.path], mutant.number)
            function_of(module, mutant.function)
        except LookupError:
            return  # afresh, then
        except SyntaxError as error:
            self._done(mutant, KILLED, f"{error}")
            return
        wanted = f"{module}:{mutant.function}"
        order = [name for name in self._by_speed() if wanted in self._reach[name].functions]
        if not order:
            return

        def work() -> str:
            replace_function(module, mutant.function, code)
            return host.first_failure(order)

        self._done(mutant, *in_a_fork(work, cpu_s=self._limit(order)))

    def _afresh(self, mutant: Mutant) -> None:
        try:
            code = mutated(str(REPOSITORY / mutant.path), self.sources[mutant.path], mutant.number)
        except SyntaxError as error:
            self._done(mutant, KILLED, f"{error}")
            return
        # The files that are about this module, and then the others.
        module = f"{_module(mutant.path)}:"
        own = Path(mutant.path).stem
        reaching = Counter(
            _file(name)
            for name, one in self._reach.items()
            if any(function.startswith(module) for function in one.functions)
        )
        files = sorted(
            TESTS,
            key=lambda file: ("schemas" not in file, f"test_{own}" not in file, "policy" not in file, -reaching[file]),
        )
        order = self._by_speed()
        for some in (files[:FIRST_FILES], files[FIRST_FILES:]):
            chosen = [name for name in order if _file(name) in some]
            outcome, by = in_a_fork(
                lambda chosen=chosen, some=some: first_failure_afresh(
                    _module(mutant.path), code, some, chosen, OPTIONS
                ),
                cpu_s=self._limit(chosen) + 60,
            )
            if outcome != SURVIVED:
                break
        self._done(mutant, outcome, by)

    def _by_speed(self) -> list[str]:
        return sorted(self._reach, key=lambda name: self._reach[name].cpu_s)

    def _limit(self, node_ids: Sequence[str]) -> float:
        """Seconds of processor: an endless loop must end, and a busy machine must kill nothing."""
        return 20.0 + 5.0 * sum(self._reach[name].cpu_s for name in node_ids)

    def _done(self, mutant: Mutant, outcome: str, by: str) -> None:
        self._state.note(mutant, outcome, by)
        if outcome == SURVIVED:
            print(f"{outcome}: {in_words(mutant)}", flush=True)


def _file(node_id: str) -> str:
    return node_id.split("::")[0]


def _module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")


def in_words(mutant: Mutant) -> str:
    """Where it is, and what it changes."""
    return f"{mutant.path}:{mutant.line} {mutant.operator}: {_short(mutant.before)} -> {_short(mutant.after)}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:97]}..."


# ---------------------------------------------------------------------------------------------
# The result
# ---------------------------------------------------------------------------------------------


def result_of(
    mutants: Sequence[Mutant], outcomes: dict[str, tuple[str, str]], reasons: dict[str, str]
) -> dict[str, Any]:
    """Counts by module, and every survivor with the reason that a person gave for it."""
    by_module: dict[str, Counter[str]] = {}
    for mutant in mutants:
        outcome = outcomes.get(mutant.id, ("not run", ""))[0]
        by_module.setdefault(mutant.path, Counter())[outcome] += 1
    modules = {path: _shares(counts) for path, counts in by_module.items()}
    survivors = [
        {
            "id": one.id,
            "where": f"{one.path}:{one.line}",
            "function": one.function,
            "operator": one.operator,
            "before": _short(one.before),
            "after": _short(one.after),
            "why": reasons.get(one.id, "?"),
        }
        for one in mutants
        if outcomes.get(one.id, ("", ""))[0] == SURVIVED
    ]
    total = _shares(sum(by_module.values(), Counter[str]()))
    return {
        "command": "python -m tests.mutation.run_mutants --state .stairlock/mutation --out docs/results/mutation.json",
        "python": platform.python_version(),
        "operators": OPERATORS,
        "tests": list(TESTS),
        "all": total,
        "modules": modules,
        "survivors": survivors,
    }


def _shares(counts: Counter[str]) -> dict[str, Any]:
    n = sum(counts.values())
    killed = counts[KILLED] + counts[TIMEOUT]
    return {
        "mutants": n,
        "killed": killed,
        "of_them_by_time": counts[TIMEOUT],
        "survived": counts[SURVIVED],
        "not_run": counts["not run"],
        "killed_share": round(killed / n, 4) if n else None,
    }


def reasons_given(text: str) -> dict[str, str]:
    """By a survivor's id, why it survives; the file has them by reason."""
    return {survivor: why for why, survivors in json.loads(text).items() for survivor in survivors}


def run(
    state: Path, modules: Sequence[str] = MODULES, *, again: bool = False, limit: int | None = None
) -> dict[str, Any]:
    """Run what was not run yet, and return the result."""
    kept = State(state)
    work = Run(kept, modules, again=again, limit=limit)
    work.all()
    reasons = reasons_given(REASONS.read_text(encoding="utf-8")) if REASONS.exists() else {}
    return result_of(work.mutants, State(state).outcomes, reasons)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--state", type=Path, required=True, help="a folder that keeps what was done so far")
    parser.add_argument("--out", type=Path, help="where the result is written")
    parser.add_argument("--module", action="append", choices=MODULES, help="only this module; may be given again")
    parser.add_argument("--again", action="store_true", help="run survivors again")
    parser.add_argument("--limit", type=int, help="run only so many mutants")
    chosen = parser.parse_args(arguments)
    os.chdir(REPOSITORY)
    result = run(chosen.state, tuple(chosen.module or MODULES), again=chosen.again, limit=chosen.limit)
    for path, shares in result["modules"].items():
        print(path, json.dumps(shares))
    print("all", json.dumps(result["all"]))
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
