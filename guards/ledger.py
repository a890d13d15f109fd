"""The append-only log: canonical entries under an RFC 6962 Merkle tree.

An entry's bytes are the RFC 8785 JSON of ``{"schema", "seq", "time", "kind", "actor", "body"}``;
they hold no floats, so that every language reads the same number. ``seq`` counts from 0 and is
the entry's leaf index. The tree's nodes lie beside the entries, so that a head or a proof costs
a logarithm of the log; :func:`verify` recomputes them all.

The functions work on an open connection and never commit: appending belongs into the
transaction of the action that it records (:mod:`guards.store`).

Not covered: a log that was truncated, or rewritten whole, before anyone kept one of its heads.
Only a head held elsewhere shows that; pass it to :func:`verify`. ``actor`` is what the caller
said; only sign-offs carry a signature.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field, JsonValue, ValidationError
from sqlalchemy import Column, Connection, Integer, LargeBinary, MetaData, String, Table, func, insert, select

from guards import merkle
from guards.canonical import canonical_bytes, contains_float, parse_json_strict
from guards.errors import EvidenceError, LedgerError
from guards.evidence import Frozen

SCHEMA = "stairlock/entry/v1"
MAX_ENTRY_BYTES = 1 << 20

Label = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
"""One line of text without control characters: the name of an actor, a run, a suite, a gate."""

Kind = Annotated[str, Field(pattern=r"^[a-z][a-z_]{0,39}$")]
Time = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z$")]
HexHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

metadata = MetaData()

entries = Table(
    "entries",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(40), nullable=False, index=True),
    Column("time", String(27), nullable=False),
    Column("candidate", String(71), nullable=True, index=True),
    Column("leaf_bytes", LargeBinary, nullable=False),
    Column("leaf_hash", LargeBinary(merkle.HASH_BYTES), nullable=False),
)

# Perfect subtrees from level 1 up; level 0 is entries.leaf_hash.
nodes = Table(
    "nodes",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("hash", LargeBinary(merkle.HASH_BYTES), nullable=False),
)


class Entry(Frozen):
    """One entry of the log. ``time`` is UTC with microseconds; ``body`` depends on ``kind``."""

    schema_: Literal["stairlock/entry/v1"] = Field(default=SCHEMA, alias="schema")
    seq: int = Field(ge=0)
    time: Time
    kind: Kind
    actor: Label
    body: dict[str, JsonValue]

    def as_json(self) -> dict[str, JsonValue]:
        """The object whose canonical JSON is the leaf."""
        return self.model_dump(mode="json", by_alias=True)


class TreeHead(Frozen):
    """What the whole log was at one size. ``root`` is the Merkle root in hex."""

    size: int = Field(ge=0)
    root: HexHash


class InclusionProof(Frozen):
    """That entry ``seq`` is under the root over ``size`` entries; hashes in hex, leaf end first."""

    seq: int
    size: int
    hashes: tuple[HexHash, ...]


class ConsistencyProof(Frozen):
    """That the log of ``new_size`` entries only appended to the log of ``old_size`` entries."""

    old_size: int
    new_size: int
    hashes: tuple[HexHash, ...]


def timestamp(moment: datetime) -> str:
    """An aware datetime as the log writes it.

    Raises:
        LedgerError: ``ledger.naive-time``.
    """
    if moment.tzinfo is None:
        raise LedgerError("ledger.naive-time", "a time without a timezone says nothing", got=moment.isoformat())
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> datetime:
    """Inverse of :func:`timestamp`."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def _is_a_time(text: str) -> str:
    parse_time(text)
    return text


RealTime = Annotated[Time, AfterValidator(_is_a_time)]
"""A time as the log writes it, and no 31st of February: for what people send, which may hold anything."""


