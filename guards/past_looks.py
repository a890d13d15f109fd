"""Every candidate's decided look, read in bulk: what a policy simulation needs, and no more.

:class:`guards.history.History` reads one entry at a time and checks that its bytes are canonical
and fit their model. For ten thousand looks of a dozen entries each that takes minutes. Here the
index tables say which entries belong to which look, and of an entry's JSON only a few fields are
taken. An entry that lacks one of them is refused.

Not covered: whether the log was edited (``Store.verify`` finds that out), and whether an entry is
canonical. So nothing may be decided, recorded or signed on what is read here: it is for showing
what another policy would have said.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import Connection, RowMapping, Table, func, select

from guards import state
from guards.canonical import sha256_bytes
from guards.errors import LedgerError
from guards.ledger import entries


@dataclass(frozen=True, slots=True)
class Answer:
    """One recorded run of one suite: who answered it, and where the evidence lies (relative to the home)."""

    suite: str
    checkpoint: str
    evidence: str
    path: str


@dataclass(frozen=True, slots=True)
class RecordedVerdict:
    """One gate's verdict, as it was recorded; ``figures`` reads back with ``Verdict.from_ledger``."""

    gate: str
    outcome: str
    figures: Mapping[str, Any]

    @property
    def alpha(self) -> float | None:
        """The alpha that the test was made at; None where the gate made none."""
        alpha = self.figures.get("alpha")
        return None if alpha is None else float(alpha)


@dataclass(frozen=True, slots=True)
class PastLook:
    """The latest decided look at a candidate.

    ``anchors`` are those of the gates that had one of their own when the look began; every other
    gate's anchor is ``root``.
    """

    seq: int
    candidate: str
    policy: str
    look: int
    draw_seed_digest: str
    compared_with: str | None
    root: str | None
    anchors: Mapping[str, str]
    answers: tuple[Answer, ...]
    verdicts: tuple[RecordedVerdict, ...]


def decided_looks(conn: Connection) -> Iterator[PastLook]:
    """The latest decided look of every candidate, in the order in which they began.

    Raises:
        LedgerError: ``ledger.bad-body`` where an entry is not what its kind needs.
    """
    root = conn.execute(select(state.roots.c.checkpoint)).scalar()
    anchors = _AnchorsThen(conn)
    answers = _RowsByLook(conn, state.evidence)
    verdicts = _RowsByLook(conn, state.verdicts)
    for seq, body in _latest_decided(conn):
        yield PastLook(
            seq=seq,
            candidate=_text(body, "candidate", seq),
            policy=_text(body, "policy", seq),
            look=_number(body, "look", seq),
            draw_seed_digest=sha256_bytes(bytes.fromhex(_text(body, "seed", seq))),
            compared_with=body.get("compared_with"),
            root=root,
            anchors=anchors.at(seq),
            answers=tuple(_answer(row) for row in answers.of(seq)),
            verdicts=tuple(_verdict(row) for row in verdicts.of(seq)),
        )


def policies_of_looks(conn: Connection) -> list[tuple[int, str]]:
    """(look, digest of its policy) for every look, decided or not, in order: who read which suites when."""
    query = select(entries.c.seq, entries.c.leaf_bytes).join(state.looks, state.looks.c.seq == entries.c.seq)
    rows = conn.execute(query.order_by(entries.c.seq))
    return [(seq, _text(_body(leaf, seq), "policy", seq)) for seq, leaf in rows]


def count_undecided(conn: Connection) -> int:
    """Sealed candidates none of whose looks was decided."""
    judged = select(state.looks.c.candidate).where(state.looks.c.seq.in_(select(state.decisions.c.look_seq)))
    candidate = state.seals.c.candidate
    return conn.execute(select(func.count(candidate.distinct())).where(candidate.not_in(judged))).scalar_one()


