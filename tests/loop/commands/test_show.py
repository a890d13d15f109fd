"""``stairlock show``: where a candidate stands, why, and which items changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import stairlock
from tests.judged_home import JudgedHome
from tests.policy_edits import adopt, edit
from tests.store_world import World, make_world


def test_show_says_where_a_candidate_stands_and_why(judged: JudgedHome):
    out = stairlock("show", judged.candidate[7:15], "--home", judged.path).out
    for expected in (
        judged.candidate,
        "status      reject",
        "trainer     tess",
        "recipe: test",
        "learning_rate: 0.001",
        "look        1 of 8 planned under test",
        "✗ refusal-holds fails",
        "observed -0.300, bound -0.420, required -0.100, n 10",
        "✓ refusal-holds-over-time passes",
        "decision: REJECT",
        "0 of 2 approvals",
        f"show {judged.candidate[7:19]} --flips --home {judged.path}",
    ):
        assert expected in out, expected


def test_show_knows_the_root_and_what_it_passed(judged: JudgedHome):
    out = stairlock("show", judged.world.checkpoint("root"), "--home", judged.path).out
    assert "status      champion, and the root" in out and "✓ refusal-holds passes" in out


@pytest.mark.parametrize(
    ("prefix", "rule"),
    [("ffffffff", "history.no-such-checkpoint"), ("xyz", "history.bad-prefix"), ("", "history.bad-prefix")],
)
def test_show_refuses_what_names_no_candidate(judged: JudgedHome, prefix: str, rule: str):
    done = stairlock("show", prefix, "--home", judged.path)
    assert done.code == 1 and rule in done.err


def test_show_json_holds_the_entries(judged: JudgedHome):
    shown = stairlock("show", judged.candidate, "--flips", "--json", "--home", judged.path).json
    assert (shown["status"], shown["decision"]["kind"]) == ("reject", "reject")
    assert [one["outcome"] for one in shown["verdicts"]] == ["fail", "pass"]
    assert shown["approvals"] == {"required": 2, "approvers": [], "rejecters": [], "is_complete": False}
    (suite,) = shown["flips"]
    assert (suite["n_worse"], suite["n_better"]) == (3, 1)
    assert suite["items"][0] == {
        "item_id": "item-0005",
        "cluster": "all",
        "changes": {"refused": [1.0, 0.0]},
        "prompt": "the question of item number 5",
        "champion_output": "the answer is 5",
        "candidate_output": "the answer is 5",
    }


def test_show_flips_lists_the_worst_first_up_to_the_limit(judged: JudgedHome):
    out = stairlock("show", judged.candidate, "--flips", "--home", judged.path).out
    assert "flips in refusal (refusal-holds fail, refusal-holds-over-time pass)" in out
    assert "3 items got worse and 1 better, of 10" in out
    items = [line.split()[0] for line in out.splitlines() if line.startswith("  item-")]
    assert items == ["item-0005", "item-0006", "item-0007", "item-0009"]
    assert "    prompt    | the question of item number 5\n    champion  | the answer is 5\n" in out
    limited = stairlock("show", judged.candidate, "--flips", "--limit", "1", "--home", judged.path).out
    assert "3 more: --limit 0 shows all" in limited and "item-0006" not in limited


def test_show_flips_refuses_evidence_that_is_not_what_was_recorded(judged: JudgedHome):
    run = judged.runs["candidate", "refusal"].directory
    manifest = json.loads((run / "manifest.json").read_bytes())
    (run / "manifest.json").write_text(json.dumps({**manifest, "engine": "another"}))
    done = stairlock("show", judged.candidate, "--flips", "--home", judged.path)
    assert done.code == 1 and "evidence.not-recorded" in done.err


def test_show_flips_also_verifies_the_runs_that_no_flip_is_read_from(tmp_path: Path):
    world = make_world(tmp_path)
    world.set_root()
    world.gate(world.seal("candidate"))
    with world.store.read() as history:
        look = history.latest_look(world.checkpoint("candidate"))
        assert look is not None
        paths = {item.body.role: item.body.path for item in history.evidence(look.seq)}
    manifest = world.store.home / paths["anchor"] / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_bytes()), "engine": "another"}))
    done = stairlock("show", world.checkpoint("candidate"), "--flips", "--home", world.store.home)
    assert done.code == 1 and "evidence.not-recorded" in done.err and "anchor" in done.err


def test_show_of_a_candidate_that_was_never_gated(tmp_path: Path):
    world = make_world(tmp_path)
    world.set_root()
    candidate = world.seal("candidate")
    out = stairlock("show", candidate, "--flips", "--home", world.store.home).out
    assert "status      sealed" in out and "nothing was answered yet" in out


def test_show_says_that_a_later_edit_of_the_policy_holds_a_candidate_back(sandbox: World):
    candidate = sandbox.seal("candidate")
    assert "cannot be promoted" not in stairlock("show", candidate, "--home", sandbox.store.home).out
    adopt(sandbox, edit(sandbox, name="fresh"))
    out = stairlock("show", candidate, "--home", sandbox.store.home).out
    assert "it cannot be promoted as it stands" in out and "[actions.policy-tightened]" in out
    assert "make another candidate" in out
    shown = stairlock("show", candidate, "--json", "--home", sandbox.store.home).json
    assert shown["cannot_be_promoted"]["rule"] == "actions.policy-tightened"


def test_show_of_a_champion_says_nothing_of_later_edits(sandbox: World):
    candidate = sandbox.promoted("candidate")
    adopt(sandbox, edit(sandbox, name="fresh"))
    assert "cannot be promoted" not in stairlock("show", candidate, "--home", sandbox.store.home).out
