"""What is written durably is whole or absent."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from guards.durable import locked, move_directory, whole_directory, write_whole


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_write_whole_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_whole(target, b"one")
    write_whole(target, b"two")
    assert (target.read_bytes(), names(tmp_path)) == (b"two", ["a.json"])
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_write_whole_keeps_the_old_file_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    write_whole(target, b"one")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(target, b"two")
    assert (target.read_bytes(), names(tmp_path)) == (b"one", ["a.json"])


def test_whole_directory_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with whole_directory(target) as partial:
        (partial / "x").write_text("x")
        (partial / "x").chmod(0o600)
        assert not target.exists()
    assert names(tmp_path) == ["out"]
    assert stat.S_IMODE((target / "x").stat().st_mode) == 0o644


def test_whole_directory_leaves_nothing_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), whole_directory(tmp_path / "out") as partial:
        (partial / "x").write_text("x")
        raise RuntimeError("stop")
    assert names(tmp_path) == []


def test_whole_directory_never_replaces(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError), whole_directory(tmp_path / "out"):
        pass
    with pytest.raises(FileExistsError), whole_directory(tmp_path / "late"):
        (tmp_path / "late").mkdir()
    assert names(tmp_path) == ["late", "out"]


def test_move_directory_refuses_an_existing_target_and_keeps_the_source(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    with pytest.raises(FileExistsError):
        move_directory(tmp_path / "from", tmp_path / "to")
    assert names(tmp_path) == ["from", "to"]


def test_a_second_holder_waits_for_the_lock(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with locked(tmp_path / "lock"):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(timeout=0.2)
        order.append("first")
    thread.join(timeout=10)
    assert order == ["first", "second"]