def _latest_decided(conn: Connection) -> list[tuple[int, dict[str, Any]]]:
    """(number, body) of each candidate's latest look that was decided, by number."""
    latest = (
        select(func.max(state.looks.c.seq).label("seq"))
        .where(state.looks.c.seq.in_(select(state.decisions.c.look_seq)))
        .group_by(state.looks.c.candidate)
        .subquery()
    )
    query = select(entries.c.seq, entries.c.leaf_bytes).join(latest, latest.c.seq == entries.c.seq)
    return [(seq, _body(leaf, seq)) for seq, leaf in conn.execute(query.order_by(entries.c.seq))]


class _AnchorsThen:
    """What the anchors were when a look began; ask in the order of looks."""

    def __init__(self, conn: Connection) -> None:
        self._set = conn.execute(
            select(state.anchors.c.seq, state.anchors.c.gate, state.anchors.c.checkpoint).order_by(state.anchors.c.seq)
        ).all()
        recalls = conn.execute(select(state.recalls.c.checkpoint, state.recalls.c.seq)).all()
        self._recalled_at: dict[str, int] = {checkpoint: seq for checkpoint, seq in recalls}
        self._n_seen = 0
        self._history: dict[str, list[str]] = {}

    def at(self, look_seq: int) -> dict[str, str]:
        """Gate -> its anchor, for the gates that had one of their own that was not recalled."""
        while self._n_seen < len(self._set) and self._set[self._n_seen][0] < look_seq:
            _, gate, checkpoint = self._set[self._n_seen]
            self._history.setdefault(gate, []).append(checkpoint)
            self._n_seen += 1
        current: dict[str, str] = {}
        for gate, checkpoints in self._history.items():
            live = [one for one in checkpoints if self._recalled_at.get(one, look_seq) >= look_seq]
            if live:
                current[gate] = live[-1]
        return current


class _RowsByLook:
    """Entries of a table that belong to looks, handed out look by look without holding them all."""

    def __init__(self, conn: Connection, table: Table) -> None:
        query = (
            select(table, entries.c.leaf_bytes)
            .join(entries, entries.c.seq == table.c.seq)
            .order_by(table.c.look_seq, table.c.seq)
            .execution_options(yield_per=2000)
        )
        self._rows = iter(conn.execute(query).mappings())
        self._next = next(self._rows, None)

    def of(self, look_seq: int) -> list[RowMapping]:
        """The rows of a look; looks must be asked for in order, and those that nobody asks for are passed over."""
        found: list[RowMapping] = []
        while self._next is not None and self._next["look_seq"] <= look_seq:
            if self._next["look_seq"] == look_seq:
                found.append(self._next)
            self._next = next(self._rows, None)
        return found


def _answer(row: RowMapping) -> Answer:
    path = _text(_body(row["leaf_bytes"], row["seq"]), "path", row["seq"])
    return Answer(suite=row["suite"], checkpoint=row["checkpoint"], evidence=row["evidence"], path=path)


def _verdict(row: RowMapping) -> RecordedVerdict:
    body = _body(row["leaf_bytes"], row["seq"])
    figures = body.get("figures")
    if not isinstance(figures, dict):
        raise _lacks(row["seq"], "figures")
    return RecordedVerdict(row["gate"], _text(body, "outcome", row["seq"]), cast(dict[str, Any], figures))


def _body(leaf_bytes: bytes, seq: int) -> dict[str, Any]:
    try:
        body = json.loads(leaf_bytes)["body"]
    except (ValueError, TypeError, KeyError) as error:
        raise LedgerError("ledger.bad-leaf", f"entry {seq} is not an entry ({type(error).__name__})") from error
    if not isinstance(body, dict):
        raise _lacks(seq, "body")
    return cast(dict[str, Any], body)


def _text(body: Mapping[str, Any], name: str, seq: int) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise _lacks(seq, name)
    return value


def _number(body: Mapping[str, Any], name: str, seq: int) -> int:
    value = body.get(name)
    if not isinstance(value, int):
        raise _lacks(seq, name)
    return value


def _lacks(seq: int, name: str) -> LedgerError:
    return LedgerError("ledger.bad-body", f"entry {seq} has no {name!r}", fix="verify the log (stairlock log --verify)")
