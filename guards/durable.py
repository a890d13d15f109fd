"""Files and directories that are either whole or absent, also after a power cut.

Write under a temporary name, flush to the disk, rename, flush the directory. A reader never sees
half of one. Not covered: a disk that lies about flushing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755


def fsync_directory(directory: Path) -> None:
    """Make the names in ``directory`` survive a crash."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that ``path`` is the old file or the new one, never a mixture.

    Raises:
        OSError: the disk is full, or the directory may not be written; the old file is untouched
            and no temporary file is left behind.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), FILE_MODE)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


@contextmanager
def whole_directory(path: Path) -> Generator[Path]:
    """A temporary directory beside ``path`` that becomes ``path`` when the block ends well.

    All files in it are flushed first and get mode 0644, so that no library's habits show. If the
    block raises, the temporary directory is removed and ``path`` stays absent. A killed process
    leaves a directory whose name begins with ``.`` and ends with ``.partial``; it is never read.

    Raises:
        FileExistsError: ``path`` exists, before or after the block.
        OSError: the disk is full, or the parent may not be written.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        yield temporary
        move_directory(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def move_directory(source: Path, target: Path) -> None:
    """Flush everything in ``source``, give its files mode 0644, and rename it to ``target``.

    Raises:
        FileExistsError: ``target`` exists.
        OSError: another file system, or no permission; ``source`` is where it was.
    """
    for path in sorted(source.rglob("*")):
        if path.is_symlink():
            continue
        if path.is_file():
            _flush(path)
        elif path.is_dir():
            fsync_directory(path)
    source.chmod(DIRECTORY_MODE)
    fsync_directory(source)
    if target.exists():  # rename would replace an empty directory silently
        raise FileExistsError(f"{target} exists")
    source.rename(target)
    fsync_directory(target.parent)


@contextmanager
def locked(lock_file: Path) -> Generator[None]:
    """Wait for, and hold, a lock between processes; it is released also when the holder is killed.

    Not reentrant: a process that takes the same lock twice waits for itself for ever.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _flush(file: Path) -> None:
    with file.open("rb") as stream:
        os.fchmod(stream.fileno(), FILE_MODE)
        os.fsync(stream.fileno())
