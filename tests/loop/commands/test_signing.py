"""``stairlock sign`` and ``stairlock key``: who may sign, and with what."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guards.roles import Roles, load_roles
from guards.signing import new_key
from tests.command_line import stairlock, with_keys
from tests.judged_home import JudgedHome, put_into_home


def test_two_people_sign_and_the_candidate_is_promoted(held: JudgedHome):
    keys, home = with_keys(held.world), ("--home", held.path)
    put_into_home(held, "candidate")
    early = stairlock("promote", held.candidate[7:15], *home)
    assert early.code == 1 and "actions.not-approved" in early.err
    first = stairlock("sign", held.candidate[7:15], "--approve", "--reason", "read it", "--key", keys["ana"], *home)
    assert first.code == 0 and "1 of 2 approvals (ana)" in first.out and "to make it champion" not in first.out
    shown = stairlock("show", held.candidate, *home).out
    assert "ana (reviewer) says approve" in shown and "read it" in shown and "to approve it: " in shown
    second = stairlock("sign", held.candidate, "--approve", "--reason", "me too", "--key", keys["bo"], "--json", *home)
    assert second.json["approvals_complete"] is True and second.json["entry"]["kind"] == "signoff"
    assert f"promote {held.candidate[7:19]}" in stairlock("show", held.candidate, *home).out
    done = stairlock("promote", held.candidate[7:15], *home)
    assert done.code == 0 and f"{held.candidate} is the champion" in done.out and "approved by ana, bo" in done.out
    assert held.world.champion() == held.candidate


def test_a_rejection_blocks(held: JudgedHome):
    keys, home = with_keys(held.world), ("--home", held.path)
    put_into_home(held, "candidate")
    stairlock("sign", held.candidate, "--approve", "--reason", "fine", "--key", keys["ana"], *home)
    done = stairlock("sign", held.candidate, "--reject", "--reason", "not fine", "--key", keys["bo"], *home)
    assert done.code == 0 and "rejected by bo" in done.out
    assert stairlock("promote", held.candidate, *home).code == 1


def test_nobody_signs_for_another(held: JudgedHome):
    keys = with_keys(held.world)
    words = ("sign", held.candidate, "--approve", "--reason", "x", "--key", keys["ana"], "--person", "bo")
    done = stairlock(*words, "--home", held.path)
    assert done.code == 1 and "signing.other-signer" in done.err


def test_a_key_with_a_passphrase_asks_for_it(held: JudgedHome):
    with_keys(held.world)
    files = new_key(held.world.base / "locked", "cy", passphrase=b"open sesame")
    known = next(one for one in held.world.roles.people if one.id == "cy")
    people = [one for one in held.world.roles.people if one.id != "cy"]
    roles = Roles(schema="stairlock/roles/v1", people=(*people, known.model_copy(update={"keys": (files.key,)})))
    held.world.store.roles_path.write_text(roles.model_dump_json(by_alias=True))
    words = ("sign", held.candidate, "--reject", "--reason", "x", "--key", files.private, "--home", held.path)
    wrong = stairlock(*words, input="wrong\n")
    assert wrong.code == 1 and "signing.bad-key" in wrong.err
    right = stairlock(*words, input="open sesame\n")
    assert right.code == 0 and "cy says reject" in right.out
    assert "open sesame" not in right.out + right.err


def test_a_new_key_prints_what_the_roles_file_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    done = stairlock("key", "new", "007", "--no-passphrase")
    assert done.code == 0
    assert (tmp_path / "007.key").stat().st_mode & 0o777 == 0o600
    snippet = done.out[done.out.index("schema:") :]
    (tmp_path / "roles.yaml").write_text(snippet)
    (known,) = load_roles(tmp_path / "roles.yaml").people
    assert (known.id, known.keys[0].id) == ("007", json.loads((tmp_path / "007.pub").read_text())["id"])
    again = stairlock("key", "new", "007", "--no-passphrase")
    assert again.code == 1 and "signing.key-exists" in again.err


def test_the_snippet_goes_under_the_people_that_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    first = stairlock("key", "new", "ana", "--no-passphrase", "--home", home).out
    roles = home / "roles.yaml"
    roles.write_text(first[first.index("schema:") :])
    second = stairlock("--home", home, "key", "new", "bo", "--no-passphrase").out
    assert "schema:" not in second
    roles.write_text(roles.read_text() + second[second.index("  - id:") :])
    assert [one.id for one in load_roles(roles).people] == ["ana", "bo"]


def test_a_new_key_is_encrypted_unless_one_asks_otherwise(tmp_path: Path):
    done = stairlock("key", "new", "ana", "--dir", tmp_path, input="sesame\nsesame\n")
    assert done.code == 0 and b"ENCRYPTED" in (tmp_path / "ana.key").read_bytes()
    assert "sesame" not in done.out + done.err
