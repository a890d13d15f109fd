"""Score tables of recorded evidence, kept so that a policy can be simulated without reading it again.

A SQLite file that is derived from the evidence and may be deleted at will; one that cannot be read,
or was written by another version, is made anew. Tables are kept under the digests of the evidence
that they were made from, the metric and the grouping. Of every run it remembers size and time of
``records.jsonl`` when its digest was last found right: while both are as they were, the file is not
opened. Else it is hashed, and a table is used only if the records are the recorded ones. Several processes
may use it at once. What cannot be kept (another process holds it for long, the disk is full) is made again.

Not covered: somebody who edits the cache, or the evidence without touching size and time. Nothing is
decided on what is kept here, and ``stairlock policy simulate --no-cache`` does without.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from guards.canonical import sha256_file
from guards.errors import EvidenceError
from guards.evidence import RECORDS_FILE
from guards.gates.score_table import Cell, Pending, ScoreTable

CACHE_FILE = Path("cache") / "score_tables.db"
_VERSION = 2
"""Of what is kept: raise it where a table of the same evidence would now be another one."""

_WRITES_A_COMMIT = 500
_BUSY_TIMEOUT_S = 30.0

FileState = tuple[int, int]
"""Size in bytes, and time of the last change in nanoseconds."""

_SCHEMA = f"""
CREATE TABLE runs (evidence TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
                   records_sha256 TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE tables (key BLOB PRIMARY KEY, payload TEXT NOT NULL, sha256 BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""


class ScoreTableCache:
    """An open cache. Use it as a context manager; what is kept is written every so often, and at its end.

    Without a ``home`` it begins empty and is kept in no file: whatever it returns was made from the evidence.
    """

    def __init__(self, home: Path | None) -> None:
        self._db = _empty() if home is None else _opened(home / CACHE_FILE)
        self._n_written = 0
        self.n_found = 0
        self.n_made = 0

    def __enter__(self) -> ScoreTableCache:
        return self

    def __exit__(self, *_: object) -> None:
        self._commit()
        self._db.close()

    def is_unchanged(self, evidence: str, directory: Path) -> bool:
        """True if the records in ``directory`` are those that were read when ``evidence`` was remembered."""
        query = "SELECT size, mtime_ns, records_sha256 FROM runs WHERE evidence = ?"
        known = self._row(query, evidence)
        found = state_of_records(directory)
        if known is None or found is None:
            return False
        if found == (known[0], known[1]):
            return True
        if sha256_file(directory / RECORDS_FILE) != known[2]:
            return False
        self.remember(evidence, found, known[2])
        return True

    def remember(self, evidence: str, before: FileState | None, records_sha256: str) -> None:
        """Note that the records of ``evidence`` were read and found right; ``before`` is their state before that."""
        if before is not None:
            self._write("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?)", evidence, *before, records_sha256)

    def table(self, key: bytes) -> ScoreTable | None:
        """The table that was kept under ``key``; None if there is none, or it is damaged.

        Raises:
            EvidenceError: the refusal that was kept under ``key``, where no table can be made.
        """
        row = self._row("SELECT payload, sha256 FROM tables WHERE key = ?", key)
        if row is None or hashlib.sha256(row[0].encode()).digest() != row[1]:
            return None
        self.n_found += 1
        return _read(json.loads(row[0]))

    def keep(self, key: bytes, made: ScoreTable | EvidenceError) -> None:
        """Keep a table, or the refusal to make one, under ``key``."""
        self.n_made += 1
        payload = json.dumps(_written(made), separators=(",", ":"))
        digest = hashlib.sha256(payload.encode()).digest()
        self._write("INSERT OR REPLACE INTO tables VALUES (?, ?, ?)", key, payload, digest)

    def _row(self, query: str, *values: object) -> tuple[Any, ...] | None:
        try:
            return self._db.execute(query, values).fetchone()
        except sqlite3.DatabaseError:
            return None  # damaged somewhere inside: as if it were not there

    def _write(self, statement: str, *values: object) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.DatabaseError:
            return
        self._n_written += 1
        if self._n_written % _WRITES_A_COMMIT == 0:  # a kill loses little, and others wait little
            self._commit()

    def _commit(self) -> None:
        try:
            self._db.commit()
        except sqlite3.DatabaseError:
            self._db.rollback()


def state_of_records(directory: Path) -> FileState | None:
    """Size and time of a run's records now; None if they are gone."""
    try:
        found = (directory / RECORDS_FILE).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def table_key(candidate: str, reference: str | None, metric: str, group_by: str | None) -> bytes:
    """Under which a table is kept: digests of the evidence, the metric and how items are grouped."""
    return hashlib.sha256(json.dumps([candidate, reference, metric, group_by]).encode()).digest()


def _written(made: ScoreTable | EvidenceError) -> dict[str, Any]:
    if isinstance(made, EvidenceError):
        return {"refusal": [made.rule, made.message, made.got, made.expected, made.fix]}
    cells = [[c.cluster, c.source, c.candidate, c.reference, c.count] for c in made.cells]
    return {"cells": cells, "pending": [[p.cluster, p.source, p.count] for p in made.pending]}


def _read(value: dict[str, Any]) -> ScoreTable:
    refusal = value.get("refusal")
    if refusal is not None:
        rule, message, got, expected, fix = refusal
        raise EvidenceError(rule, message, got=got, expected=expected, fix=fix)
    cells = tuple(Cell(*cell) for cell in value["cells"])
    pending = tuple(Pending(*one) for one in value["pending"])
    return ScoreTable(cells=cells, n_items=sum(cell.count for cell in cells), pending=pending)


def _opened(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        db = _connected(path)
        if db.execute("PRAGMA user_version").fetchone()[0] == _VERSION:
            return db
        db.close()
    except sqlite3.OperationalError:  # busy, or the file cannot be written: not damaged, so it is left alone
        return _empty()
    except sqlite3.DatabaseError:
        pass  # not a database, or damaged: it is derived, so it is made anew
    for name in (path, *(path.with_name(path.name + suffix) for suffix in ("-journal", "-wal", "-shm"))):
        name.unlink(missing_ok=True)
    db = _connected(path)
    db.executescript(_SCHEMA)
    return db


def _empty() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.executescript(_SCHEMA)
    return db


def _connected(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S)
    db.execute("PRAGMA journal_mode = WAL")  # who reads does not wait for who writes
    db.execute("PRAGMA synchronous = OFF")  # nothing is lost that cannot be made again
    return db
