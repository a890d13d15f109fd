"""``stairlock policy diff``, ``adopt``, ``sign``, ``pack`` and ``install``, as people call them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from guards.authoring.case_model import Case
from guards.authoring.policy_cases import run_case
from guards.authoring.policy_counterexamples import as_recorded
from guards.ledger import timestamp
from guards.signing import new_key
from guards.store import utc_now
from loop.commands.options import actor_name
from loop.commands.policy_changes import _policy
from tests.command_line import Done, stairlock

REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass
class Team:
    """A folder of policies, a home, and the keys of Ana (reviewer) and Bo (safety)."""

    policies: Path
    home: Path
    keys: dict[str, Path]

    @property
    def policy(self) -> Path:
        return self.policies / "default.yaml"

    def edited(self, old: str, new: str, name: str = "edited") -> Path:
        """A copy of the policy with a piece of text replaced, everywhere."""
        text = self.policy.read_text()
        assert old in text
        path = self.policies / f"{name}.yaml"
        path.write_text(text.replace(old, new))
        return path

    def say(self, *words: object) -> Done:
        return stairlock("policy", *words, "--home", self.home)

    def sign(self, path: object, who: str, *words: str) -> Done:
        said = words or ("--approve",)
        return self.say("sign", path, *said, "--reason", "I read the diff", "--key", self.keys[who])


@pytest.fixture
def team(tmp_path: Path) -> Team:
    shutil.copytree(REPOSITORY / "policies", tmp_path / "policies")
    home = tmp_path / "home"
    team = Team(tmp_path / "policies", home, {})
    assert team.say("adopt", team.policy).code == 0
    people = []
    for name, role in (("ana", "reviewer"), ("bo", "safety")):
        files = new_key(tmp_path / "keys", name)
        team.keys[name] = files.private
        people.append({"id": name, "name": name, "roles": [role], "keys": [files.key.model_dump()]})
    roles = {"schema": "stairlock/roles/v1", "people": people, "services": [actor_name()]}
    (home / "roles.yaml").write_text(json.dumps(roles))
    return team


LOOSER = ("level: 0.70", "level: 0.60")
STRICTER = ("level: 0.70", "level: 0.71")


def test_diff_says_same_stricter_or_looser_by_its_exit_code(team: Team):
    same = team.edited("description: Better", "description: Much better", "same")
    assert team.say("diff", team.policy, same).code == 0
    assert team.say("diff", team.policy, team.edited(*STRICTER)).code == 0
    done = team.say("diff", team.policy, team.edited(*LOOSER))
    assert done.code == 4
    assert done.out.startswith("looser: NEW passes what OLD does not")
    assert "gates.refusal-floor.level: 0.7 -> 0.6: looser" in done.out
    assert "2 people must approve it" in done.out
    assert 'name: "NEW passes this; in OLD refusal-floor' in done.out


def test_what_cannot_be_compared_exits_like_what_is_looser(team: Team):
    done = team.say("diff", team.policy, team.edited("name: default", "name: fresh"))
    assert (done.code, done.out.splitlines()[0]) == (4, "incomparable: NEW may pass what OLD does not")


def test_the_counterexample_in_json_holds_under_both_policies(team: Team):
    looser = team.edited(*LOOSER)
    done = team.say("diff", team.policy, looser, "--json")
    assert (done.code, done.json["overall"], done.json["needs_approvals"]) == (4, "looser", True)
    assert done.json["gates"]["refusal-floor"] == "looser" and done.json["gates"]["budget"] == "same"
    (item,) = done.json["items"]
    case = Case.model_validate(item["counterexample"])
    old, new = (run_case(as_recorded(_policy(str(path), None)), case) for path in (team.policy, looser))
    assert new.is_met
    assert {one.outcome for one in old.verdicts if one.gate_id == "refusal-floor"} != {"pass"}


def test_diff_reads_the_policy_in_force_and_recorded_ones_by_digest(team: Team):
    assert team.say("diff", "in-force", team.policy).code == 0
    digest = stairlock("policy", "check", team.policy, "--json").json["digest"]
    assert team.say("diff", digest, team.policy).code == 0
    done = team.say("diff", "sha256:" + "0" * 64, team.policy)
    assert (done.code, "actions.policy-unknown" in done.err) == (1, True)


def test_diff_refuses_a_file_that_is_no_policy(team: Team):
    done = team.say("diff", team.policy, team.policies / "nothing.yaml")
    assert (done.code, "yaml.no-file" in done.err) == (1, True)


def test_a_looser_policy_comes_into_force_once_people_sign(team: Team):
    looser = team.edited(*LOOSER)
    done = team.say("adopt", looser)
    assert done.code == 1
    assert "actions.looser-policy" in done.err and "gates.refusal-floor.level" in done.err
    signed = team.sign(looser, "ana")
    assert signed.code == 0
    assert "1 of 2 approvals (ana)" in signed.out
    assert team.say("adopt", looser).code == 1
    done = team.sign(looser, "bo", "--approve", "--json")
    assert done.json["approvals_complete"] is True
    done = team.say("adopt", looser)
    assert done.code == 0
    assert "change      looser" in done.out and "approved by ana, bo" in done.out
    assert team.say("diff", "in-force", looser).code == 0


def test_a_rejection_blocks_it(team: Team):
    looser = team.edited(*LOOSER)
    team.say("adopt", looser)
    team.sign(looser, "ana")
    assert "says reject" in team.sign(looser, "bo", "--reject").out
    done = team.say("adopt", looser)
    assert (done.code, "rejected by bo" in done.err) == (1, True)


def test_what_was_never_recorded_cannot_be_signed(team: Team):
    done = team.sign(team.edited(*LOOSER), "ana")
    assert (done.code, "actions.policy-unknown" in done.err) == (1, True)


def test_signing_says_one_of_two(team: Team):
    assert team.sign(team.policy, "ana", "--approve", "--reject").code == 2


def test_a_policy_that_cannot_pass_is_not_adopted(team: Team):
    done = team.say("adopt", team.edited("margin: 0.08", "margin: 0.001"))
    assert done.code == 1
    assert "in force" not in done.out


def test_a_bundle_goes_from_one_home_to_another(team: Team, tmp_path: Path):
    bundle = tmp_path / "team.bundle"
    done = team.say("pack", team.edited(*STRICTER), "--key", team.keys["bo"], "--out", bundle)
    assert done.code == 0
    assert "signed by bo" in done.out
    done = team.say("install", bundle)
    assert done.code == 0
    assert "is in force" in done.out
    assert team.say("diff", "in-force", team.edited(*STRICTER)).code == 0


def test_a_looser_bundle_is_installed_and_waits(team: Team, tmp_path: Path):
    bundle = tmp_path / "team.bundle"
    team.say("pack", team.edited(*LOOSER), "--key", team.keys["bo"], "--out", bundle)
    done = team.say("install", bundle)
    assert done.code == 1
    assert "installed" in done.out and "actions.looser-policy" in done.err
    assert team.say("diff", "in-force", team.policy).code == 0


def test_a_bad_bundle_is_refused(team: Team, tmp_path: Path):
    bundle = tmp_path / "team.bundle"
    assert team.say("pack", team.policy, "--key", team.keys["ana"], "--out", bundle).code == 0
    done = team.say("install", bundle)
    assert done.code == 1
    assert "actions.bad-bundle" in done.err and "bundle.author-role" in done.err
    assert timestamp(utc_now())[:4] in stairlock("log", "--home", team.home).out
