"""The store of one home: a SQLite file that holds the log and the state that follows from it.

``with store.read() as history`` reads one consistent snapshot. ``with store.write() as
transaction`` is how an action changes anything: it holds the only write lock from before its
first read to its commit, and every entry is written together with its effect, or neither is. A
process killed anywhere in between leaves the store as it was before the transaction.

Only SQLAlchemy Core is used; what is particular to SQLite is in :func:`_sqlite_engine`. On
another database the entries' primary key still refuses a decision on a state that has passed
(see :func:`guards.ledger.append`).

Not covered: a home on a network file system that does not lock or flush as SQLite needs it; a
disk that lies about flushing; somebody who edits the file (``Store.verify`` finds edits and
entries that no action would have written, a head that was kept elsewhere finds truncation and a
log that was written anew).
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.exc import DatabaseError, IntegrityError

from guards import ledger, state
from guards.durable import locked
from guards.entries import Body, Genesis, Logged, kind_of, typed, typed_as
from guards.errors import ActionRefused, LedgerError
from guards.history import History
from guards.replay.walk import Replay
from guards.roles import Roles

DATABASE_FILE = "stairlock.db"
_CREATE_LOCK = ".create.lock"
ROLES_FILE = "roles.yaml"
BUSY_TIMEOUT_S = 30.0

B = TypeVar("B", bound=Body)
Clock = Callable[[], datetime]

_WRITES = "stairlock_writes"


def utc_now() -> datetime:
    """The machine's clock, aware."""
    return datetime.now(UTC)


class Transaction:
    """One action's reads and writes. Nothing is visible to others before the block ends."""

    def __init__(self, conn: Connection, clock: Clock) -> None:
        self._conn = conn
        self.history = History(conn)
        self.now = clock()
        # Read before anything else: see guards.ledger.append.
        self._next_seq = ledger.size(conn)

    def append(self, actor: str, body: B) -> Logged[B]:
        """Write an entry and its effect on the state.

        Raises:
            LedgerError: the entry may not be appended (:func:`guards.ledger.append`).
        """
        entry = ledger.append(
            self._conn,
            seq=self._next_seq,
            moment=self.now,
            kind=kind_of(body),
            actor=actor,
            body=body.model_dump(mode="json"),
        )
        state.apply(self._conn, typed(entry))
        self._next_seq += 1
        return typed_as(entry, type(body))


