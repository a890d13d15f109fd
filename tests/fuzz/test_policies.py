"""A sample of the fuzzed policies, and in ``make soak`` all of them; see tests/fuzz/run_policies.py."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from guards.authoring.policy_lint import lint_policy
from guards.errors import StairlockError
from guards.strict_yaml import parse_yaml
from loop.code_digest import code_digest
from loop.suite_facts import facts_of_suite
from tests.fuzz.policy_mutations import POLICIES, SEEDS, file_number, seeds
from tests.fuzz.policy_target import PolicyTarget, Violated, same_texts, undeclared_keys
from tests.fuzz.run_policies import SEED, run_at_random

REPOSITORY = Path(__file__).resolve().parents[2]
RESULT = REPOSITORY / "docs" / "results" / "policy_fuzz.json"
N_SAMPLE = 200
N_SOAK = 20_000


def test_a_sample_of_changed_policies_does_no_harm(tmp_path: Path) -> None:
    target, pool = PolicyTarget(tmp_path), seeds()
    for number in range(N_SAMPLE):
        target(file_number(number, SEED, pool))
    # A sample of which nothing loads, or nothing is refused, would show little.
    assert target.tally.n_loaded > 10 and len(target.tally.refused) > 10


@pytest.mark.slow
def test_all_changed_policies_do_no_harm(request: pytest.FixtureRequest) -> None:
    # Kept in the home, so that a soak that was stopped goes on where it was; other code begins anew.
    code = code_digest().removeprefix("sha256:")[:12]
    state = Path(str(request.config.getoption("--stairlock-home"))) / "fuzz" / f"policies-{code}"
    progress = run_at_random(N_SOAK, state)
    assert progress.found["violations"] == []


def test_the_seeds_load_and_are_linted_without_errors(tmp_path: Path) -> None:
    target = PolicyTarget(tmp_path)
    for data in seeds():
        target(data)
    assert target.tally.n_loaded == len(seeds()) and set(target.tally.linted) == {"no error"}


def test_the_same_number_makes_the_same_file() -> None:
    pool = seeds()
    assert [file_number(n, SEED, pool) for n in range(20)] == [file_number(n, SEED, pool) for n in range(20)]


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.run_policies.SAVE_EVERY", 3)
    run_at_random(3, tmp_path / "in-parts")
    in_parts = run_at_random(6, tmp_path / "in-parts").found
    at_once = run_at_random(6, tmp_path / "at-once").found
    for name in ("n_files", "n_loaded", "refused", "linted"):
        assert in_parts[name] == at_once[name]
    assert in_parts["n_files"] == 6


def test_what_the_target_looks_for_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, good = PolicyTarget(tmp_path), seeds()[0]
    assert undeclared_keys({"looks": {"planed": 1}, "approvals": {}, "gates": [], "x": 1}) == [
        "policy: 'x'",
        "looks: 'planed'",
    ]
    monkeypatch.setattr("tests.fuzz.policy_target.LIMIT_S", 0.0)
    with pytest.raises(Violated, match="CPU time"):
        target(good)
    monkeypatch.setattr("tests.fuzz.policy_target.resolve_policy", lambda _path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        target(good)


TABBED = (SEEDS / "small.yaml").read_bytes().replace(b"{planned: 2}", b"{planned: \t2}")


def test_a_reader_that_takes_what_the_other_refuses_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = PolicyTarget(tmp_path)
    target(TABBED)
    assert dict(target.tally.refused) == {"yaml.syntax": 1}
    monkeypatch.setattr("guards.strict_yaml._Builder._look_for_tabs", lambda _builder, _event: None)
    with pytest.raises(Violated, match="the other reader refuses it"):
        target(TABBED)


def test_a_reader_that_reads_otherwise_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = parse_yaml

    def shouting(text: str, *, source: str) -> Any:
        value, positions = parse(text, source=source)
        assert isinstance(value, dict)
        return value | {"name": "OTHER"}, positions

    monkeypatch.setattr("tests.fuzz.policy_target.parse_yaml", shouting)
    with pytest.raises(Violated, match="reads something else"):
        PolicyTarget(tmp_path)(seeds()[0])


def test_a_linter_that_misses_what_resolving_refuses_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = lint_policy(POLICIES / "default.yaml", facts_of_suite)
    monkeypatch.setattr("tests.fuzz.policy_target.lint_policy", lambda _path, _facts: clean)
    with pytest.raises(Violated, match=r"refused under yaml\.syntax, and the linter reports"):
        PolicyTarget(tmp_path)(TABBED)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"a": 1}, {"a": "2"}),
        ({"a": 1}, {"b": "1"}),
        ({"a": 1, "b": 2}, {"b": "2", "a": "1"}),
        ({"a": 1}, {"a": "1", "b": "2"}),
        ([1], ["1", "2"]),
        ([1], {"1": ""}),
        ({"a": None}, {"a": "x"}),
        (True, "yes"),
        (1, "1.0"),
        (0.5, "half"),
        ("a", {"a": ""}),
        ("a", "a "),
    ],
)
def test_texts_that_differ_are_told_apart(ours: Any, theirs: Any) -> None:
    assert not same_texts(ours, theirs)


def test_what_is_read_at_all_is_read_alike_by_the_other_reader() -> None:
    # Any YAML, not only policies: there, what reads otherwise is nearly always refused for what it says.
    n_read = 0
    for text in [*_every_piece_at_every_place("{a: [x], b: c}"), *(_yaml_number(number) for number in range(500))]:
        try:
            ours, _ = parse_yaml(text, source="ours")
        except StairlockError:
            continue
        if isinstance(ours, (dict, list)):  # a file that is one word says nothing to anybody who reads it
            n_read += 1
            assert same_texts(ours, yaml.load(text.encode(), Loader=yaml.BaseLoader)), repr(text)
    assert n_read > 300


def _every_piece_at_every_place(text: str) -> list[str]:
    return [text[:at] + piece + text[at:] for at in range(len(text) + 1) for piece in PIECES]


def _yaml_number(number: int) -> str:
    rng = random.Random(f"yaml/{number}")
    text = rng.choice(STARTS)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(PIECES) + text[at + (rng.random() < 0.3) :]
    return text


STARTS = (
    "a: {b: [1, x], c: 'd e'}\n",
    'a:\n  - b: "c\n    d"\n  - >\n    e\n    f\nq: [a, {b: c}]\n',
    '{"a": 1, "b": [2, "x"]}\n',
    "a: |\n  x\n   y\n\nb: >-\n  z\n\n  w\n",
    "a: b c\n  d\nq: 'x'\n",
)
PIECES = (
    *": , ? [ ] { } \" ' | > # \\ ! & * % @ ` ~ = - 1 e a \xa0 \ufeff \U0001f600".split(" "),
    *("\t", " ", "\n", "\n  ", "\n    ", "\r", "\r\n", ": ", "- ", "? ", ", ", " #", "''", '""', "---", "...", "\n- "),
    *("\\\n  ", "\\t", "\\x41", "\\/", "\\u0041", "? a\n: b", "<<", "a:b", "a#b", "::", ",]", ",}", "[,", "1e3", "2.5"),
)


def test_the_committed_run_was_long_enough_and_found_nothing() -> None:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    assert found["n_files"] >= N_SOAK and found["violations"] == []
    assert found["slowest_cpu_s"] < 5.0 and "--coverage" in found["command"]
