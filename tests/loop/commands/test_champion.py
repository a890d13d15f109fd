"""``stairlock rollback``; ``stairlock promote`` is beside the signatures that it needs, in test_signing.py."""

from __future__ import annotations

from pathlib import Path

from tests.command_line import stairlock
from tests.judged_home import judged_home, put_into_home
from tests.store_world import UNATTENDED_APPROVALS


def test_rollback_brings_a_past_champion_back(tmp_path: Path):
    home = judged_home(tmp_path, outcome="pass", approvals=UNATTENDED_APPROVALS)
    for name in ("candidate", "root"):
        put_into_home(home, name)
    promoted = stairlock("promote", home.candidate, "--home", home.path)
    assert promoted.code == 0 and "UNATTENDED" in promoted.out
    root = home.world.checkpoint("root")
    done = stairlock("rollback", root[7:15], "--reason", "worse in use", "--home", home.path)
    assert done.code == 0 and home.world.champion() == root
    refused = stairlock("rollback", root, "--reason", "again", "--home", home.path)
    assert refused.code == 0, "the same rollback again is the entry that exists"
