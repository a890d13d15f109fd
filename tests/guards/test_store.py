"""The store: whole or not there, one writer at a time, and state that follows from the log."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from guards import actions, ledger, state
from guards.entries import Halted, Measured, Sealed, StepStarted
from guards.errors import ActionRefused
from guards.store import DATABASE_FILE, Store
from tests.store_world import ManualClock, World, rule_of


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "home", create=True, clock=ManualClock())
    yield store
    store.close()


def kinds(store: Store) -> list[str]:
    with store.read() as history:
        return [entry.kind for entry in history.entries()]


def halt(store: Store, reason: str = "why") -> None:
    with store.write() as transaction:
        transaction.append("ana", Halted(reason=reason))


def tamper(store: Store, *statements: str) -> None:
    connection = sqlite3.connect(store.home / DATABASE_FILE)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


# Opening


def test_a_home_that_is_not_there_is_not_made_by_reading(tmp_path: Path):
    home = tmp_path / "home"
    assert rule_of(lambda: Store.open(home)) == "store.missing"
    assert not home.exists()


def test_a_database_without_a_first_entry_is_not_a_store(tmp_path: Path):
    sqlite3.connect(tmp_path / DATABASE_FILE).execute("CREATE TABLE other (x)")
    assert rule_of(lambda: Store.open(tmp_path)) == "store.missing"


def test_a_store_begins_with_one_genesis_however_often_it_is_made(tmp_path: Path):
    first = Store.open(tmp_path, create=True)
    Store.open(tmp_path, create=True).close()
    assert kinds(Store.open(tmp_path)) == ["genesis"]
    other = Store.open(tmp_path / "other", create=True)
    assert first.head() != other.head()


def test_processes_that_make_the_same_store_at_once_make_one(tmp_path: Path):
    forked = multiprocessing.get_context("fork")  # no import of everything for each of them
    barrier = forked.Barrier(4)

    def make() -> None:
        barrier.wait(timeout=60)
        Store.open(tmp_path / "home", create=True)

    processes = [forked.Process(target=make) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert kinds(Store.open(tmp_path / "home")) == ["genesis"]


def test_a_home_whose_lock_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refused(_path: Path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("guards.store.locked", refused)
    assert rule_of(lambda: Store.open(tmp_path / "home", create=True)) == "store.not-writable"


def test_a_file_that_is_no_database_is_refused(tmp_path: Path):
    (tmp_path / DATABASE_FILE).write_bytes(b"not a database at all, but long enough to be read as one" * 100)
    assert rule_of(lambda: Store.open(tmp_path)) == "store.corrupt"
    assert rule_of(lambda: Store.open(tmp_path, create=True)) == "store.corrupt"


def test_writes_are_flushed_before_they_count(store: Store):
    with store._engine.connect() as conn:
        assert conn.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert conn.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_every_table_is_plain_enough_for_postgresql():
    for table in ledger.metadata.sorted_tables:
        assert f"CREATE TABLE {table.name}" in str(CreateTable(table).compile(dialect=postgresql.dialect()))
    assert {table.name for table in ledger.metadata.sorted_tables} == {
        "entries",
        "nodes",
        *(table.name for table in state.TABLES),
    }


# Transactions


def test_an_exception_undoes_everything_in_the_block(store: Store):
    before = store.head()
    with pytest.raises(RuntimeError), store.write() as transaction:
        transaction.append("ana", Halted(reason="one"))
        assert len(transaction.history.halts()) == 1
        raise RuntimeError
    assert store.head() == before == store.verify()
    with store.read() as history:
        assert history.halts() == ()


def test_a_body_that_does_not_fit_is_a_refusal_and_undoes_the_block(store: Store):
    def write() -> None:
        with store.write() as transaction:
            transaction.append("ana", Halted(reason="one"))
            transaction.append("ana", Halted(reason=" "))

    with pytest.raises(ActionRefused) as refusal:
        write()
    assert refusal.value.rule == "actions.bad-argument"
    assert "Halted.reason" in refusal.value.message
    assert kinds(store) == ["genesis"]


def test_a_reader_sees_one_moment(store: Store):
    with store.read() as history:
        assert history.size() == 1
        halt(store)
        assert history.size() == 1
    with store.read() as history:
        assert history.size() == 2


def test_writers_wait_for_each_other_and_lose_nothing(store: Store):
    n_threads, n_each = 4, 10

    def write(name: str) -> None:
        for _ in range(n_each):
            with store.write() as transaction:
                before = len(transaction.history.halts())
                transaction.append(name, Halted(reason=f"{before}"))

    threads = [threading.Thread(target=write, args=(f"thread {i}",)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.read() as history:
        reasons = [item.body.reason for item in history.halts()]
    # Each saw exactly what was committed before it: no two decided on the same state.
    assert reasons == [str(i) for i in range(n_threads * n_each)]
    assert store.verify().size == 1 + n_threads * n_each


def test_a_writer_that_waits_too_long_is_told_so(tmp_path: Path):
    store = Store.open(tmp_path, create=True)
    impatient = Store.open(tmp_path, busy_timeout_s=0.05)
    with store.write():
        assert rule_of(lambda: halt(impatient)) == "store.busy"
        assert kinds(impatient) == ["genesis"]  # reading goes on
    halt(impatient)


def test_an_entry_decided_on_a_state_that_has_passed_is_refused(store: Store):
    """What SQLite's write lock prevents, the primary key refuses on any database."""

    def write() -> None:
        with store.write() as transaction:
            transaction._next_seq = 0
            transaction.append("ana", Halted(reason="late"))

    assert rule_of(write) == "store.conflict"
    assert kinds(store) == ["genesis"]


