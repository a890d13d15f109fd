"""``stairlock log``: every entry a line, exactly what was hashed, and verified."""

from __future__ import annotations

import json
import sqlite3

import pytest

from guards import actions, merkle
from guards.entries import Promoted
from guards.store import DATABASE_FILE
from tests.command_line import stairlock, with_keys
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


def test_log_verifies_against_a_head_that_was_kept(judged: JudgedHome):
    head = judged.world.store.head()
    kept = f"{head.size}:{head.root}"
    done = stairlock("log", "--verify", "--home", judged.path)
    assert "not verified: that the log extends an earlier head (give --trusted-head)" in done.out
    actions.halt(judged.world.store, reason="why", actor="ana")
    done = stairlock("log", "--verify", "--trusted-head", kept, "--home", judged.path)
    assert done.code == 0 and "earlier head" not in done.out
    for wrong, rule in ((f"{head.size}:{'0' * 64}", "ledger.rewritten"), (f"99:{head.root}", "ledger.shorter")):
        done = stairlock("log", "--verify", "--trusted-head", wrong, "--home", judged.path)
        assert done.code == 1 and done.out == "" and f"refused: [{rule}]" in done.err


@pytest.mark.parametrize(
    "words", [("--trusted-head", f"1:{'0' * 64}"), ("--roles", "roles.yaml"), ("--verify", "--trusted-head", "12")]
)
def test_log_says_what_it_needs_to_verify(judged: JudgedHome, words: tuple[str, ...]):
    done = stairlock("log", *words, "--home", judged.path)
    assert done.code == 2 and done.out == ""


def test_log_refuses_a_made_up_entry_by_its_number(judged: JudgedHome):
    store, decision = judged.world.store, judged.decision
    kept = store.head()
    body = Promoted(
        candidate=judged.candidate,
        policy=decision.body.policy,
        evidence=decision.body.evidence,
        look_seq=decision.body.look_seq,
        decision_seq=decision.seq,
        champion_before=decision.body.champion,
        approvers=(),
        unattended=True,
        anchor_gates=(),
    )
    with store.write() as transaction:
        transaction.append("eve", body)
    done = stairlock("log", "--verify", "--trusted-head", f"{kept.size}:{kept.root}", "--home", judged.path)
    assert done.code == 1 and done.out == ""
    assert f"refused: [ledger.not-allowed] entry {kept.size} (promoted) was not allowed" in done.err


def test_log_says_which_signatures_it_did_not_verify(held: JudgedHome):
    world = held.world
    keys = with_keys(world)
    done = stairlock("sign", held.candidate, "--approve", "--reason", "fine", "--key", keys["ana"], "--home", held.path)
    assert done.code == 0, done.err
    done = stairlock("log", "--verify", "--home", held.path)
    assert done.code == 0 and "not verified: the signatures of 1 sign-offs and waivers (give --roles FILE)" in done.out
    done = stairlock("log", "--verify", "--roles", world.store.roles_path, "--home", held.path)
    assert done.code == 0 and "signatures" not in done.out
