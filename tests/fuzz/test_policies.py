"""A sample of the fuzzed policies, and in ``make soak`` all of them; see tests/fuzz/run_policies.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz.policy_mutations import file_number, seeds
from tests.fuzz.policy_target import PolicyTarget, Violated, undeclared_keys
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
    # Kept in the home, so that a soak that was stopped goes on where it was.
    state = request.config.getoption("--stairlock-home") / "fuzz" / "policies"
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


def test_the_committed_run_was_long_enough_and_found_nothing() -> None:
    found = json.loads(RESULT.read_text(encoding="utf-8"))
    assert found["n_files"] >= N_SOAK and found["violations"] == []
    assert found["slowest_cpu_s"] < 5.0 and "--coverage" in found["command"]
