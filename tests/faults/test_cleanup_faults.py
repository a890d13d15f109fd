"""Killed while old checkpoints are deleted: under its name a checkpoint is whole or not there, never half."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from guards.errors import CheckpointError
from guards.manifest import manifest_path_for, verify_checkpoint, write_manifest
from loop.home import Home
from loop.run import _clean_up
from loop.run_config import Cleanup
from loop.sealed_checkpoints import open_sealed, seal, sealed_directory
from tests.in_process_backend import Killed
from tests.judged_home import JudgedHome, judged_home, put_into_home, run_report


@pytest.fixture
def rejected(tmp_path: Path) -> JudgedHome:
    """A rejected candidate whose files lie in the home, sealed."""
    home = judged_home(tmp_path, outcome="fail")
    put_into_home(home, "candidate")
    write_manifest(manifest_path_for(directory_of(home)), home.world.manifests["candidate"])
    open_sealed(home.path, home.candidate)
    return home


def directory_of(home: JudgedHome) -> Path:
    return sealed_directory(home.path, home.candidate)


def clean_up(home: JudgedHome) -> None:
    config = cast(Any, SimpleNamespace(cleanup=Cleanup(keep_rejected=0)))
    reports = list(run_report(home).candidates)
    _clean_up(Home(home.path, home.world.store), config, reports, actor="runner")


def die(*_: object, **__: object) -> None:
    raise Killed


def delete_half_and_die(path: str | Path, **_: object) -> None:
    (Path(path) / "model.safetensors").unlink()
    raise Killed


MOMENTS: dict[str, tuple[str, Callable[..., None]]] = {
    "before the manifest is gone": ("pathlib.Path.unlink", die),
    "before there is another name": ("tempfile.mkdtemp", die),
    "before it is renamed": ("pathlib.Path.rename", die),
    "when half of it is deleted": ("shutil.rmtree", delete_half_and_die),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_while_deleting(rejected: JudgedHome, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    directory = directory_of(rejected)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*MOMENTS[moment])
        clean_up(rejected)
    assert rejected.world.kinds().count("cleanup") == 1, "the log says it before the files go"
    if directory.exists():
        verify_checkpoint(directory, rejected.candidate)  # refuses half of one
    if manifest_path_for(directory).exists():
        open_sealed(rejected.path, rejected.candidate)

    clean_up(rejected)
    assert not directory.exists() and not manifest_path_for(directory).exists()
    with pytest.raises(CheckpointError) as refused:
        open_sealed(rejected.path, rejected.candidate)
    assert refused.value.rule == "manifest.not-sealed"
    assert rejected.world.kinds().count("cleanup") == 1
    rejected.world.store.verify()


def test_what_a_killed_clean_up_left_goes_with_the_next_sealing(
    rejected: JudgedHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", delete_half_and_die)
        clean_up(rejected)
    assert list((rejected.path / "checkpoints").glob(".*.partial"))
    rejected.world.checkpoint("another")
    sealed, _ = seal(rejected.world.directories["another"], rejected.path)
    left = {path.name for path in (rejected.path / "checkpoints").iterdir()}
    assert left == {".lock", sealed.name, f"{sealed.name}.manifest.json"}
