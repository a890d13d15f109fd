"""Sealed checkpoints under a home: ``HOME/checkpoints/<16 hex>/`` and its manifest beside it.

The directory appears by a rename, the manifest after it. So a directory without a manifest is one
whose sealing was cut off; sealing the same files again finishes it.

Not covered: someone who edits a sealed directory. ``open_sealed`` hashes every file and refuses.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from guards.durable import locked, move_directory
from guards.errors import CheckpointError
from guards.manifest import (
    CheckpointManifest,
    manifest_path_for,
    read_manifest,
    scan_checkpoint,
    verify_checkpoint,
    write_manifest,
)
from loop.checkpoint_io import Progress, new_checkpoint

N_NAME_HEX = 16
_COPY_BYTES = 4 << 20


def sealed_directory(home: Path, digest: str) -> Path:
    """Where the checkpoint of this digest lies, or would lie."""
    return home / "checkpoints" / digest.removeprefix("sha256:")[:N_NAME_HEX]


def open_sealed(home: Path, digest: str) -> tuple[Path, CheckpointManifest]:
    """The directory of a sealed checkpoint, every file of it hashed and found right.

    Raises:
        CheckpointError: ``manifest.not-sealed`` (none of that digest here), ``manifest.no-manifest``
            (its sealing was cut off), or any rule of :func:`guards.manifest.verify_checkpoint`.
    """
    directory = sealed_directory(home, digest)
    if not directory.is_dir():
        raise CheckpointError(
            "manifest.not-sealed",
            f"{home} has no checkpoint of this digest",
            got=digest,
            fix="add it (stairlock model add), or make it again (stairlock reproduce) if it was cleaned up",
        )
    read_manifest(manifest_path_for(directory))
    return directory, verify_checkpoint(directory, digest)


def seal(
    source: Path, home: Path, *, move: bool = False, progress: Progress | None = None
) -> tuple[Path, CheckpointManifest]:
    """Copy a checkpoint directory into the home under its digest, and write its manifest last.

    ``source`` is checked before anything is copied, and the copy is hashed again. With ``move``
    the source is gone afterwards; on the same file system it is renamed into place. Write new
    checkpoints somewhere else in the home and seal them with ``move``; never write into
    ``HOME/checkpoints`` directly. Sealing what is sealed already changes nothing.

    Raises:
        CheckpointError: any rule of the scan; ``manifest.digest-mismatch`` (the source changed
            while it was copied, or the home holds other files under the same name).
        ModelError: ``model.no-space``.
    """
    manifest = scan_checkpoint(source)
    target = sealed_directory(home, manifest.digest)
    with _one_sealer_at_a_time(home):
        if target.exists():
            verify_checkpoint(target, manifest.digest)
        elif move and source.stat().st_dev == target.parent.stat().st_dev:
            move_directory(source, target)
        else:
            _copy(source, manifest, target, progress)
        write_manifest(manifest_path_for(target), manifest)
    if move and source.exists() and source.resolve() != target.resolve():
        shutil.rmtree(source)
    return target, manifest


def _copy(source: Path, manifest: CheckpointManifest, target: Path, progress: Progress | None) -> None:
    n_done = 0
    with new_checkpoint(target) as partial:
        for entry in manifest.files:
            handle = os.open(source / entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(handle, "rb") as reader, (partial / entry.path).open("wb") as writer:
                while chunk := reader.read(_COPY_BYTES):
                    writer.write(chunk)
                    n_done += len(chunk)
                    if progress is not None:
                        progress("sealing", n_done, manifest.size_bytes)
        verify_checkpoint(partial, manifest.digest)


@contextmanager
def _one_sealer_at_a_time(home: Path) -> Generator[None]:
    """Hold the home's lock; what earlier sealers left half-done when they were killed is removed."""
    directory = home / "checkpoints"
    with locked(directory / ".lock"):
        for leftover in directory.glob(".*.partial"):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
        yield
