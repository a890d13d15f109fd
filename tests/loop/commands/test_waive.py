"""``stairlock waive``: who signs that a gate is waived, and where that is shown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.command_line import Done, stairlock, with_keys
from tests.judged_home import JudgedHome, judged_home, put_into_home

GATE = "refusal-holds"


@pytest.fixture
def unclear(tmp_path: Path) -> JudgedHome:
    """A candidate of which one gate showed neither."""
    return judged_home(tmp_path, outcome="inconclusive")


def later(**by: float) -> str:
    return (datetime.now(UTC).replace(microsecond=0) + timedelta(**by)).isoformat()


def waive(home: JudgedHome, key: Path, *words: object, gate: str = GATE, expires: str | None = None) -> Done:
    said = ("--ticket", "SAFE-12", "--expires", expires or later(days=2)) if "--reject" not in words else ()
    about = ("waive", home.candidate[7:15], "--gate", gate, "--reason", "a person read them all", "--key", key)
    return stairlock(*about, *said, *words, "--home", home.path)


def test_two_people_waive_a_gate_and_it_is_shown_with_its_verdict(unclear: JudgedHome):
    keys, expires = with_keys(unclear.world), later(days=2)
    put_into_home(unclear, "candidate")
    home = ("--home", unclear.path)
    first = waive(unclear, keys["ana"], expires=expires)
    assert first.code == 0, first.err
    assert "ana waives refusal-holds of" in first.out and "1 of 2 signatures" in first.out
    assert "(waived" not in stairlock("show", unclear.candidate, *home).out
    second = waive(unclear, keys["bo"], "--json", expires=expires)
    (standing,) = second.json["waivers"]
    assert standing["is_live"] and standing["approvers"] == ["ana", "bo"] and second.json["entry"]["kind"] == "waiver"
    shown = stairlock("show", unclear.candidate, *home).out
    assert f"? refusal-holds is inconclusive (waived until {expires} (SAFE-12, by ana, bo): a person" in shown
    assert "waivers\n  refusal-holds is waived until" in shown and "to approve it: " in shown
    as_json = stairlock("show", unclear.candidate, "--json", *home).json
    assert [one["waived"] for one in as_json["verdicts"]] == [True, False] and as_json["waivers"] == [standing]
    for name in ("ana", "bo"):
        done = stairlock("sign", unclear.candidate, "--approve", "--reason", "fine", "--key", keys[name], *home)
        assert done.code == 0, done.err
    done = stairlock("promote", unclear.candidate, *home)
    assert done.code == 0, done.err
    assert unclear.world.champion() == unclear.candidate
    listed = stairlock("log", "--kind", "waiver", "--verify", "--roles", unclear.world.store.roles_path, *home)
    assert listed.code == 0 and "ana waives refusal-holds until" in listed.out and "(SAFE-12)" in listed.out
    promote = stairlock("log", "--kind", "promote", *home).out
    assert "refusal-holds is waived until" in promote


def test_an_objection_is_shown_and_voids_it(unclear: JudgedHome):
    keys, expires = with_keys(unclear.world), later(days=2)
    for name in ("ana", "bo"):
        waive(unclear, keys[name], expires=expires)
    done = waive(unclear, keys["bo"], "--reject")
    assert done.code == 0 and "bo objects to waiving refusal-holds of" in done.out and "not waived" in done.out
    shown = stairlock("show", unclear.candidate, "--home", unclear.path).out
    assert "not waived (bo objects)" in shown and "bo objects to waiving refusal-holds" in shown
    assert "(waived" not in shown
    assert "bo objects to waiving" in stairlock("log", "--kind", "waiver", "--home", unclear.path).out


def test_what_a_waiver_cannot_help_is_refused(judged: JudgedHome):
    keys = with_keys(judged.world)
    done = waive(judged, keys["ana"])
    assert done.code == 1 and "actions.waiver-useless" in done.err and "is fail" in done.err


@pytest.mark.parametrize(
    ("expires", "code", "said"),
    [
        ("tomorrow", 2, "is no time"),
        ("2030-01-31T12:00:00", 1, "waiver.naive-time"),
        ("2020-01-31T12:00:00Z", 1, "actions.waiver-expired"),
        ("2999-01-31T12:00:00+01:00", 1, "actions.waiver-too-long"),
    ],
)
def test_a_bad_expiry_is_refused(unclear: JudgedHome, expires: str, code: int, said: str):
    done = waive(unclear, with_keys(unclear.world)["ana"], expires=expires)
    assert done.code == code and said in done.err
    assert "waiver" not in unclear.world.kinds()


def test_a_gate_that_is_not_there_is_refused_and_shown_escaped(unclear: JudgedHome):
    done = waive(unclear, with_keys(unclear.world)["ana"], gate="\x1b[2J")
    assert done.code == 1 and "actions.no-such-gate" in done.err and "\x1b" not in done.err


def test_ticket_and_expiry_go_with_a_waiver_and_not_with_an_objection(unclear: JudgedHome):
    key = with_keys(unclear.world)["ana"]
    about = ("waive", unclear.candidate, "--gate", GATE, "--reason", "x", "--key", key, "--home", unclear.path)
    assert stairlock(*about).code == 2
    assert stairlock(*about, "--ticket", "T-1").code == 2
    assert stairlock(*about, "--ticket", "T-1", "--reject").code == 2


def test_nobody_waives_for_another(unclear: JudgedHome):
    done = waive(unclear, with_keys(unclear.world)["ana"], "--person", "bo")
    assert done.code == 1 and "signing.other-signer" in done.err
