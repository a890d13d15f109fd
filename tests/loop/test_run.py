"""The whole path on the tiny model: from data to promotion, resumed, repeated and refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from guards.errors import ActionRefused
from loop.backends.local import LocalBackend
from loop.home import Home
from loop.reproduce import reproduce
from loop.run import RunReport, plan_loop, run_loop
from tests.tiny_world import build_tiny_world


def quiet(_title: str):
    return lambda _what, _done, _total: None


def run(config: Path, home: Home, *, resume: bool = False) -> RunReport:
    return run_loop(
        config, home, backend=LocalBackend(), stage=quiet, actor="tester", resume=resume, retrain_root=False
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> tuple[Path, Home, RunReport]:
    directory = tmp_path_factory.mktemp("world")
    config = build_tiny_world(directory / "world", tiny_checkpoint)
    home = Home.open(directory / "home")
    return config, home, run(config, home)


def kinds(home: Home) -> Counter[str]:
    with home.store.read() as history:
        return Counter(entry.kind for entry in history.entries())


def test_a_run_promotes_what_passes_and_the_log_says_so(finished: tuple[Path, Home, RunReport]) -> None:
    _, home, report = finished
    assert [candidate.outcome for candidate in report.candidates] == ["promote", "promote"], report
    assert report.champion_after == report.candidates[1].digest
    assert report.champion_before == report.root
    counted = kinds(home)
    assert counted["promoted"] == 2 and counted["root"] == 1 and counted["run_finished"] == 1
    home.store.verify()


def test_the_seed_of_the_items_enters_the_log_after_the_candidate(finished: tuple[Path, Home, RunReport]) -> None:
    _, home, report = finished
    for candidate in report.candidates:
        with home.store.read() as history:
            order = [entry.kind for entry in history.entries(candidate=candidate.digest)]
        assert order.index("sealed") < order.index("seed") < order.index("evidence") < order.index("verdict")


def test_resuming_a_finished_run_adds_nothing(finished: tuple[Path, Home, RunReport]) -> None:
    config, home, report = finished
    before = kinds(home)
    again = run(config, home, resume=True)
    assert kinds(home) == before
    assert again.champion_after == report.champion_after
    assert [c.digest for c in again.candidates] == [c.digest for c in report.candidates]


def test_a_second_run_of_the_same_name_is_refused(finished: tuple[Path, Home, RunReport]) -> None:
    config, home, _ = finished
    with pytest.raises(ActionRefused) as refused:
        run(config, home)
    assert refused.value.rule == "run.exists"


def test_reproduce_gives_the_same_digest(finished: tuple[Path, Home, RunReport]) -> None:
    _, home, report = finished
    again = reproduce(home, report.candidates[0].digest, stage=quiet)
    assert again.is_same and again.batches_are_same


@pytest.mark.slow
def test_reproduce_gives_the_same_digest_for_ten_of_ten(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = build_tiny_world(tmp_path / "world", tiny_checkpoint)
    config.write_text(config.read_text().replace("cycles: 2", "cycles: 10"))
    home = Home.open(tmp_path / "home")
    candidates = [candidate.digest for candidate in run(config, home).candidates]
    assert len(set(candidates)) == 10
    assert [reproduce(home, digest, stage=quiet).got for digest in candidates] == candidates


def test_a_failed_gate_rejects_and_the_champion_stays(tmp_path: Path, tiny_checkpoint: Path) -> None:
    # At most 1% right, shown with 12 items at 80% confidence: cannot be shown, so it is never a pass.
    config = build_tiny_world(tmp_path / "world", tiny_checkpoint, level=0.01)
    home = Home.open(tmp_path / "home")
    report = run(config, home)
    assert all(candidate.outcome != "promote" for candidate in report.candidates)
    assert report.champion_after == report.root


def test_the_plan_computes_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = build_tiny_world(tmp_path / "world", tiny_checkpoint)
    lines = plan_loop(config)
    assert any("train from the root" in line for line in lines)
    assert not (tmp_path / "home").exists()