def without_floats(value: Any) -> Any:
    """A copy of a JSON value with every float as the shortest decimal text that reads back equal.

    Raises:
        LedgerError: ``ledger.not-finite`` for NaN and infinities: "not measured" is never a number.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise LedgerError("ledger.not-finite", "a figure is not a finite number", got=repr(value))
        return repr(value)
    if isinstance(value, Mapping):
        return {str(key): without_floats(item) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [without_floats(item) for item in cast(list[Any], value)]
    return value


def append(conn: Connection, *, seq: int, moment: datetime, kind: str, actor: str, body: Mapping[str, Any]) -> Entry:
    """Write one entry and the tree nodes that it completes; the caller commits.

    ``seq`` is the size of the log as the caller's transaction first saw it (plus what it appended
    itself). If somebody else appended meanwhile, the primary key refuses this entry, so that
    nothing is decided on a state that has passed, on any database.

    Raises:
        LedgerError: ``ledger.bad-entry``, ``ledger.float``, ``ledger.too-large``.
    """
    if contains_float(body):
        raise LedgerError(
            "ledger.float", f"an entry of kind {kind!r} holds a float", expected="integers, or decimal text"
        )
    try:
        entry = Entry(seq=seq, time=timestamp(moment), kind=kind, actor=actor, body=dict(body))
        leaf_bytes = canonical_bytes(entry.as_json())
    except ValidationError as error:
        first = error.errors()[0]
        raise LedgerError(
            "ledger.bad-entry", f"{'.'.join(str(p) for p in first['loc'])}: {first['msg']}", got=repr(first["input"])
        ) from error
    except EvidenceError as error:
        raise LedgerError(
            "ledger.bad-entry", f"an entry of kind {kind!r} is not canonical JSON: {error.got}"
        ) from error
    if len(leaf_bytes) > MAX_ENTRY_BYTES:
        raise LedgerError(
            "ledger.too-large",
            f"an entry of kind {kind!r} is too large",
            got=f"{len(leaf_bytes)} bytes",
            expected=f"at most {MAX_ENTRY_BYTES} bytes",
            fix="write the bulk to a file and record its digest",
        )
    leaf_hash = merkle.leaf_hash(leaf_bytes)
    conn.execute(
        insert(entries).values(
            seq=seq,
            kind=kind,
            time=entry.time,
            candidate=subject_of(entry),
            leaf_bytes=leaf_bytes,
            leaf_hash=leaf_hash,
        )
    )
    completed = merkle.nodes_completed_by(seq, leaf_hash, _node_reader(conn))
    if completed:
        conn.execute(insert(nodes), [{"level": level, "position": at, "hash": node} for level, at, node in completed])
    return entry


def subject_of(entry: Entry) -> str | None:
    """Digest of the checkpoint that an entry is about, if it is about one."""
    subject = entry.body.get("candidate", entry.body.get("checkpoint"))
    return subject if isinstance(subject, str) else None


def size(conn: Connection) -> int:
    """Number of entries."""
    last = conn.execute(select(func.max(entries.c.seq))).scalar()
    return 0 if last is None else last + 1


def latest_time(conn: Connection) -> datetime:
    """The latest time that any entry has; not always the last entry's, because clocks are set back."""
    latest = conn.execute(select(func.max(entries.c.time))).scalar()
    return parse_time(latest) if latest is not None else datetime.min.replace(tzinfo=UTC)


def head(conn: Connection, at_size: int | None = None) -> TreeHead:
    """The tree head now, or as it was when the log had ``at_size`` entries.

    Raises:
        LedgerError: ``ledger.shorter`` if the log never was that long.
    """
    wanted = _size_within(conn, at_size)
    return TreeHead(size=wanted, root=merkle.root_hash(wanted, _node_reader(conn)).hex())


def inclusion_proof(conn: Connection, seq: int, at_size: int | None = None) -> InclusionProof:
    """Proof that entry ``seq`` is in the log of ``at_size`` entries (default: now)."""
    wanted = _size_within(conn, at_size)
    proof = merkle.inclusion_proof(seq, wanted, _node_reader(conn))
    return InclusionProof(seq=seq, size=wanted, hashes=tuple(item.hex() for item in proof))


def consistency_proof(conn: Connection, old_size: int, new_size: int | None = None) -> ConsistencyProof:
    """Proof that the log of ``new_size`` entries (default: now) extends that of ``old_size``."""
    wanted = _size_within(conn, new_size)
    proof = merkle.consistency_proof(old_size, wanted, _node_reader(conn))
    return ConsistencyProof(old_size=old_size, new_size=wanted, hashes=tuple(item.hex() for item in proof))


