"""``stairlock halt``, ``lift`` and ``recall``."""

from __future__ import annotations

from tests.command_line import stairlock
from tests.judged_home import JudgedHome


def test_halt_stops_and_lift_ends_it(held: JudgedHome):
    home = ("--home", held.path)
    assert stairlock("halt", "--reason", "something is odd", *home).code == 0
    stopped = stairlock("promote", held.candidate, *home)
    assert stopped.code == 1 and "actions.halted" in stopped.err and "something is odd" in stopped.err
    lifted = stairlock("lift", "--reason", "found it", "--json", *home)
    assert lifted.code == 0 and lifted.json["kind"] == "lift"
    assert "actions.halted" not in stairlock("promote", held.candidate, *home).err
    assert "actions.not-halted" in stairlock("lift", "--reason", "again", *home).err


def test_recalling_the_champion_halts_everything_and_says_so(judged: JudgedHome):
    root = judged.world.checkpoint("root")
    done = stairlock("recall", root[7:15], "--reason", "poisoned", "--home", judged.path)
    assert done.code == 0 and "everything is halted" in done.out and "rollback" in done.out
    assert "status      recalled" in stairlock("show", root, "--home", judged.path).out
