"""Merges in one home: a dead one's leftovers go, a living one's files stay."""

from __future__ import annotations

import multiprocessing
import threading
from pathlib import Path

import pytest

from guards.durable import locked
from guards.manifest import scan_checkpoint
from loop.sealed_checkpoints import seal
from loop.sealing import merge_and_seal
from tests.command_line import replace_module
from tests.store_world import make_checkpoint


def fake_merge(monkeypatch: pytest.MonkeyPatch, *weights: int) -> list[Path]:
    """Stands in for loop.merge: each call writes a checkpoint with the next weight; returns where."""
    written: list[Path] = []

    def merge_adapter(_base: Path, _adapter: Path, out_dir: Path, **_: object) -> None:
        make_checkpoint(out_dir, weights[len(written)])
        written.append(out_dir)

    replace_module(monkeypatch, "loop.merge", merge_adapter=merge_adapter)
    return written


def merge(home: Path) -> str:
    return merge_and_seal(home, parent="sha256:" + "0" * 64, adapter_dir=home, report=lambda *_: None).digest


def test_what_a_killed_merge_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_merge(monkeypatch, 1)
    dead = tmp_path / "work" / "merge-dead"
    dead.mkdir(parents=True)
    digest = merge(tmp_path)
    assert digest == scan_checkpoint(make_checkpoint(tmp_path / "same", 1)).digest
    assert list((tmp_path / "work").glob("merge-*")) == []


def _hold(home: Path, ready: object, done: object) -> None:
    """Another run's merge that is under way."""
    with locked(home / "work" / ".merge.lock"):
        (home / "work" / "merge-alive").mkdir()
        ready.set()  # type: ignore[attr-defined]
        done.wait()  # type: ignore[attr-defined]


def test_another_runs_merge_is_waited_for_and_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_merge(monkeypatch, 2)
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()
    other = fork.Process(target=_hold, args=(tmp_path, ready, done))
    other.start()
    assert ready.wait(60)
    merging = threading.Thread(target=merge, args=(tmp_path,), daemon=True)
    merging.start()
    merging.join(0.3)
    assert merging.is_alive() and (tmp_path / "work" / "merge-alive").is_dir()
    done.set()
    other.join(60)
    merging.join(60)
    assert not merging.is_alive()
    seal(make_checkpoint(tmp_path / "same", 2), tmp_path)  # sealed by the merge: nothing is written twice
    assert len(list((tmp_path / "checkpoints").glob("*.manifest.json"))) == 1
