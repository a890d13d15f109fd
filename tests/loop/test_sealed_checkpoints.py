"""Sealing: under its digest, complete or not at all, as often as one likes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import loop.sealed_checkpoints
from guards.errors import CheckpointError
from guards.manifest import manifest_path_for, read_manifest, scan_checkpoint
from loop.sealed_checkpoints import open_sealed, seal, sealed_directory


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "made" / "checkpoint"))


def names(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "checkpoints").iterdir() if path.name != ".lock")


@pytest.mark.parametrize("move", [False, True])
def test_seal_and_open(checkpoint: Path, tmp_path: Path, move: bool) -> None:
    expected = scan_checkpoint(checkpoint)
    directory, manifest = seal(checkpoint, tmp_path / "home", move=move)
    assert manifest == expected == read_manifest(manifest_path_for(directory))
    assert directory.name == manifest.digest.removeprefix("sha256:")[:16]
    assert open_sealed(tmp_path / "home", manifest.digest) == (directory, manifest)
    assert names(tmp_path / "home") == [directory.name, f"{directory.name}.manifest.json"]
    assert checkpoint.exists() is not move


@pytest.mark.parametrize("move", [False, True])
def test_sealing_again_changes_nothing(checkpoint: Path, tmp_path: Path, move: bool) -> None:
    home = tmp_path / "home"
    first = seal(checkpoint, home)
    stamps = {path: path.stat().st_mtime_ns for path in first[0].iterdir()}
    assert seal(checkpoint, home, move=move) == first
    assert {path: path.stat().st_mtime_ns for path in first[0].iterdir()} == stamps
    assert checkpoint.exists() is not move


def test_sealing_in_place_with_move_does_not_remove_it(checkpoint: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    directory, manifest = seal(checkpoint, home)
    seal(directory, home, move=True)
    assert open_sealed(home, manifest.digest) == (directory, manifest)


def test_two_checkpoints_lie_side_by_side(checkpoint: Path, tiny_candidate: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert seal(checkpoint, home)[0] != seal(tiny_candidate, home)[0]
    assert len(names(home)) == 4


def test_nothing_of_a_sealing_that_was_cut_off_is_believed(checkpoint: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    digest = scan_checkpoint(checkpoint).digest
    leftover = home / "checkpoints" / ".0123.abc.partial"
    leftover.mkdir(parents=True)
    (leftover / "config.json").write_text("{}")
    with pytest.raises(CheckpointError) as refusal:
        open_sealed(home, digest)
    assert refusal.value.rule == "manifest.not-sealed"
    directory, _ = seal(checkpoint, home)
    assert names(home) == [directory.name, f"{directory.name}.manifest.json"]


def test_a_source_that_changes_while_it_is_copied(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = loop.sealed_checkpoints._copy

    def tampering(source: Path, *rest: object) -> None:
        (source / "chat_template.jinja").write_text("other")
        honest(source, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.sealed_checkpoints, "_copy", tampering)
    digest = scan_checkpoint(checkpoint).digest
    with pytest.raises(CheckpointError) as refusal:
        seal(checkpoint, tmp_path / "home")
    assert refusal.value.rule == "manifest.digest-mismatch"
    assert not sealed_directory(tmp_path / "home", digest).exists()
    assert names(tmp_path / "home") == []


def test_progress_is_in_bytes(checkpoint: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    _, manifest = seal(checkpoint, tmp_path / "home", progress=lambda *call: seen.append(call))
    assert seen[-1] == ("sealing", manifest.size_bytes, manifest.size_bytes)
