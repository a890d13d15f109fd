"""The log: what may be appended, what its bytes are, and that every kind of tampering is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, delete, insert, select, update

from guards import ledger, merkle
from guards.canonical import canonical_bytes, parse_json_strict
from guards.entries import BODIES, Body, Halted, RootSet, kind_of, typed, typed_as
from guards.errors import LedgerError
from guards.ledger import Entry, entries, nodes

# Reference data that lies beside the repository; the project works without it.
JCS = Path(__file__).resolve().parents[3] / "shared" / "data" / "rfc8785_jcs" / "testdata"
needs_jcs = pytest.mark.skipif(not JCS.is_dir(), reason="RFC 8785 vectors (shared/data) are not present")

MOMENT = datetime(2026, 11, 24, 5, 0, tzinfo=UTC)
DIGEST = "sha256:" + "ab" * 32

json_bodies = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)


@pytest.fixture
def conn() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        ledger.metadata.create_all(connection, tables=[entries, nodes])
        yield connection


def append(conn: Connection, body: dict[str, Any] | None = None, **changes: Any) -> Entry:
    arguments: dict[str, Any] = {"seq": ledger.size(conn), "moment": MOMENT, "kind": "halt", "actor": "ana"}
    return ledger.append(conn, **(arguments | {"body": {"reason": "why"} if body is None else body} | changes))


def fill(conn: Connection, n: int) -> None:
    for i in range(n):
        append(conn, {"reason": f"reason {i}", "candidate": DIGEST})


def rule_of(action: Callable[[], object]) -> str:
    with pytest.raises(LedgerError) as refusal:
        action()
    return refusal.value.rule


# What an entry is


def test_the_leaf_is_the_canonical_json_of_the_entry(conn: Connection):
    append(conn, {"b": 1, "a": "ü", "checkpoint": DIGEST})
    leaf_bytes, leaf_hash = conn.execute(select(entries.c.leaf_bytes, entries.c.leaf_hash)).one()
    expected = (
        f'{{"actor":"ana","body":{{"a":"ü","b":1,"checkpoint":"{DIGEST}"}},"kind":"halt",'
        '"schema":"stairlock/entry/v1","seq":0,"time":"2026-11-24T05:00:00.000000Z"}'
    ).encode()
    assert leaf_bytes == expected
    assert leaf_hash == hashlib.sha256(b"\x00" + expected).digest()
    assert conn.execute(select(entries.c.candidate)).scalar() == DIGEST


@given(body=json_bodies, actor=st.text(min_size=1, max_size=20))
def test_entries_survive_writing_and_reading_both_ways(body: dict[str, Any], actor: str):
    try:
        entry = Entry(seq=3, time=ledger.timestamp(MOMENT), kind="halt", actor=actor, body=body)
    except ValueError:
        return  # control characters in the actor
    leaf = canonical_bytes(entry.as_json())
    assert ledger.parse_leaf(leaf, seq=3) == entry
    assert canonical_bytes(ledger.parse_leaf(leaf, seq=3).as_json()) == leaf


@given(noise=st.binary(max_size=200))
def test_noise_is_no_entry(noise: bytes):
    assert rule_of(lambda: ledger.parse_leaf(noise, seq=0)) == "ledger.bad-leaf"


GOOD_LEAF: dict[str, Any] = {
    "schema": "stairlock/entry/v1",
    "seq": 0,
    "time": "2026-11-24T05:00:00.000000Z",
    "kind": "halt",
    "actor": "ana",
    "body": {},
}


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 1},
        {"seq": "0"},
        {"schema": "stairlock/entry/v2"},
        {"time": "2026-11-24 05:00:00"},
        {"kind": "Halt!"},
        {"actor": "a\nb"},
        {"actor": ""},
        {"extra": 1},
        {"body": {"x": 1.5}},
        {"body": []},
        {"schema": None},
        {"body": None},
    ],
    ids=str,
)
def test_a_leaf_that_says_something_else_is_refused(change: dict[str, Any]):
    assert ledger.parse_leaf(canonical_bytes(GOOD_LEAF), seq=0).kind == "halt"
    changed = {key: value for key, value in (GOOD_LEAF | change).items() if value is not None}
    assert rule_of(lambda: ledger.parse_leaf(canonical_bytes(changed), seq=0)) == "ledger.bad-leaf"


def test_a_leaf_that_is_not_canonical_is_refused():
    spaced = json.dumps(GOOD_LEAF, sort_keys=True).encode()
    assert rule_of(lambda: ledger.parse_leaf(spaced, seq=0)) == "ledger.bad-leaf"
    twice = canonical_bytes(GOOD_LEAF)[:-1] + b',"seq":0}'
    assert rule_of(lambda: ledger.parse_leaf(twice, seq=0)) == "ledger.bad-leaf"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"body": {"score": 0.5}}, "ledger.float"),
        ({"body": {"deep": [{"score": float("nan")}]}}, "ledger.float"),
        ({"body": {"big": 2**53}}, "ledger.bad-entry"),
        ({"body": {"text": "\ud800"}}, "ledger.bad-entry"),
        ({"body": {"text": "x" * ledger.MAX_ENTRY_BYTES}}, "ledger.too-large"),
        ({"actor": "esc\x1b[31m"}, "ledger.bad-entry"),
        ({"actor": ""}, "ledger.bad-entry"),
        ({"kind": "with space"}, "ledger.bad-entry"),
        ({"moment": datetime(2026, 11, 24)}, "ledger.naive-time"),  # noqa: DTZ001
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_may_not_be_appended_is_refused(conn: Connection, changes: dict[str, Any], rule: str):
    assert rule_of(lambda: append(conn, **changes)) == rule
    assert ledger.size(conn) == 0


def test_times_are_written_in_utc():
    there = datetime(2026, 11, 24, 7, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    assert ledger.timestamp(there) == "2026-11-24T05:00:00.000005Z"
    assert ledger.parse_time(ledger.timestamp(there)) == there


@given(st.recursive(st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3), st.lists, max_leaves=5))
def test_floats_become_text_that_reads_back_equal(value: Any):
    def back(original: Any, text: Any) -> None:
        if isinstance(original, float):
            assert isinstance(text, str) and float(text) == original
        elif isinstance(original, list):
            assert len(original) == len(text)
            for pair in zip(original, text, strict=True):
                back(*pair)
        else:
            assert text == original

    back(value, ledger.without_floats(value))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_what_is_not_a_number_is_not_written(value: Any):
    assert rule_of(lambda: ledger.without_floats(value)) == "ledger.not-finite"


def test_every_kind_has_one_body_and_knows_its_name():
    assert {kind: model.__name__ for kind, model in BODIES.items() if not issubclass(model, Body)} == {}
    halted = Halted(reason="x")
    assert kind_of(halted) == "halt"
    entry = Entry(seq=0, time=ledger.timestamp(MOMENT), kind="halt", actor="ana", body=halted.model_dump())
    assert typed_as(entry, Halted).body == halted
    assert rule_of(lambda: typed_as(entry, RootSet)) == "ledger.unexpected-kind"
    assert rule_of(lambda: typed(entry.model_copy(update={"kind": "unheard_of"}))) == "ledger.unknown-kind"
    assert rule_of(lambda: typed(entry.model_copy(update={"body": {"reason": "x", "more": 1}}))) == "ledger.bad-body"


def test_a_decision_under_another_kind_is_refused():
    body = {
        "candidate": DIGEST,
        "policy": DIGEST,
        "look_seq": 1,
        "evidence": DIGEST,
        "champion": None,
        "outcome": "reject",
        "waits_for": "nothing",
        "reasons": ["it failed"],
    }
    entry = Entry(seq=0, time=ledger.timestamp(MOMENT), kind="reject", actor="ana", body=body)
    assert typed(entry).kind == "reject"
    assert rule_of(lambda: typed(entry.model_copy(update={"kind": "promote"}))) == "ledger.bad-body"


# Heads and proofs


def test_heads_and_proofs_of_every_small_log(conn: Connection):
    fill(conn, 9)
    leaves = [row.leaf_bytes for row in conn.execute(select(entries).order_by(entries.c.seq))]
    heads = [ledger.head(conn, size) for size in range(10)]
    assert heads[0].root == hashlib.sha256(b"").hexdigest()
    assert heads[-1] == ledger.head(conn)
    for size in range(1, 10):
        for seq in range(size):
            ledger.verify_inclusion(leaves[seq], ledger.inclusion_proof(conn, seq, size), heads[size])
        for old_size in range(1, size + 1):
            proof = ledger.consistency_proof(conn, old_size, size)
            ledger.verify_consistency(heads[old_size], heads[size], proof)


def test_a_proof_for_another_head_is_refused(conn: Connection):
    fill(conn, 5)
    proof = ledger.inclusion_proof(conn, 0, 4)
    assert rule_of(lambda: ledger.verify_inclusion(b"", proof, ledger.head(conn))) == "ledger.other-size"
    extension = ledger.consistency_proof(conn, 2, 4)
    heads = ledger.head(conn, 3), ledger.head(conn, 4)
    assert rule_of(lambda: ledger.verify_consistency(*heads, extension)) == "ledger.other-size"


def test_a_log_shorter_than_asked_is_refused(conn: Connection):
    fill(conn, 2)
    assert rule_of(lambda: ledger.head(conn, 3)) == "ledger.shorter"
    assert rule_of(lambda: ledger.inclusion_proof(conn, 0, 3)) == "ledger.shorter"
    assert rule_of(lambda: ledger.read_entry(conn, 2)) == "ledger.no-such-entry"


@given(st.lists(json_bodies, min_size=1, max_size=12))
def test_any_log_verifies_and_its_root_is_the_defined_one(bodies: list[dict[str, Any]]):
    engine = create_engine("sqlite://")
    with engine.begin() as conn:
        ledger.metadata.create_all(conn, tables=[entries, nodes])
        for body in bodies:
            append(conn, body)
        seen: list[Entry] = []
        head = ledger.verify(conn, on_entry=seen.append)
        assert [entry.body for entry in seen] == bodies
        level = [merkle.leaf_hash(canonical_bytes(entry.as_json())) for entry in seen]
    while len(level) > 1:
        pairs = [merkle.node_hash(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(pairs) * 2 :]
    assert head.root == level[0].hex()


# Tampering


def _edit_leaf(conn: Connection) -> None:
    changed = canonical_bytes({**ledger.read_entry(conn, 3).as_json(), "actor": "eve"})
    conn.execute(update(entries).where(entries.c.seq == 3).values(leaf_bytes=changed))


def _edit_leaf_and_its_hash(conn: Connection) -> None:
    _edit_leaf(conn)
    leaf = conn.execute(select(entries.c.leaf_bytes).where(entries.c.seq == 3)).scalar_one()
    conn.execute(update(entries).where(entries.c.seq == 3).values(leaf_hash=merkle.leaf_hash(leaf)))


def _swap_two(conn: Connection) -> None:
    conn.execute(update(entries).where(entries.c.seq == 2).values(seq=99))
    conn.execute(update(entries).where(entries.c.seq == 3).values(seq=2))
    conn.execute(update(entries).where(entries.c.seq == 99).values(seq=3))


def _insert_one(conn: Connection) -> None:
    for seq in (6, 5, 4, 3):
        conn.execute(update(entries).where(entries.c.seq == seq).values(seq=seq + 1))
    forged = canonical_bytes({**ledger.read_entry(conn, 2).as_json(), "seq": 3})
    values = {"kind": "halt", "time": ledger.timestamp(MOMENT), "candidate": DIGEST, "leaf_bytes": forged}
    conn.execute(insert(entries).values(seq=3, leaf_hash=merkle.leaf_hash(forged), **values))


TAMPERINGS: list[tuple[Callable[[Connection], object], str]] = [
    (_edit_leaf, "ledger.leaf-mismatch"),
    (_edit_leaf_and_its_hash, "ledger.node-mismatch"),
    (_swap_two, "ledger.bad-leaf"),
    (_insert_one, "ledger.node-mismatch"),
    (lambda conn: conn.execute(delete(entries).where(entries.c.seq == 3)), "ledger.gap"),
    (lambda conn: conn.execute(delete(entries).where(entries.c.seq == 0)), "ledger.gap"),
    (lambda conn: conn.execute(delete(entries).where(entries.c.seq >= 5)), "ledger.node-mismatch"),
    (lambda conn: conn.execute(delete(entries)), "ledger.node-mismatch"),
    (lambda conn: conn.execute(delete(nodes).where(nodes.c.level == 2)), "ledger.node-mismatch"),
    (lambda conn: conn.execute(update(nodes).values(hash=b"\x00" * 32)), "ledger.node-mismatch"),
    (lambda conn: conn.execute(insert(nodes).values(level=9, position=9, hash=b"")), "ledger.node-mismatch"),
    (lambda conn: conn.execute(update(entries).values(kind="lift")), "ledger.column-mismatch"),
    (lambda conn: conn.execute(update(entries).values(candidate=None)), "ledger.column-mismatch"),
    (lambda conn: conn.execute(update(entries).values(time="2020")), "ledger.column-mismatch"),
    (lambda conn: conn.exec_driver_sql("UPDATE entries SET leaf_bytes = 'text' WHERE seq = 2"), "ledger.bad-leaf"),
]


@pytest.mark.parametrize(("tamper", "rule"), TAMPERINGS, ids=range(len(TAMPERINGS)))
def test_tampering_is_found(conn: Connection, tamper: Callable[[Connection], object], rule: str):
    fill(conn, 7)
    ledger.verify(conn)
    tamper(conn)
    assert rule_of(lambda: ledger.verify(conn)) == rule


def test_a_clean_cut_needs_a_head_that_was_kept(conn: Connection):
    fill(conn, 7)
    kept = ledger.head(conn)
    assert ledger.verify(conn, trusted_head=kept) == kept
    conn.execute(delete(entries).where(entries.c.seq == 6))  # entry 6 completes no node
    assert ledger.verify(conn).size == 6
    assert rule_of(lambda: ledger.verify(conn, trusted_head=kept)) == "ledger.shorter"


def test_a_log_rewritten_whole_needs_a_head_that_was_kept(conn: Connection):
    fill(conn, 7)
    kept = ledger.head(conn, 4)
    conn.execute(delete(entries))
    conn.execute(delete(nodes))
    for i in range(7):
        append(conn, {"reason": f"reason {i}" if i != 2 else "something else", "candidate": DIGEST})
    ledger.verify(conn)
    assert rule_of(lambda: ledger.verify(conn, trusted_head=kept)) == "ledger.rewritten"


def test_a_kept_head_stays_good_while_the_log_grows(conn: Connection):
    empty = ledger.head(conn)
    fill(conn, 3)
    kept = ledger.head(conn)
    fill(conn, 4)
    for old in (empty, kept):
        assert ledger.verify(conn, trusted_head=old).size == 7
    wrong = ledger.TreeHead(size=0, root="00" * 32)
    assert rule_of(lambda: ledger.verify(conn, trusted_head=wrong)) == "ledger.rewritten"


# Canonical JSON, against the vectors that RFC 8785's author publishes


def jcs_names() -> list[str]:
    return sorted(path.stem for path in (JCS / "input").glob("*.json")) if JCS.is_dir() else []


@needs_jcs
@pytest.mark.parametrize("name", jcs_names())
def test_published_canonicalisation_vectors(name: str):
    value = json.loads((JCS / "input" / f"{name}.json").read_bytes())
    assert canonical_bytes(value) == (JCS / "output" / f"{name}.json").read_bytes().strip()
    hexed = (JCS / "outhex" / f"{name}.txt").read_text().split()
    assert canonical_bytes(value) == bytes(int(item, 16) for item in hexed)


@needs_jcs
def test_the_vectors_are_all_there():
    assert len(jcs_names()) == 6
    assert parse_json_strict((JCS / "input" / "values.json").read_bytes(), source="vector")
