"""``stairlock log``: every entry a line, exactly what was hashed, and verified."""

from __future__ import annotations

import json
import sqlite3

from guards import merkle
from guards.store import DATABASE_FILE
from tests.command_line import stairlock
from tests.judged_home import JudgedHome


def test_log_has_a_line_for_every_entry(judged: JudgedHome):
    lines = stairlock("log", "--home", judged.path).out.splitlines()
    assert [line.split()[3] for line in lines] == judged.world.kinds()
    short = judged.candidate[7:19]
    assert lines[0].startswith("2026-11-24 05:00:00      0  genesis")
    assert f"{short}: refusal-holds fails: refused minus the champion's" in "\n".join(lines)
    assert any(" reject " in line and short in line for line in lines)


def test_log_json_is_exactly_what_was_hashed(judged: JudgedHome):
    lines = stairlock("log", "--json", "--home", judged.path).out.encode().splitlines()
    with sqlite3.connect(judged.path / DATABASE_FILE) as db:
        stored = [row[0] for row in db.execute("select leaf_hash from entries order by seq")]
    assert [merkle.leaf_hash(line) for line in lines] == stored
    assert [json.loads(line)["kind"] for line in lines] == judged.world.kinds()


def test_log_filters_by_kind_and_by_candidate(judged: JudgedHome):
    verdicts = stairlock("log", "--json", "--kind", "verdict", "--home", judged.path).out.splitlines()
    assert {json.loads(line)["kind"] for line in verdicts} == {"verdict"} and len(verdicts) == 2
    about = stairlock("log", "--json", "--candidate", judged.candidate[7:15], "--home", judged.path).out.splitlines()
    assert [json.loads(line)["kind"] for line in about] == [
        "sealed",
        "seed",
        "evidence",
        "evidence",
        "verdict",
        "verdict",
        "reject",
    ]


def test_log_verifies_and_refuses_a_log_that_was_edited(judged: JudgedHome):
    done = stairlock("log", "--verify", "--home", judged.path)
    head = judged.world.store.head()
    assert done.code == 0 and done.out.splitlines()[-1] == f"verified: {head.size} entries, head {head.root}"
    done = stairlock("log", "--verify", "--json", "--home", judged.path)
    assert len(done.out.splitlines()) == head.size and "verified" in done.err
    with sqlite3.connect(judged.path / DATABASE_FILE) as db:
        db.execute("update entries set leaf_bytes = replace(leaf_bytes, 'reject', 'REJECT') where kind = 'reject'")
        db.execute("update entries set leaf_bytes = cast(leaf_bytes as blob) where kind = 'reject'")
    done = stairlock("log", "--verify", "--home", judged.path)
    assert done.code == 1 and done.out == "" and "refused: [ledger." in done.err
