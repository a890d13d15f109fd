"""From an adapter to a sealed checkpoint: merge into the parent in float64, then seal under the digest."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from guards.durable import locked
from guards.manifest import CheckpointManifest
from loop.backends.port import ReportProgress
from loop.sealed_checkpoints import seal, sealed_directory


def merge_and_seal(home: Path, *, parent: str, adapter_dir: Path, report: ReportProgress) -> CheckpointManifest:
    """Merge an adapter into the sealed checkpoint ``parent`` and seal the result in ``home``.

    One merge at a time in a home: another run's is waited for, and one that was killed has let go of
    the lock, so that whatever lies there under the lock is a dead one's.

    Raises:
        CheckpointError: the parent is not what its digest says.
        ModelError: any rule of :func:`loop.merge.merge_adapter`.
    """
    from loop.merge import merge_adapter  # imports torch

    work = home / "work"
    with locked(work / ".merge.lock"):
        for leftover in work.glob("merge-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix="merge-", dir=work))
        try:
            merge_adapter(
                sealed_directory(home, parent),
                adapter_dir,
                scratch / "checkpoint",
                expected_base_digest=parent,
                progress=report,
            )
            _, manifest = seal(scratch / "checkpoint", home, move=True, progress=report)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return manifest