def verify_inclusion(leaf_bytes: bytes, proof: InclusionProof, tree_head: TreeHead) -> None:
    """Check that an entry's bytes are under ``tree_head``; raises :class:`LedgerError`."""
    if proof.size != tree_head.size:
        raise LedgerError(
            "ledger.other-size", "the proof is for another head", got=str(proof.size), expected=str(tree_head.size)
        )
    hashes = [bytes.fromhex(item) for item in proof.hashes]
    merkle.verify_inclusion(merkle.leaf_hash(leaf_bytes), proof.seq, proof.size, hashes, bytes.fromhex(tree_head.root))


def verify_consistency(old: TreeHead, new: TreeHead, proof: ConsistencyProof) -> None:
    """Check that ``new`` extends ``old``; raises :class:`LedgerError`."""
    if (proof.old_size, proof.new_size) != (old.size, new.size):
        raise LedgerError(
            "ledger.other-size",
            "the proof is for other heads",
            got=f"{proof.old_size} to {proof.new_size}",
            expected=f"{old.size} to {new.size}",
        )
    hashes = [bytes.fromhex(item) for item in proof.hashes]
    merkle.verify_consistency(old.size, new.size, bytes.fromhex(old.root), bytes.fromhex(new.root), hashes)


def read_entry(conn: Connection, seq: int) -> Entry:
    """Entry ``seq``, parsed from its leaf.

    Raises:
        LedgerError: ``ledger.no-such-entry``, ``ledger.bad-leaf``.
    """
    leaf_bytes = conn.execute(select(entries.c.leaf_bytes).where(entries.c.seq == seq)).scalar()
    if leaf_bytes is None:
        raise LedgerError("ledger.no-such-entry", f"the log has no entry {seq}", expected=f"0 to {size(conn) - 1}")
    return parse_leaf(leaf_bytes, seq=seq)


def iter_entries(conn: Connection, *, kind: str | None = None, candidate: str | None = None) -> Iterator[Entry]:
    """Entries in order, optionally only of one kind or about one checkpoint (a whole digest)."""
    query = select(entries.c.seq, entries.c.leaf_bytes).order_by(entries.c.seq)
    if kind is not None:
        query = query.where(entries.c.kind == kind)
    if candidate is not None:
        query = query.where(entries.c.candidate == candidate)
    for seq, leaf_bytes in conn.execute(query):
        yield parse_leaf(leaf_bytes, seq=seq)


def parse_leaf(leaf_bytes: bytes, *, seq: int) -> Entry:
    """Read an entry's bytes, which must be canonical and say that they are entry ``seq``.

    Raises:
        LedgerError: ``ledger.bad-leaf``.
    """
    if not isinstance(leaf_bytes, bytes):  # pyright: ignore[reportUnnecessaryIsInstance] SQLite columns hold any type
        raise LedgerError("ledger.bad-leaf", f"entry {seq} is stored as {type(leaf_bytes).__name__}, not as bytes")
    try:
        entry = Entry.model_validate(parse_json_strict(leaf_bytes, source=f"entry {seq}"))
        is_canonical = canonical_bytes(entry.as_json()) == leaf_bytes
    except (ValidationError, EvidenceError, ValueError, RecursionError) as error:
        raise LedgerError("ledger.bad-leaf", f"entry {seq} is not an entry ({type(error).__name__})") from error
    if not is_canonical:
        raise LedgerError("ledger.bad-leaf", f"entry {seq} is not canonical JSON")
    if contains_float(entry.body):
        raise LedgerError("ledger.bad-leaf", f"entry {seq} holds a float")
    if entry.seq != seq:
        raise LedgerError("ledger.bad-leaf", f"entry {seq} says that it is entry {entry.seq}")
    return entry


