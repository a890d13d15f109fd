"""What counts as a mutant, that a test which looks kills it, and in ``make soak`` all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from tests.mutation.host import KILLED, SURVIVED, TIMEOUT, in_a_fork, replace_function
from tests.mutation.mutants import OPERATORS, mutants_of, mutated
from tests.mutation.run_mutants import MODULES, REASONS, REPOSITORY, TESTS, reasons_given

RESULT = REPOSITORY / "docs" / "results" / "mutation.json"
LEAST_SHARE = 0.9

SOURCE = '''"""A module."""
from functools import lru_cache
LIMIT: int = 3

class Box(Frozen):
    """A docstring."""
    size: int = Field(ge=1)
    name: Annotated[str, Field(max_length=8)] = "a"

    @property
    def big(self) -> bool:
        return self.size > LIMIT and not self.name == "x"

@lru_cache(maxsize=10)
def total(values: list[int], start: int = 0) -> int:
    found = start
    for value in values:
        if value is None:
            continue
        found += min(value, 10) * 2
    if found < 0:
        raise StairlockError("box.negative", "not so many words", got=str(found), fix="add some")
    try:
        say(f"there are {found + 1} of them", end="")
    except OSError:
        return -1 if found else 0
    match found:
        case 1:
            return 1
        case _:
            return found
'''


def changes(source: str = SOURCE) -> set[tuple[str, str, str]]:
    return {(one.operator, one.before, one.after) for one in mutants_of("box.py", source)}


def test_every_operator_finds_something_to_change() -> None:
    assert {one.operator for one in mutants_of("box.py", SOURCE)} == set(OPERATORS)


@pytest.mark.parametrize(
    "change",
    [
        ("number", "1", "2"),  # the bound of a field, in its default
        ("number", "8", "9"),  # and in its annotation
        ("drop", "8", "no max_length"),
        ("compare", "self.size > LIMIT", "self.size >= LIMIT"),
        ("compare", "self.size > LIMIT", "self.size <= LIMIT"),
        ("word", "'x'", "'XXxXX'"),
        ("word", "'box.negative'", "'XXbox.negativeXX'"),
        ("drop", "property", "no decorator"),
        ("number", "0", "1"),  # the default of an argument
        ("arithmetic", "found + 1", "-"),  # in the braces of a text
        ("drop", "''", "no end"),
        ("drop", "1", "no such case"),
        ("loop", "values", "()"),
        ("except", "OSError", "()"),
    ],
)
def test_what_is_a_mutant(change: tuple[str, str, str]) -> None:
    assert change in changes()


def test_text_types_and_caches_are_left_out() -> None:
    everything = " ".join(" ".join(change) for change in changes())
    for left_out in ("A docstring", "XXadd", "maxsize", "lru_cache' ->", "no got", "str(found) ->", "XXthere"):
        assert left_out not in everything
    lines = {one.line for one in mutants_of("box.py", SOURCE)}
    assert 2 not in lines and 5 not in lines


def test_a_mutant_keeps_its_id_where_only_lines_move() -> None:
    moved = mutants_of("box.py", "\n\n" + SOURCE.replace("A module.", "Another text."))
    original = mutants_of("box.py", SOURCE)
    assert [one.id for one in moved] == [one.id for one in original]
    assert len({one.id for one in original}) == len(original)


def test_every_mutant_of_the_modules_is_another_program() -> None:
    for path in MODULES:
        source = (REPOSITORY / path).read_text(encoding="utf-8")
        unchanged = compile(source, path, "exec", dont_inherit=True)
        for one in mutants_of(path, source)[::40]:
            assert mutated(path, source, one.number) != unchanged, one


CODE = "def least(a, b):\n    return a if a < b else b\n"


def killed_by(test: str, number: int) -> tuple[str, str]:
    module = types.ModuleType("box_under_test")
    exec(compile(CODE, "box.py", "exec"), module.__dict__)
    sys.modules["box_under_test"] = module
    code = mutated("box.py", CODE, number)

    def work() -> str:
        replace_function("box_under_test", "least", code)
        try:
            exec(test, {"least": module.least})
        except AssertionError:
            return "the test"
        return ""

    try:
        return in_a_fork(work, cpu_s=5)
    finally:
        del sys.modules["box_under_test"]


def test_a_test_that_looks_kills_and_one_that_does_not_lets_survive() -> None:
    (opposite,) = (one for one in mutants_of("box.py", CODE) if one.after == "a >= b")
    assert killed_by("assert least(1, 2) == 1", opposite.number) == (KILLED, "the test")
    assert killed_by("assert least(2, 2) == 2", opposite.number) == (SURVIVED, "")
    (equal,) = (one for one in mutants_of("box.py", CODE) if one.after == "a <= b")
    assert killed_by("assert least(2, 1) == 1 and least(1, 2) == 1 and least(2, 2) == 2", equal.number)[0] == SURVIVED


def test_a_mutant_that_never_ends_is_stopped_and_one_that_dies_is_killed() -> None:
    def forever() -> str:
        while True:
            pass

    assert in_a_fork(forever, cpu_s=1) == (TIMEOUT, "")
    assert in_a_fork(lambda: str(os.kill(os.getpid(), signal.SIGTERM)), cpu_s=5) == (KILLED, "signal 15")
    assert in_a_fork(lambda: str(1 // 0), cpu_s=5) == (KILLED, "ZeroDivisionError outside the tests")


def test_the_test_files_are_there() -> None:
    assert [path for path in (*MODULES, *TESTS) if not (REPOSITORY / path).is_file()] == []


def test_the_committed_result_keeps_what_was_asked() -> None:
    result = json.loads(RESULT.read_text(encoding="utf-8"))
    assert set(result["modules"]) == set(MODULES)
    assert result["all"]["killed_share"] >= LEAST_SHARE  # those that were not run count as not killed
    reasons = reasons_given(REASONS.read_text(encoding="utf-8"))
    assert [one["where"] for one in result["survivors"] if reasons.get(one["id"]) != one["why"]] == []


@pytest.mark.slow
def test_all_mutants(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    # In a process of its own, which has imported none of the modules; goes on where a soak was stopped.
    out = tmp_path / "mutation.json"
    state = request.config.getoption("--stairlock-home").resolve() / "mutation"
    command = [sys.executable, "-m", "tests.mutation.run_mutants", "--state", str(state), "--out", str(out)]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    result = json.loads(out.read_text(encoding="utf-8"))
    assert {path: s for path, s in result["modules"].items() if s["killed_share"] < LEAST_SHARE} == {}
    assert [one for one in result["survivors"] if one["why"] == "?"] == []
