"""Which code this is: a digest over the Python sources of the packages that steps run in.

Not covered: the libraries (a step's manifest names their versions), and the data files of the
packages (what a step reads of them comes in as inputs, by digest).
"""

from __future__ import annotations

import functools
from pathlib import Path

import guards
import loop
from guards.canonical import digest_of, sha256_file


@functools.cache
def code_digest() -> str:
    """Digest of guards and loop as they lie on disk, read once in a process."""
    return digest_of_sources({package.__name__: Path(str(package.__file__)).parent for package in (guards, loop)})


def digest_of_sources(packages: dict[str, Path]) -> str:
    """Digest over the names and contents of all ``*.py`` files below each package's directory."""
    return digest_of(
        {
            f"{name}/{path.relative_to(directory).as_posix()}": sha256_file(path)
            for name, directory in packages.items()
            for path in directory.rglob("*.py")
        }
    )
