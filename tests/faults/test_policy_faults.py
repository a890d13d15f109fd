"""Policy files that must be refused: each with its exact rule and the exact place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guards.errors import ConfigError
from guards.policy import resolve_policy
from guards.strict_yaml import MAX_BYTES
from tests.gate_world import EVAL_GATE, policy_body, write_policy

POLICY = """\
schema: stairlock/policy/v1
name: test
description: for tests
looks: {planned: 2}
suites:
  refusal: refusal.yaml
gates:
  - id: refusal-holds
    kind: eval
    suite: refusal
    metric: refused
    claim: non_inferior_within
    margin: 0.1
    against: champion
    alpha: 0.05
    min_items: 50
    max_unscored: 0.02
  - id: integrity
    kind: integrity
approvals:
  required: 2
  roles: [reviewer, safety]
"""


def write(tmp_path: Path, text: str | bytes) -> Path:
    (tmp_path / "refusal.yaml").write_text("name: refusal\nitems: {file: items.jsonl}\n")
    (tmp_path / "items.jsonl").write_text('{"id": "1"}\n')
    path = tmp_path / "policy.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refusal(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        resolve_policy(path)
    return caught.value


def test_the_unchanged_file_is_accepted(tmp_path: Path) -> None:
    resolved = resolve_policy(write(tmp_path, POLICY))
    assert resolved.gate_lines == {"refusal-holds": 8, "integrity": 18}


# (what is replaced, by what, rule, line:col)
CASES: dict[str, tuple[str, str, str, str]] = {
    "unknown policy key": ("looks:", "look:", "yaml.unknown-key", "4:1"),
    "unknown gate key": ("    margin: 0.1", "    margn: 0.1", "yaml.unknown-key", "13:5"),
    "unknown key of another kind of gate": (
        "kind: integrity",
        "kind: integrity\n    margin: 0.1",
        "yaml.unknown-key",
        "20:5",
    ),
    "unknown gate kind": ("kind: integrity", "kind: integrety", "yaml.invalid", "19:11"),
    "gate without a kind": ("    kind: integrity\n", "    against: root\n", "yaml.missing-key", "18:5"),
    "missing key": ("name: test\n", "", "yaml.missing-key", "1:1"),
    "another schema": ("policy/v1", "policy/v2", "yaml.invalid", "1:9"),
    "duplicate key": ("    margin: 0.1\n", "    margin: 0.1\n    margin: 0.9\n", "yaml.duplicate-key", "14:5"),
    "anchor": ("[reviewer, safety]", "&r [reviewer, safety]", "yaml.alias", "22:10"),
    "alias": ("[reviewer, safety]", "*r", "yaml.alias", "22:10"),
    "tag": ("margin: 0.1", "margin: !!float 0.1", "yaml.tag", "13:13"),
    "python tag": ("name: test", "name: !!python/object/apply:os.system [ls]", "yaml.tag", "2:7"),
    "merge key": ("  required: 2", "  <<: {required: 2}", "yaml.merge-key", "21:3"),
    "directive": ("schema:", "%YAML 1.1\n---\nschema:", "yaml.directive", "2:1"),
    "second document": ("approvals:", "---\napprovals:", "yaml.many-documents", "20:1"),
    "not YAML": ("[reviewer, safety]", "[reviewer, safety", "yaml.syntax", "23:1"),
    "control character": ("name: test", "name: te\x1bst", "yaml.syntax", "2:9"),
    "NaN margin": ("margin: 0.1", "margin: .nan", "yaml.not-finite", "13:13"),
    "infinite alpha": ("alpha: 0.05", "alpha: .inf", "yaml.not-finite", "15:12"),
    "overflowing number": ("alpha: 0.05", "alpha: 1e400", "yaml.not-finite", "15:12"),
    "octal or decimal": ("min_items: 50", "min_items: 050", "yaml.ambiguous-number", "16:16"),
    "number with underscores": ("min_items: 50", "min_items: 5_0", "yaml.ambiguous-number", "16:16"),
    "yes for true": ("name: test", "name: yes", "yaml.ambiguous-boolean", "2:7"),
    "number in quotes": ("margin: 0.1", 'margin: "0.1"', "yaml.invalid", "13:13"),
    "fraction of an item": ("min_items: 50", "min_items: 50.5", "yaml.invalid", "16:16"),
    "boolean for a number": ("margin: 0.1", "margin: true", "yaml.invalid", "13:13"),
    "null for a list": ("roles: [reviewer, safety]", "roles:", "yaml.invalid", "22:3"),
    "alpha of one": ("alpha: 0.05", "alpha: 1.0", "yaml.invalid", "15:12"),
    "alpha of zero": ("alpha: 0.05", "alpha: 0", "yaml.invalid", "15:12"),
    "no planned look": ("planned: 2", "planned: 0", "yaml.invalid", "4:18"),
    "everything may be unscored": ("max_unscored: 0.02", "max_unscored: 1.0", "yaml.invalid", "17:19"),
    "unknown claim": ("non_inferior_within", "not_worse_than", "yaml.invalid", "12:12"),
    "unknown reference": ("against: champion", "against: candidate", "yaml.invalid", "14:14"),
    "gate id with a space": ("id: integrity", "id: the integrity", "yaml.invalid", "18:9"),
    "unknown role": ("[reviewer, safety]", "[reviewer, intern]", "yaml.invalid", "22:21"),
    "non-inferiority within nothing": ("margin: 0.1", "margin: 0.0", "policy.margin-range", "8:5"),
    "negative margin": ("margin: 0.1", "margin: -0.1", "policy.margin-range", "8:5"),
    "margin of everything": ("margin: 0.1", "margin: 1.0", "policy.margin-range", "8:5"),
    "margin missing": ("    margin: 0.1\n", "", "policy.claim-shape", "8:5"),
    "against missing": ("    against: champion\n", "", "policy.claim-shape", "8:5"),
    "level on a paired claim": ("margin: 0.1", "margin: 0.1\n    level: 0.5", "policy.claim-shape", "8:5"),
    "level missing": ("claim: non_inferior_within", "claim: at_least", "policy.claim-shape", "8:5"),
    "empty cluster list": ("min_items: 50", "min_items: 50\n    clusters: []", "yaml.invalid", "17:15"),
    "duplicate gate": ("id: integrity", "id: refusal-holds", "policy.duplicate-gate", "18:9"),
    "gate of an undeclared suite": ("    suite: refusal", "    suite: refusals", "policy.unknown-suite", "10:12"),
    "suite file missing": ("refusal: refusal.yaml", "refusal: gone.yaml", "policy.missing-suite", "6:12"),
    "two roles, one person": ("required: 2", "required: 1", "policy.approvals", "21:3"),
    "one role twice": ("[reviewer, safety]", "[safety, safety]", "policy.approvals", "21:3"),
    "approvals of no role": ("  roles: [reviewer, safety]\n", "", "policy.approvals", "21:3"),
    "nobody, silently": ("required: 2\n  roles: [reviewer, safety]", "required: 0", "policy.unattended", "21:3"),
    "nobody, half-heartedly": (
        "required: 2\n  roles: [reviewer, safety]",
        "required: 0\n  unattended: I accept",
        "policy.unattended",
        "21:3",
    ),
    "unattended and attended": (
        "required: 2",
        "required: 2\n  unattended: I accept promotion without a person",
        "policy.unattended",
        "21:3",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_with_its_rule_at_its_place(case: str, tmp_path: Path) -> None:
    old, new, rule, place = CASES[case]
    assert POLICY.count(old) >= 1, "the case no longer changes anything"
    path = write(tmp_path, POLICY.replace(old, new, 1))
    error = refusal(path)
    assert error.rule == rule
    assert error.message.startswith(f"{path}:{place}: ")


def test_an_empty_gate_list_is_refused(tmp_path: Path) -> None:
    start, end = POLICY.index("gates:"), POLICY.index("approvals:")
    path = write(tmp_path, POLICY[:start] + "gates: []\n" + POLICY[end:])
    error = refusal(path)
    assert error.rule == "policy.no-gates"
    assert error.message.startswith(f"{path}:7:8: ")


@pytest.mark.parametrize(
    ("data", "rule", "place"),
    [
        (b"", "yaml.empty", "1:1"),
        (b"# nothing but a comment\n", "yaml.empty", "1:1"),
        (b"name: x\nname2: caf\xe9\n", "yaml.not-utf8", "2:11"),
        (b"- 1\n", "yaml.invalid", "1:1"),
        (b"a: " + b"[" * 60 + b"]" * 60, "yaml.too-deep", "1:43"),
        (b"[" * 20000, "yaml.too-deep", "1:41"),
        (b"{{a: b}: c}\n", "yaml.bad-key", "1:2"),
        (b'name: "\\ud800"\n', "yaml.syntax", "1:7"),
        (b"? [a]\n: b\n", "yaml.bad-key", "1:3"),
        (b"#" * (MAX_BYTES + 1), "yaml.too-large", "1:1"),
    ],
    ids=[
        "empty",
        "comment only",
        "latin-1",
        "a list",
        "deep",
        "very deep",
        "mapping as key",
        "half a character",
        "list as key",
        "huge",
    ],
)
def test_refused_whatever_the_model(data: bytes, rule: str, place: str, tmp_path: Path) -> None:
    path = write(tmp_path, data)
    error = refusal(path)
    assert error.rule == rule
    assert error.message.startswith(f"{path}:{place}: ")


def test_a_policy_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "gone.yaml").rule == "yaml.no-file"
    assert refusal(tmp_path).rule == "yaml.no-file"


def test_the_suites_item_file_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path, POLICY)
    (tmp_path / "items.jsonl").unlink()
    error = refusal(path)
    assert error.rule == "policy.missing-file"
    assert error.message.startswith(f"{tmp_path / 'refusal.yaml'}:2:15: ")


def test_a_suite_that_is_not_plain_data_is_refused_in_the_suite(tmp_path: Path) -> None:
    path = write(tmp_path, POLICY)
    (tmp_path / "refusal.yaml").write_text("name: refusal\nname: again\n")
    error = refusal(path)
    assert error.rule == "yaml.duplicate-key"
    assert error.message.startswith(f"{tmp_path / 'refusal.yaml'}:2:1: ")


WAIVER: dict[str, Any] = {
    "candidate": "sha256:" + "0" * 64,
    "gate": "refusal-holds",
    "reason": "the suite is being rotated",
    "ticket": "T-1",
    "approvers": ["ann"],
    "expires": "2026-12-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"gate": "no-such-gate"}, "policy.unknown-gate"),
        ({"expires": "2026-12-01T00:00:00"}, "yaml.invalid"),
        ({"expires": None}, "yaml.invalid"),
        ({"candidate": "sha256:*"}, "yaml.invalid"),
        ({"reason": ""}, "yaml.invalid"),
        ({"approvers": []}, "yaml.invalid"),
        ({"gates": ["refusal-holds"]}, "yaml.unknown-key"),
    ],
)
def test_waivers_that_are_too_wide_are_refused(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    good = write_policy(tmp_path / "good", policy_body(EVAL_GATE, waivers=[WAIVER]))
    assert resolve_policy(good).policy.waivers
    bad = write_policy(tmp_path / "bad", policy_body(EVAL_GATE, waivers=[{**WAIVER, **change}]))
    error = refusal(bad)
    assert error.rule == rule
    line = int(error.message.removeprefix(f"{bad}:").split(":")[0])
    assert line >= next(i for i, text in enumerate(bad.read_text().splitlines(), 1) if '"waivers"' in text)


def test_a_collapse_gate_without_a_limit_is_refused(tmp_path: Path) -> None:
    gate = {"id": "collapse", "kind": "collapse", "suite": "tasks", "against": "root", "min_items": 10}
    error = refusal(write_policy(tmp_path, policy_body(gate)))
    assert error.rule == "policy.no-limits"


def test_a_level_gate_has_no_scale(tmp_path: Path) -> None:
    gate = {**EVAL_GATE, "claim": "at_least", "level": 0.7, "scale": 2.0}
    del gate["margin"], gate["against"]
    assert refusal(write_policy(tmp_path, policy_body(gate))).rule == "policy.claim-shape"
    error = refusal(write_policy(tmp_path, policy_body({**json.loads(json.dumps(gate)), "scale": None, "level": 1.0})))
    assert error.rule == "policy.level-range"
