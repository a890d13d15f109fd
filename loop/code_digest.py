"""Which code this is: a digest over the Python sources of the packages that steps run in.

Not covered: the libraries (a step's manifest names their versions), and the data files of the
packages (what a step reads of them comes in as inputs, by digest).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import guards
import loop
from guards.canonical import digest_of, sha256_file

_LOOP = Path(str(loop.__file__)).parent
# What the models and measurements of a bank depend on, and no more: they outlive changes to everything else.
_TRAINING = ("steps/train.py", "train_record.py", "rows.py", "master_weights.py", "checkpoint_io.py")
_PROBING = (
    "steps/probe.py",
    "drift/kit_documents.py",
    "drift/kit_files.py",
    "drift/trigger_search.py",
    "drift/findings.py",
    "checkpoint_io.py",
)
_VERIFYING = ("steps/verify.py", "gauntlet/verify.py", "gauntlet/faults.py", "engine.py", "checkpoint_io.py")


@functools.cache
def code_digest(kind: str = "") -> str:
    """Digest of the code that a step of this kind runs, as it lies on disk, read once in a process.

    That is all of guards and loop, except for the steps that a bank is made with: only what trains
    (``fine-tune``), probes (``probe``) or asks for behaviour (``verify``).
    """
    if kind == "fine-tune":
        return _digest_of_files(_TRAINING)
    if kind == "verify":
        return _digest_of_files(_VERIFYING)
    if kind == "probe":
        return digest_of([_digest_of_files(_PROBING), digest_of_sources({"probes": _LOOP.parent / "probes"})])
    return digest_of_sources({package.__name__: Path(str(package.__file__)).parent for package in (guards, loop)})


def _digest_of_files(names: Sequence[str]) -> str:
    return digest_of({f"loop/{name}": sha256_file(_LOOP / name) for name in names})


def digest_of_sources(packages: dict[str, Path]) -> str:
    """Digest over the names and contents of all ``*.py`` files below each package's directory."""
    return digest_of(
        {
            f"{name}/{path.relative_to(directory).as_posix()}": sha256_file(path)
            for name, directory in packages.items()
            for path in directory.rglob("*.py")
        }
    )
