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


_LOOP = Path(str(loop.__file__)).parent
# What a fine-tune depends on, and no more: the models of a bank outlive changes to everything else.
_TRAINING = (
    "steps/train.py",
    "train_record.py",
    "rows.py",
    "master_weights.py",
    "checkpoint_io.py",
)


@functools.cache
def code_digest(kind: str = "") -> str:
    """Digest of the code that a step of this kind runs, as it lies on disk, read once in a process.

    That is all of guards and loop, except for the step ``fine-tune``: only what trains.
    """
    if kind == "fine-tune":
        return digest_of({f"loop/{name}": sha256_file(_LOOP / name) for name in _TRAINING})
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