class Store:
    """An open home. Safe to share between threads; give every process its own."""

    def __init__(self, home: Path, engine: Engine, clock: Clock) -> None:
        self.home = home
        self._engine = engine
        self._writer = engine.execution_options(**{_WRITES: True})
        self._clock = clock

    @classmethod
    def open(
        cls,
        home: Path,
        *,
        create: bool = False,
        clock: Clock = utc_now,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> Store:
        """Open the store of ``home``; with ``create``, make it (and its first entry) where there is none.

        ``clock`` returns an aware datetime. ``busy_timeout_s`` is how long a writer waits for another.

        Raises:
            LedgerError: ``store.missing``, ``store.corrupt``, ``store.disk-full``, ``store.busy``,
                ``store.not-writable``.
        """
        home = home.resolve()
        path = home / DATABASE_FILE
        if create:
            home.mkdir(parents=True, exist_ok=True)
        elif not path.is_file():
            raise _missing(home)
        store = cls(home, _sqlite_engine(path, busy_timeout_s), clock)
        if create:
            store._create()
        else:
            with store._connect(writes=False) as conn:
                if not inspect(conn).has_table(ledger.entries.name) or ledger.size(conn) == 0:
                    raise _missing(home)
        return store

    @property
    def roles_path(self) -> Path:
        """The file that says who may sign (:mod:`guards.roles`)."""
        return self.home / ROLES_FILE

    def now(self) -> datetime:
        """What the store's clock says."""
        return self._clock()

    @contextmanager
    def read(self) -> Generator[History]:
        """A consistent snapshot of everything recorded."""
        with self._connect(writes=False) as conn:
            yield History(conn)

    @contextmanager
    def write(self) -> Generator[Transaction]:
        """The write lock, for one action. Commits at the end of the block; any exception undoes it all.

        Raises:
            LedgerError: ``store.busy``, ``store.disk-full``, ``store.conflict``, ``store.corrupt``,
                ``store.not-writable``.
            ActionRefused: ``actions.bad-argument`` if a body in the block does not fit its model.
        """
        with self._connect(writes=True) as conn:
            yield Transaction(conn, self._clock)

    def head(self) -> ledger.TreeHead:
        """The tree head now: keep it elsewhere, and a later :meth:`verify` can tell if the log was cut."""
        with self.read() as history:
            return history.head()

    def verify(self, *, trusted_head: ledger.TreeHead | None = None, roles: Sequence[Roles] = ()) -> ledger.TreeHead:
        """Hash the whole log again, ask of each entry whether it was allowed, and check the state.

        ``trusted_head`` was kept elsewhere: the log must extend it. ``roles`` are the roles files
        that sign-offs are verified against; without any, their signatures are not verified.
        Returns the recomputed head.

        Not covered: a log that was written anew as a whole, and verdicts that do not follow from
        their evidence (see :mod:`guards.replay.walk`).

        Raises:
            LedgerError: what was edited, dropped, reordered or made up; see
                :func:`guards.ledger.verify`, :meth:`guards.replay.walk.Replay.take` and
                :func:`guards.state.verify`.
        """
        rows: list[state.Row] = []
        walk = Replay(roles=roles)

        def take(entry: ledger.Entry) -> None:
            logged = typed(entry)
            walk.take(logged)
            rows.extend(state.rows_of(logged))

        with self._connect(writes=False) as conn:
            head = ledger.verify(conn, trusted_head=trusted_head, on_entry=take)
            state.verify(conn, rows)
        return head

    def close(self) -> None:
        """Let go of the database file."""
        self._engine.dispose()

    def _create(self) -> None:
        # Tables and first entry in one transaction: a home is whole or it is not there. One process at a
        # time, for SQLite does not wait, whatever its timeout, where two at once switch a new file to WAL.
        try:
            with locked(self.home / _CREATE_LOCK), self._connect(writes=True) as conn:
                ledger.metadata.create_all(conn)
                if ledger.size(conn) == 0:
                    Transaction(conn, self._clock).append("stairlock", Genesis(log_id=secrets.token_hex(16)))
        except PermissionError as error:
            raise _not_writable(self.home, error) from error

    @contextmanager
    def _connect(self, *, writes: bool) -> Generator[Connection]:
        engine = self._writer if writes else self._engine
        try:
            with engine.begin() as conn:
                yield conn
        except DatabaseError as error:
            raise _refusal(error, self.home) from error
        except ValidationError as error:
            # A body that an action made from what its caller passed; entries that are read raise LedgerError.
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ActionRefused(
                "actions.bad-argument", f"{error.title}.{where}: {first['msg']}", got=repr(first["input"])[:200]
            ) from error


def _sqlite_engine(path: Path, busy_timeout_s: float) -> Engine:
    engine = create_engine(f"sqlite:///{path}")

    def on_connect(connection: Any, _record: object) -> None:
        # The driver's own BEGIN is deferred: two actions could read the same state and both decide on it.
        connection.isolation_level = None
        cursor = connection.cursor()
        # First, so that a process that opens the file while another creates it waits as well.
        cursor.execute(f"PRAGMA busy_timeout={round(busy_timeout_s * 1000)}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    def on_begin(conn: Connection) -> None:
        writes = conn.get_execution_options().get(_WRITES, False)
        conn.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    return engine


def _missing(home: Path) -> LedgerError:
    return LedgerError(
        "store.missing",
        f"there is no store in {home}",
        fix="check --home; `stairlock run` and `stairlock model add` make a new one",
    )


def _not_writable(home: Path, error: object) -> LedgerError:
    return LedgerError(
        "store.not-writable", f"{home} may not be written", got=str(error), fix="check who owns the directory"
    )


def _refusal(error: DatabaseError, home: Path) -> LedgerError:
    """What a database error means to the person who sees it."""
    original = error.orig
    if isinstance(error, IntegrityError):
        return LedgerError(
            "store.conflict",
            "another process recorded the same thing first, or something else in between",
            got=str(original),
            fix="run the same command again",
        )
    # The low byte is the primary result code; the rest says more about it.
    code = (getattr(original, "sqlite_errorcode", None) or 0) & 0xFF
    if code == sqlite3.SQLITE_BUSY:
        return LedgerError(
            "store.busy", f"another process is writing to {home}", fix="wait until it is done, then run this again"
        )
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return LedgerError(
            "store.disk-full",
            f"the disk refused: nothing of this action was recorded in {home}",
            got=str(original),
            fix="free some disk space and run the same command again",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return _not_writable(home, original)
    return LedgerError(
        "store.corrupt",
        f"the database in {home} cannot be read",
        got=str(original),
        fix="keep this copy, and restore a backup that verifies (stairlock log --verify)",
    )