def test_the_database_refuses_a_doubled_entry_even_if_an_action_does_not(store: Store):
    step = StepStarted(spec="sha256:" + "0" * 64, step="train", attempt=1, candidate=None, run=None)

    def twice() -> None:
        with store.write() as transaction:
            transaction.append("ana", step)
            transaction.append("ana", step)

    assert rule_of(twice) == "store.conflict"
    assert kinds(store) == ["genesis"]


def test_a_read_only_database_says_so(store: Store):
    def write() -> None:
        with store.write() as transaction:
            transaction._conn.exec_driver_sql("PRAGMA query_only = 1")
            transaction.append("ana", Halted(reason="why"))

    assert rule_of(write) == "store.not-writable"


# The state follows from the log


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE champions SET checkpoint = (SELECT candidate FROM seals LIMIT 1) WHERE seq = (SELECT seq FROM roots)",
        "DELETE FROM halts",
        "INSERT INTO lifts SELECT seq, 1 FROM halts",
        "DELETE FROM recalls",
        "UPDATE evidence SET evidence = 'sha256:' || hex(zeroblob(32)) WHERE role = 'candidate'",
        "DELETE FROM verdicts WHERE gate LIKE 'refusal%'",
        "UPDATE looks SET look = 7",
        "DELETE FROM signoffs",
        "INSERT INTO cleanups VALUES (0, 'sha256:0')",
    ],
)
def test_an_edited_state_is_found(world: World, statement: str):
    candidate = world.promoted("one")
    actions.recall(world.store, checkpoint=candidate, reason="why", actor="ana")
    world.store.verify()
    tamper(world.store, statement)
    assert rule_of(world.store.verify) == "state.edited"


def test_an_edited_log_is_found_through_the_store(store: Store):
    halt(store)
    kept = store.head()
    tamper(store, "UPDATE entries SET leaf_bytes = replace(CAST(leaf_bytes AS TEXT), 'why', 'hey') WHERE seq = 1")
    assert rule_of(store.verify) == "ledger.bad-leaf"  # SQLite stored text in place of bytes
    tamper(
        store,
        "UPDATE entries SET leaf_bytes = CAST(leaf_bytes AS BLOB) WHERE seq = 1",
    )
    assert rule_of(store.verify) == "ledger.leaf-mismatch"
    assert rule_of(lambda: store.verify(trusted_head=kept)) == "ledger.leaf-mismatch"


# Reading


def test_entries_are_found_by_kind_and_by_checkpoint(world: World):
    candidate = world.promoted("one")
    with world.store.read() as history:
        about = [entry.kind for entry in history.entries(candidate=candidate)]
        assert about == [
            *("sealed", "seed", "evidence", "evidence", "evidence", "evidence", "verdict", "verdict"),
            *("hold", "signoff", "signoff", "promote", "promoted"),
        ]
        assert [entry.body for entry in history.entries(kind="signoff")] == [
            entry.body for entry in history.entries(kind="signoff", candidate=candidate)
        ]
        assert list(history.entries(kind="signoff", candidate=world.checkpoint("root"))) == []
        last = history.entry(history.size() - 1)
        assert (last.kind, last.as_json()["body"]["candidate"]) == ("promoted", candidate)


def test_a_checkpoint_is_found_by_the_beginning_of_its_digest(world: World):
    candidates = [world.seal(f"number {i}") for i in range(3)]
    with world.store.read() as history:
        for digest in candidates:
            assert history.find_candidate(digest).body.candidate == digest
            assert history.find_candidate(digest.removeprefix("sha256:")[:12]).body.candidate == digest
        root = world.checkpoint("root")
        assert history.find_checkpoint(root[:20]) == root
        assert rule_of(lambda: history.find_candidate(root)) == "history.not-a-candidate"
        assert rule_of(lambda: history.find_checkpoint("sha256:" + "0" * 64)) == "history.no-such-checkpoint"
        for bad in ("", "abc", "sha256:", "%%%%", "____", "ABCDEF", "g" * 10, "0" * 65, "0000\n"):
            assert rule_of(lambda bad=bad: history.find_checkpoint(bad)) == "history.bad-prefix"
        assert [sealed.body.candidate for sealed in history.candidates()] == candidates


def test_a_prefix_of_several_checkpoints_is_refused(store: Store):
    for last in "01":
        digest = "sha256:" + "a" * 63 + last
        with store.write() as transaction:
            transaction.append(
                "ana",
                Sealed(
                    candidate=digest,
                    manifest={},
                    provenance={},
                    parent=None,
                    submitter="ana",
                    trainer=None,
                    policy=digest,
                ),
            )
    with store.read() as history:
        assert rule_of(lambda: history.find_checkpoint("aaaaaa")) == "history.ambiguous"


def test_nothing_recorded_reads_as_nothing(store: Store):
    digest = "sha256:" + "0" * 64
    with store.read() as history:
        assert history.champion() is None
        assert history.root() is None
        assert history.anchor("any") is None
        assert history.champions() == history.candidates() == history.halts() == history.attempts(digest) == ()
        assert history.latest_look(digest) is history.decision(0) is history.policy(digest) is None
        assert history.evidence_digest(0) is None
        assert history.anchors() == {}


def test_free_figures_are_kept_as_text(store: Store):
    figures: dict[str, Any] = {"tokens_per_s": "41.5", "n": 3}
    with store.write() as transaction:
        transaction.append("ana", Measured(run="r", name="speed", candidate=None, figures=figures))
    with store.read() as history:
        assert [item.body.figures for item in history.measured("r")] == [figures]
