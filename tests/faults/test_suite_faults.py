"""Named bad suites, and the exact refusal of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guards.errors import ConfigError, StairlockError, SuiteError
from loop.suites import load_suite

GENERATED = """\
schema: stairlock/suite/v1
name: small
description: for a test
items:
  generator_version: 1
  generated:
    - family: addition
      levels: {1: 5}
scorer: {kind: task}
decoding: {max_new_tokens: 8, temperature: 0}
"""
FROM_FILE = """\
schema: stairlock/suite/v1
name: small
description: for a test
items:
  file: items.jsonl
  draw: all
scorer: {kind: refusal}
decoding: {max_new_tokens: 8, temperature: 0}
"""
ROW = {"id": "a", "cluster": "c", "prompt": "How?"}


def refusal_of(directory: Path, yaml: str, rows: str | None = None) -> StairlockError:
    path = directory / "suite.yaml"
    path.write_text(yaml, encoding="utf-8")
    if rows is not None:
        (directory / "items.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(StairlockError) as refusal:
        load_suite(path)
    return refusal.value


def lines(*rows: dict[str, object]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_the_unbroken_suites_load(tmp_path):
    (tmp_path / "suite.yaml").write_text(GENERATED, encoding="utf-8")
    assert load_suite(tmp_path / "suite.yaml").name == "small"
    (tmp_path / "suite.yaml").write_text(FROM_FILE, encoding="utf-8")
    (tmp_path / "items.jsonl").write_text(lines(ROW), encoding="utf-8")
    assert len(load_suite(tmp_path / "suite.yaml").file_items) == 1


@pytest.mark.parametrize(
    ("old", "new", "rule", "position"),
    [
        ("    - family: addition\n      levels: {1: 5}\n", "", "suite.no-items", "5:"),
        ("generated:\n    - family: addition\n      levels: {1: 5}", "generated: []", "suite.no-items", "5:"),
        ("family: addition", "family: additoin", "suite.unknown-family", "7:15"),
        ("{1: 5}", "{9: 5}", "suite.unknown-level", "7:"),
        ("{1: 5}", "{two: 5}", "suite.unknown-level", "7:"),
        ("{1: 5}", "{1: 0}", "yaml.invalid", "8:"),
        ("{1: 5}", "{}", "yaml.invalid", "8:"),
        ("{1: 5}", "{1: 5}\n    - {family: addition, levels: {1: 5}}", "suite.duplicate-level", "5:"),
        ("generator_version: 1", "generator_version: 2", "suite.generator-version", "5:"),
        ("  generator_version: 1\n", "", "suite.generator-version", "5:"),
        ("generator_version: 1", "generator_version: 1\n  draw: 5", "suite.draw", "5:"),
        ("generator_version: 1", "generator_version: 1\n  file: items.jsonl", "suite.two-sources", "5:"),
        ("kind: task", "kind: refusal", "suite.scorer", "1:"),
        ("kind: task", "kind: tasks", "yaml.invalid", "9:"),
        ("{max_new_tokens: 8, temperature: 0}", "null", "suite.decoding", "1:"),
        ("temperature: 0", "temperature: 0, n_samples: 4", "suite.decoding", "1:"),
        ("decoding: {max_new_tokens: 8, temperature: 0}\n", "", "yaml.missing-key", "1:"),
        ("description: for a test", "description: for a test\nthreshold: 0.5", "yaml.unknown-key", "4:1"),
        ("temperature", "temprature", "yaml.unknown-key", "10:"),
        ("stairlock/suite/v1", "stairlock/suite/v2", "yaml.invalid", "1:"),
        ("name: small", "name: ../small", "yaml.invalid", "2:"),
        ("name: small", "name: small\nname: other", "yaml.duplicate-key", "3:"),
    ],
)
def test_a_suite_file_that_does_not_hold_together_is_refused_where_it_is_wrong(tmp_path, old, new, rule, position):
    assert GENERATED.count(old) == 1
    error = refusal_of(tmp_path, GENERATED.replace(old, new))
    assert isinstance(error, ConfigError)
    assert error.rule == rule
    assert error.message.startswith(f"{tmp_path / 'suite.yaml'}:{position}")


def test_an_unknown_key_names_the_nearest_known_one(tmp_path):
    error = refusal_of(tmp_path, GENERATED.replace("temperature", "temprature"))
    assert "unknown key 'temprature'; did you mean 'temperature'?" in error.message


def test_an_unknown_family_names_the_nearest_known_one(tmp_path):
    error = refusal_of(tmp_path, GENERATED.replace("family: addition", "family: additoin"))
    assert "did you mean 'addition'?" in error.message and "subtraction" in error.message


def test_more_items_than_a_half_holds_are_refused_at_loading(tmp_path):
    error = refusal_of(tmp_path, GENERATED.replace("{1: 5}", "{1: 40}"))
    assert isinstance(error, SuiteError) and error.rule == "family.exhausted" and error.expected == "40"


def test_a_missing_item_file_is_refused(tmp_path):
    error = refusal_of(tmp_path, FROM_FILE)
    assert isinstance(error, SuiteError) and error.rule == "suite.missing-file"
    assert error.got == str(tmp_path / "items.jsonl")


@pytest.mark.parametrize("file", ["/etc/hostname", "../items.jsonl", "a/../../items.jsonl", "..\\\\items.jsonl"])
def test_an_item_file_outside_the_suites_directory_is_refused(tmp_path, file):
    error = refusal_of(tmp_path, FROM_FILE.replace("items.jsonl", f'"{file}"'), lines(ROW))
    assert isinstance(error, ConfigError) and error.rule == "suite.bad-path"


def test_an_item_file_that_links_outside_is_refused(tmp_path):
    outside, inside = tmp_path / "outside.jsonl", tmp_path / "suites"
    outside.write_text(lines(ROW), encoding="utf-8")
    inside.mkdir()
    (inside / "items.jsonl").symlink_to(outside)
    assert refusal_of(inside, FROM_FILE).rule == "suite.missing-file"


def test_an_empty_item_file_is_refused(tmp_path):
    error = refusal_of(tmp_path, FROM_FILE, "")
    assert isinstance(error, SuiteError) and error.rule == "suite.no-items"


def test_duplicate_ids_are_refused(tmp_path):
    error = refusal_of(tmp_path, FROM_FILE, lines(ROW, {**ROW, "prompt": "Why?"}))
    assert error.rule == "suite.duplicate-id" and error.got == "a"
    assert error.message.startswith(f"{tmp_path / 'items.jsonl'}:2: ") and "line 1" in error.message


def test_a_repeated_prompt_is_refused(tmp_path):
    assert refusal_of(tmp_path, FROM_FILE, lines(ROW, {**ROW, "id": "b"})).rule == "suite.duplicate-item"


def test_a_draw_of_more_items_than_there_are_is_refused(tmp_path):
    error = refusal_of(tmp_path, FROM_FILE.replace("draw: all", "draw: 2"), lines(ROW))
    assert error.rule == "suite.too-few-items" and (error.got, error.expected) == ("1", "2")


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "a", "cluster": "c"}',
        '{"id": "a", "cluster": "c", "prompt": " "}',
        '{"id": "", "cluster": "c", "prompt": "How?"}',
        '{"id": "a", "cluster": "c", "prompt": 5}',
        '{"id": "a", "cluster": "c", "prompt": "How?", "label": "harmful"}',
        '{"id": "a", "id": "b", "cluster": "c", "prompt": "How?"}',
        '["a", "c", "How?"]',
        "{",
        "",
    ],
)
def test_a_line_that_is_no_item_is_refused_with_its_number(tmp_path, line):
    error = refusal_of(tmp_path, FROM_FILE, lines({**ROW, "id": "first"}) + line + "\n")
    assert isinstance(error, SuiteError) and error.rule == "suite.bad-item"
    assert f"{tmp_path / 'items.jsonl'}:2" in error.message


@pytest.mark.parametrize(("kind", "row"), [("choice", ROW), ("loglik", ROW)])
def test_items_of_another_kind_of_suite_are_refused(tmp_path, kind, row):
    yaml = FROM_FILE.replace("kind: refusal", f"kind: {kind}").replace("{max_new_tokens: 8, temperature: 0}", "null")
    assert refusal_of(tmp_path, yaml, lines(row)).rule == "suite.bad-item"
