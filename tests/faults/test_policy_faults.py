"""Policy files that must be refused: each with its exact rule and the exact place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guards.errors import ConfigError
from guards.policy import MAX_COMPOSITE_DEPTH, resolve_policy
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
holdouts:
  refusal: {reads: 2}
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
    "item digests that somebody declares": ("name: test", "name: test\nitems: {}", "policy.items-in-file", "3:1"),
    "another schema": ("policy/v1", "policy/v2", "yaml.invalid", "1:9"),
    "duplicate key": ("    margin: 0.1\n", "    margin: 0.1\n    margin: 0.9\n", "yaml.duplicate-key", "14:5"),
    "anchor": ("[reviewer, safety]", "&r [reviewer, safety]", "yaml.alias", "22:10"),
    "alias": ("[reviewer, safety]", "*r", "yaml.alias", "22:10"),
    "tag": ("margin: 0.1", "margin: !!float 0.1", "yaml.tag", "13:13"),
    "python tag": ("name: test", "name: !!python/object/apply:os.system [ls]", "yaml.tag", "2:7"),
    "merge key": ("  required: 2", "  <<: {required: 2}", "yaml.merge-key", "21:3"),
    "directive": ("schema:", "%YAML 1.1\n---\nschema:", "yaml.directive", "2:1"),
    "second document": ("approvals:", "---\napprovals:", "yaml.many-documents", "20:1"),
    "not YAML": ("[reviewer, safety]", "[reviewer, safety", "yaml.syntax", "23:9"),
    "tab in braces": ("{planned: 2}", "{planned: \t2}", "yaml.syntax", "4:18"),
    "tab before a colon in braces": ("{planned: 2}", "{planned\t: 2}", "yaml.syntax", "4:16"),
    "tab before a comment": ("name: test", "name: test\t# x", "yaml.syntax", "2:11"),
    "tab on a line of its own in brackets": ("[reviewer, safety]", "[reviewer,\n\t safety]", "yaml.syntax", "23:1"),
    "question in braces": ("{planned: 2}", "{planned: 2?}", "yaml.syntax", "4:18"),
    "colon at the end of a word in brackets": ("[reviewer, safety]", "[reviewer:, safety]", "yaml.syntax", "22:11"),
    "colon at the beginning of one": ("[reviewer, safety]", "[reviewer, ::safety]", "yaml.syntax", "22:21"),
    "nothing for a key": ("name: test", "name: test\n: x", "yaml.bad-key", "3:1"),
    "nothing for a key in braces": ("{planned: 2}", "{planned: 2, : 2}", "yaml.bad-key", "4:22"),
    "control character": ("name: test", "name: te\x1bst", "yaml.syntax", "2:9"),
    "line of a comment for some": ("name: test", "name: test # x\u2028y: 1", "yaml.line-break", "2:15"),
    "line of its own for some": ("  refusal: refusal.yaml", "  refusal: refusal.yaml\x85", "yaml.line-break", "6:24"),
    "NaN margin": ("margin: 0.1", "margin: .nan", "yaml.not-finite", "13:13"),
    "infinite alpha": ("alpha: 0.05", "alpha: .inf", "yaml.not-finite", "15:12"),
    "overflowing number": ("alpha: 0.05", "alpha: 1e400", "yaml.not-finite", "15:12"),
    "octal or decimal": ("min_items: 50", "min_items: 050", "yaml.ambiguous-number", "16:16"),
    "number with underscores": ("min_items: 50", "min_items: 5_0", "yaml.ambiguous-number", "16:16"),
    "integer that JSON cannot hold": ("min_items: 50", "min_items: 9007199254740992", "yaml.ambiguous-number", "16:16"),
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
    "contamination of an undeclared suite": (
        "kind: integrity",
        "kind: contamination\n    suites: [refusals]",
        "policy.unknown-suite",
        "20:13",
    ),
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
    "unknown excluded part": ("required: 2", "exclude: [author]\n  required: 2", "yaml.invalid", "21:13"),
    "one block": ("planned: 2", "planned: 2, stop_early: {blocks: 1}", "yaml.invalid", "4:42"),
    "blocks without end": ("planned: 2", "planned: 2, stop_early: {blocks: 65}", "yaml.invalid", "4:42"),
    "a typo in stop_early": ("planned: 2", "planned: 2, stop_early: {block: 4}", "yaml.unknown-key", "4:34"),
    "unknown schedule": ("planned: 2", "planned: 2, spending: evenly", "yaml.invalid", "4:31"),
    "items that are the same, undeclared": ("  refusal: {reads: 2}", "  {}", "policy.holdout-undeclared", "6:12"),
    "holdout of an undeclared suite": (
        "  refusal: {reads: 2}",
        "  refusal: {reads: 2}\n  refusals: {reads: 2}",
        "policy.unknown-suite",
        "25:3",
    ),
    "holdout that nobody may read": ("reads: 2", "reads: 0", "yaml.invalid", "24:20"),
    "holdout without a number": ("{reads: 2}", "{}", "yaml.missing-key", "24:12"),
    "holdout with a number for a suite": ("{reads: 2}", "2", "yaml.invalid", "24:12"),
    "a judge that is not there": (
        "suite: refusal",
        "judge: phrases\n    suite: refusal",
        "policy.unknown-judge",
        "10:12",
    ),
    "unknown grouping": ("min_items: 50", "group_by: source\n    min_items: 50", "yaml.invalid", "16:15"),
    "grouping by no tag": ("min_items: 50", 'group_by: "tag:"\n    min_items: 50', "yaml.invalid", "16:15"),
    "judged sources": (
        "min_items: 50",
        "judge: x\n    group_by: cluster\n    min_items: 50",
        "policy.judge-metric",
        "8:5",
    ),
    "judged without bounds": (
        "min_items: 50",
        "judge: x\n    scale: 2.0\n    min_items: 50",
        "policy.judge-metric",
        "8:5",
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


MEMBER = """\
      - {id: %s, kind: eval, suite: refusal, metric: refused, claim: non_inferior_within, margin: 0.1,
         against: %s, alpha: 0.05, min_items: 50, max_unscored: 0.02}
