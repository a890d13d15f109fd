"""A home: the directory that holds the store, sealed checkpoints, step outputs and data.

::

    HOME/stairlock.db      ledger and state          HOME/steps/KIND-KEY/   finished steps
    HOME/checkpoints/      sealed checkpoints        HOME/data/DIGEST.jsonl rows and prompts
    HOME/salt.key          keeps short outputs from being guessed once they are withheld
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from guards.canonical import sha256_bytes
from guards.durable import write_whole
from guards.store import Store
from loop.step import Input, StepSpec

_NAME_HEX = 16


class Home:
    """Paths and files of one home; the store is opened with it."""

    def __init__(self, path: Path, store: Store) -> None:
        self.path = path
        self.store = store

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Home:
        """Open a home; with ``create`` make it first.

        Raises:
            LedgerError: as :meth:`guards.store.Store.open`.
        """
        store = Store.open(path, create=create)
        return cls(store.home, store)

    def step_dir(self, spec: StepSpec) -> Path:
        """Where the outputs of this computation lie, or would lie."""
        return self.path / "steps" / f"{spec.kind}-{spec.key.removeprefix('sha256:')[:_NAME_HEX]}"

    def keep_file(self, data: bytes) -> Input:
        """Keep bytes under their digest; the same bytes are kept once."""
        digest = sha256_bytes(data)
        path = self.path / "data" / f"{digest.removeprefix('sha256:')[:_NAME_HEX]}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_whole(path, data)
        return Input(kind="file", path=path, digest=digest)

    def file_of(self, digest: str) -> Path:
        """Where the file of this digest lies, or would lie."""
        return self.path / "data" / f"{digest.removeprefix('sha256:')[:_NAME_HEX]}.jsonl"

    def salt_key(self) -> Input:
        """The file with the key that salts are made with: 32 random bytes, made once, readable by its owner."""
        path = self.path / "salt.key"
        if not path.exists():
            write_whole(path, secrets.token_hex(32).encode())
        os.chmod(path, 0o600)  # each time: a kill may come between writing and this
        return Input(kind="file", path=path, digest=sha256_bytes(path.read_bytes()))