def verify(
    conn: Connection, *, trusted_head: TreeHead | None = None, on_entry: Callable[[Entry], None] | None = None
) -> TreeHead:
    """Hash the whole log again and compare it with every stored hash, node and column.

    ``trusted_head`` is a head that was kept elsewhere: the log must still begin with exactly the
    entries under it. ``on_entry`` is called with every entry, in order. Returns the recomputed head.

    Raises:
        LedgerError: ``ledger.gap``, ``ledger.bad-leaf``, ``ledger.leaf-mismatch``,
            ``ledger.column-mismatch``, ``ledger.node-mismatch``, ``ledger.shorter``,
            ``ledger.rewritten``.
    """
    stored_nodes = {(level, at): node for level, at, node in conn.execute(select(nodes))}
    frontier: dict[int, bytes] = {}  # the last perfect subtree on each level: all that a root needs

    def last_on(level: int, _position: int) -> bytes:
        return frontier[level]

    seen = 0
    root_then: str | None = merkle.EMPTY_ROOT.hex() if trusted_head is not None and trusted_head.size == 0 else None
    for row in conn.execute(select(entries).order_by(entries.c.seq)):
        # (1) no entry is missing, and each leaf is an entry with this number
        if row.seq != seen:
            raise LedgerError("ledger.gap", f"entry {seen} is missing", got=f"entry {row.seq}")
        entry = parse_leaf(row.leaf_bytes, seq=seen)
        # (2) the stored hash and the columns that queries use say what the leaf says
        leaf_hash = merkle.leaf_hash(row.leaf_bytes)
        if leaf_hash != row.leaf_hash:
            raise _edited("ledger.leaf-mismatch", f"entry {seen} is not the entry that was appended")
        if (row.kind, row.time, row.candidate) != (entry.kind, entry.time, subject_of(entry)):
            raise _edited("ledger.column-mismatch", f"the columns of entry {seen} differ from its leaf")
        # (3) so does every node of the tree
        for level, at, node in merkle.nodes_completed_by(seen, leaf_hash, last_on):
            if stored_nodes.pop((level, at), None) != node:
                raise _edited("ledger.node-mismatch", f"node ({level}, {at}) is not the hash of the entries under it")
            frontier[level] = node
        frontier[0] = leaf_hash
        seen += 1
        if trusted_head is not None and seen == trusted_head.size:
            root_then = merkle.root_hash(seen, last_on).hex()
        if on_entry is not None:
            on_entry(entry)
    if stored_nodes:
        raise _edited("ledger.node-mismatch", f"{len(stored_nodes)} nodes belong to no entry: the end was cut off")
    # (4) the log still begins with what was seen before
    if trusted_head is not None and root_then is None:
        raise _shorter(seen, trusted_head.size)
    if trusted_head is not None and root_then != trusted_head.root:
        raise LedgerError(
            "ledger.rewritten",
            f"the first {trusted_head.size} entries are not those of the head that was kept",
            got=root_then or "",
            expected=trusted_head.root,
            fix="this log was rewritten: stop promoting, keep both copies, and restore the log that extends the head",
        )
    return TreeHead(size=seen, root=merkle.root_hash(seen, last_on).hex())


def _size_within(conn: Connection, at_size: int | None) -> int:
    now = size(conn)
    if at_size is None:
        return now
    if not 0 <= at_size <= now:
        raise _shorter(now, at_size)
    return at_size


def _node_reader(conn: Connection) -> merkle.NodeReader:
    def read_node(level: int, position: int) -> bytes:
        if level == 0:
            query = select(entries.c.leaf_hash).where(entries.c.seq == position)
        else:
            query = select(nodes.c.hash).where(nodes.c.level == level, nodes.c.position == position)
        node = conn.execute(query).scalar()
        if node is None:
            raise _edited("ledger.node-mismatch", f"node ({level}, {position}) is missing")
        return node

    return read_node


def _edited(rule: str, message: str) -> LedgerError:
    return LedgerError(
        rule,
        message,
        fix="the database was edited or damaged: stop promoting, keep this copy, and restore a backup that verifies",
    )


def _shorter(got: int, expected: int) -> LedgerError:
    return LedgerError(
        "ledger.shorter",
        "the log has fewer entries than it once had",
        got=f"{got} entries",
        expected=f"at least {expected}",
        fix="its end was cut off, or this is another log: compare with a backup",
    )