"""
COMPOSITE = (
    """\
  - id: both
    kind: all_of
    gates:
"""
    + MEMBER % ("one", "champion")
    + MEMBER % ("two", "root")
)
JUDGES = """\
judges:
  phrases:
    calibration:
      llama: {positives: 50, detected: 49, negatives: 60, cleared: 55}
    family: llama
    min_sensitivity: 0.8
    min_specificity: 0.7
"""


JUDGED = "max_unscored: 0.02, judge: phrases}"
SECOND = (MEMBER % ("two", "root")).replace("max_unscored: 0.02}", JUDGED)


def extended() -> str:
    """The policy with a composite gate and a judge that it uses; the composite begins on line 18."""
    text = POLICY.replace("  - id: integrity\n", COMPOSITE + "  - id: integrity\n") + JUDGES
    return text.replace("max_unscored: 0.02}", JUDGED)


def nested(depth: int) -> str:
    """A policy whose gate ``g1`` holds ``depth`` composites inside each other."""
    leaf: dict[str, Any] = {"id": "leaf", "kind": "integrity"}
    for level in range(depth, 0, -1):
        leaf = {"id": f"g{level}", "kind": "any_of", "gates": [{"id": f"l{level}", "kind": "integrity"}, leaf]}
    return POLICY.replace("  - id: integrity\n    kind: integrity\n", f"  - {json.dumps(leaf)}\n")


def test_composites_and_judges_are_accepted(tmp_path: Path) -> None:
    resolved = resolve_policy(write(tmp_path, extended()))
    assert [gate.id for gate in resolved.policy.gates] == ["refusal-holds", "both", "integrity"]
    assert [gate.id for gate in resolved.policy.leaf_gates()] == ["refusal-holds", "one", "two", "integrity"]
    assert resolved.gate_lines == {"refusal-holds": 8, "both": 18, "one": 21, "two": 23, "integrity": 25}
    assert resolve_policy(write(tmp_path, nested(MAX_COMPOSITE_DEPTH))).policy.gate("g1") is not None
    parts = "    condition:\n      {id: c, kind: integrity}\n    then:\n      {id: t, kind: integrity}\n"
    only_if = POLICY.replace("    kind: integrity\n", f"    kind: only_if\n{parts}")
    lines = {"refusal-holds": 8, "integrity": 18, "c": 21, "t": 23}
    assert resolve_policy(write(tmp_path, only_if)).gate_lines == lines


EXTENDED_CASES: dict[str, tuple[str, str, str, str]] = {
    "unknown key of a member": ("margin: 0.1,", "margn: 0.1,", "yaml.unknown-key", "21:92"),
    "margin of a member": ("margin: 0.1,", "margin: 1.0,", "policy.margin-range", "21:9"),
    "member with the id of another gate": ("id: two", "id: refusal-holds", "policy.duplicate-gate", "23:14"),
    "member with the id of its composite": ("id: two", "id: both", "policy.duplicate-gate", "23:14"),
    "member of an undeclared suite": (
        "id: two, kind: eval, suite: refusal",
        "id: two, kind: eval, suite: x",
        "policy.unknown-suite",
        "23:38",
    ),
    "member against an anchor": ("against: root", "against: anchor", "policy.composite-anchor", "24:19"),
    "one member": (SECOND, "", "policy.few-members", "21:7"),
    "a test for a condition": (
        "    kind: all_of\n    gates:\n      - {id: one,",
        "    kind: only_if\n    then: {id: w, kind: integrity}\n    condition:\n      {id: one,",
        "policy.condition-kind",
        "22:7",
    ),
    "a composite for a condition": (
        "  - id: integrity\n    kind: integrity\n",
        "  - id: if\n    kind: only_if\n    then: {id: w, kind: integrity}\n    condition:\n"
        "      {id: c, kind: any_of, gates: [{id: x, kind: integrity}, {id: z, kind: integrity}]}\n",
        "policy.condition-kind",
        "29:7",
    ),
    "a consequence against an anchor": (
        "  - id: integrity\n    kind: integrity\n",
        "  - id: if\n    kind: only_if\n    condition: {id: c, kind: integrity}\n    then:\n"
        + (MEMBER % ("w", "anchor")).replace("- {", "  {"),
        "policy.composite-anchor",
        "30:19",
    ),
    "a condition without a consequence": (
        "  - id: integrity\n    kind: integrity\n",
        "  - id: if\n    kind: only_if\n    condition: {id: c, kind: integrity}\n",
        "yaml.missing-key",
        "25:5",
    ),
    "more detected than there are": ("detected: 49", "detected: 51", "policy.judge-counts", "35:14"),
    "more cleared than there are": ("cleared: 55", "cleared: 61", "policy.judge-counts", "35:14"),
    "calibrated on nothing": ("positives: 50", "positives: 0", "yaml.invalid", "35:26"),
    "another family": ("family: llama", "family: gemma", "policy.judge-family", "34:5"),
    "a judge that may guess": ("min_specificity: 0.7", "min_specificity: 0.2", "policy.judge-chance", "34:5"),
}


@pytest.mark.parametrize("case", EXTENDED_CASES)
def test_composites_and_judges_are_refused_at_their_place(case: str, tmp_path: Path) -> None:
    old, new, rule, place = EXTENDED_CASES[case]
    assert extended().count(old) >= 1, "the case no longer changes anything"
    text = extended().replace(old, new, 1)
    path = write(tmp_path, text.replace(SECOND, "") if case == "a test for a condition" else text)
    error = refusal(path)
    assert (error.rule, error.message.split(": ")[0]) == (rule, f"{path}:{place}")


def test_composites_inside_composites_end_somewhere(tmp_path: Path) -> None:
    path = write(tmp_path, nested(MAX_COMPOSITE_DEPTH + 1))
    error = refusal(path)
    assert error.rule == "policy.composite-depth"
    assert error.message.startswith(f"{path}:18:5: ")


def test_a_suite_that_is_drawn_anew_is_no_holdout(tmp_path: Path) -> None:
    path = write(tmp_path, POLICY)
    (tmp_path / "refusal.yaml").write_text("name: refusal\nitems: {generated: []}\n")
    error = refusal(path)
    assert error.rule == "policy.holdout-fresh"
    assert error.message.startswith(f"{path}:24:3: ")


def test_a_holdout_that_only_a_member_tests_on_is_declared_too(tmp_path: Path) -> None:
    start = POLICY.index("  - id: refusal-holds")
    text = POLICY[:start] + COMPOSITE + POLICY[POLICY.index("approvals:") : POLICY.index("holdouts:")]
    assert refusal(write(tmp_path, text)).rule == "policy.holdout-undeclared"


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


@pytest.mark.parametrize("waivers", ["[{gate: refusal-holds}]", "[{}]", "{gate: refusal-holds}", "refusal-holds"])
def test_a_waiver_in_a_policy_is_refused_whatever_it_says(waivers: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"{POLICY}waivers: {waivers}\n")
    error = refusal(path)
    assert error.rule == "policy.waiver-in-file"
    assert error.message.startswith(f"{path}:25:10: ")
    assert resolve_policy(write(tmp_path, f"{POLICY}waivers: []\n")).policy.waivers == ()


@pytest.mark.parametrize("waivers", ["null", "{}", "''", "0", "false"])
def test_what_is_no_list_of_waivers_is_not_an_empty_one(waivers: str, tmp_path: Path) -> None:
    error = refusal(write(tmp_path, f"{POLICY}waivers: {waivers}\n"))
    assert (error.rule, error.message.split(": ")[0]) == ("yaml.invalid", f"{tmp_path / 'policy.yaml'}:25:10")


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
