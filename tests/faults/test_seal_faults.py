"""Killed while sealing: the directory is there and its manifest is not. It is sealed again, and not believed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guards.canonical import sha256_file
from guards.errors import CheckpointError
from guards.manifest import manifest_path_for
from guards.policy import resolve_policy
from loop.home import Home
from loop.recorded_steps import RecordedSteps
from loop.root import ensure_base, ensure_root, make_root
from loop.root_package import ROWS_FILE, load_root_spec
from loop.sealed_checkpoints import open_sealed, sealed_directory
from tests.in_process_backend import InProcessBackend, Killed, quiet
from tests.tiny_world import build_tiny_world


@pytest.fixture
def package(tmp_path: Path, tiny_checkpoint: Path) -> Path:
    """A root package that names its base, and no root yet."""
    build_tiny_world(tmp_path / "world", tiny_checkpoint)
    return tmp_path / "world" / "root"


def kill_before_the_manifest(
    monkeypatch: pytest.MonkeyPatch, home: Home, digest: str, action: Callable[[], object]
) -> Path:
    """Let ``action`` die between the checkpoint's directory and its manifest; returns the directory."""

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("loop.sealed_checkpoints.write_manifest", die)
        action()
    directory = sealed_directory(home.path, digest)
    assert directory.is_dir() and not manifest_path_for(directory).exists()
    return directory


def test_a_base_whose_sealing_was_cut_off_is_sealed_again(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, spec = Home.open(tmp_path / "home"), load_root_spec(package)
    kill_before_the_manifest(monkeypatch, home, spec.base_digest, lambda: ensure_base(home, spec, quiet))
    assert ensure_base(home, spec, quiet) == spec.base_digest
    open_sealed(home.path, spec.base_digest)  # refuses what has no manifest


def test_a_base_whose_sealing_was_cut_off_is_not_believed(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, spec = Home.open(tmp_path / "home"), load_root_spec(package)
    directory = kill_before_the_manifest(monkeypatch, home, spec.base_digest, lambda: ensure_base(home, spec, quiet))
    (directory / "generation_config.json").write_text("{}")
    with pytest.raises(CheckpointError) as refused:
        ensure_base(home, spec, quiet)
    assert refused.value.rule == "manifest.digest-mismatch"
    assert not manifest_path_for(directory).exists()


def test_a_root_whose_sealing_was_cut_off_is_sealed_again(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = Home.open(tmp_path / "maker")
    root = make_root(package, maker, backend=InProcessBackend(), stage=quiet, actor="tester").trained_digest
    pinned = (package / "root.yaml").read_text().replace("\ndigest: null", f"\ndigest: {root}")
    pinned = pinned.replace("rows_digest: null", f"rows_digest: {sha256_file(package / ROWS_FILE)}")
    (package / "root.yaml").write_text(pinned)

    home = Home.open(tmp_path / "home")
    ensure_base(home, load_root_spec(package), quiet)
    policy = resolve_policy(package.parent / "root_policy.yaml")

    def ensure() -> str:
        steps = RecordedSteps(home, InProcessBackend(), quiet, actor="tester", run=None)
        return ensure_root(home, steps, package, policy, quiet, actor="tester", run=None, retrain=False)[0]

    kill_before_the_manifest(monkeypatch, home, root, ensure)
    assert ensure() == root
    open_sealed(home.path, root)
