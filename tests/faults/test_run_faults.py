"""Somebody moves the champion while a run goes on: the run never promotes against one that is not in use.

The tiny world's run has two cycles. Each test begins where the first was promoted and the second's
candidate is about to be evaluated; then somebody else rolls back to the root.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guards import actions
from guards.errors import ActionRefused
from loop import run as run_module
from loop.backends.port import ReportProgress
from loop.gating import GateResult, gate_candidate
from loop.home import Home
from loop.recorded_steps import Stage
from loop.run import RunReport, run_loop
from loop.sealed_checkpoints import sealed_directory
from tests.in_process_backend import InProcessBackend, Killed, quiet
from tests.tiny_world import build_tiny_world

SECOND = "one-2"


def run(config: Path, home: Home, *, stage: Stage = quiet) -> RunReport:
    return run_loop(
        config, home, backend=InProcessBackend(), stage=stage, actor="tester", resume=True, retrain_root=False
    )


def when_the_second_is_evaluated(action: Callable[[], object]) -> Stage:
    def stage(title: str) -> ReportProgress:
        if title == f"{SECOND}: evaluate candidate":
            action()
        return quiet(title)

    return stage


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> tuple[Path, Path]:
    """The run's file, and a home in which it was killed before the second candidate was evaluated."""

    def die() -> None:
        raise Killed

    directory = tmp_path_factory.mktemp("begun")
    config = build_tiny_world(directory / "world", tiny_checkpoint)
    home = Home.open(directory / "home")
    with pytest.raises(Killed):
        run(config, home, stage=when_the_second_is_evaluated(die))
    home.store.close()
    return config, directory / "home"


@pytest.fixture
def config(begun: tuple[Path, Path]) -> Path:
    return begun[0]


@pytest.fixture
def home(begun: tuple[Path, Path], tmp_path: Path) -> Home:
    return Home.open(Path(shutil.copytree(begun[1], tmp_path / "home")))


def champions(home: Home) -> list[str]:
    """Every champion in order, the one in use last."""
    with home.store.read() as history:
        return [term.checkpoint for term in history.champions()]


def kinds(home: Home) -> list[str]:
    with home.store.read() as history:
        return [entry.kind for entry in history.entries()]


def second_candidate(home: Home) -> str:
    with home.store.read() as history:
        return [entry.body.candidate for entry in history.entries() if entry.kind == "sealed"][-1]


def roll_back_to_the_root(home: Home) -> None:
    root = champions(home)[0]
    actions.rollback(
        home.store,
        to=root,
        checkpoint_dir=sealed_directory(home.path, root),
        reason="worse in use",
        actor="somebody else",
    )


def test_the_champion_moves_before_the_decision(config: Path, home: Home) -> None:
    root, first = champions(home)
    second = second_candidate(home)
    with pytest.raises(ActionRefused) as refused:
        run(config, home, stage=when_the_second_is_evaluated(lambda: roll_back_to_the_root(home)))
    assert refused.value.rule == "actions.champion-changed"
    assert champions(home) == [root, first, root]
    with home.store.read() as history:
        look = history.latest_look(second)
        assert look is not None and history.decision(look.seq) is None

    # Gone on with, the candidate is the same and is gated again: against the champion in use.
    report = run(config, home)
    assert [candidate.digest for candidate in report.candidates] == [first, second]
    assert [candidate.promoted for candidate in report.candidates] == [True, True]
    assert champions(home) == [root, first, root, second]
    with home.store.read() as history:
        again = history.latest_look(second)
    assert again is not None and again.seq != look.seq
    assert (again.body.champion, again.body.compared_with) == (root, root)
    home.store.verify()


def test_the_champion_moves_between_decision_and_promotion(
    config: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, first = champions(home)
    second = second_candidate(home)

    def gate_then_roll_back(*arguments: Any, **named: Any) -> GateResult:
        result = gate_candidate(*arguments, **named)
        if named["name"] == SECOND:
            roll_back_to_the_root(home)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "gate_candidate", gate_then_roll_back)
        report = run(config, home)
    assert [candidate.outcome for candidate in report.candidates] == ["promote", "promote"]
    assert [candidate.promoted for candidate in report.candidates] == [True, False]
    assert champions(home) == [root, first, root]
    assert report.champion_after == root

    # The decision stands, and is still no reason to promote: it compared with another champion.
    before = home.store.verify()
    again = run(config, home)
    assert [candidate.promoted for candidate in again.candidates] == [True, False]
    assert again.candidates[1].digest == second
    assert home.store.verify() == before
