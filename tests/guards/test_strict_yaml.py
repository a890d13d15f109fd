"""Strict YAML: values, positions, and what hypothesis can think of. Refusals: tests/faults/test_policy_faults.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AwareDatetime, Field

from guards.errors import ConfigError
from guards.evidence import Frozen
from guards.strict_yaml import MAX_INTEGER, line_of, load_yaml, load_yaml_text, parse_yaml


class Cat(Frozen):
    kind: Literal["cat"]
    lives: int = 9
    weight_kg: float | None = None


class Dog(Frozen):
    kind: Literal["dog"]
    names: tuple[str, ...] = ()


class Owner(Frozen):
    email: str
    since: AwareDatetime | None = None


class Home(Frozen):
    street: str
    pets: tuple[Annotated[Cat | Dog, Field(discriminator="kind")], ...]
    owners: dict[str, Owner] = Field(default_factory=dict)


GOOD = """\
# a comment
street: "Long Street"
pets:
  - kind: cat
    weight_kg: 4
  - {kind: dog, names: [Rex, "no", 2nd]}
owners:
  ann: {email: a@b.c, since: 2026-11-24T05:00:00+01:00}
"""


def test_a_good_file_is_read_in_full() -> None:
    home = load_yaml_text(GOOD, "home.yaml", Home)
    assert home.pets == (Cat(kind="cat", weight_kg=4.0), Dog(kind="dog", names=("Rex", "no", "2nd")))
    since = home.owners["ann"].since
    assert since is not None and since.isoformat() == "2026-11-24T05:00:00+01:00"


def test_positions_count_from_one_and_find_values_and_keys(tmp_path: Path) -> None:
    _, positions = parse_yaml(GOOD, source="home.yaml")
    assert (positions.at("pets", 0).line, positions.at("pets", 0).column) == (4, 5)
    assert (positions.of_key("pets", 1, "names").line, positions.of_key("pets", 1, "names").column) == (6, 17)
    assert positions.at("pets", 1, "names", 2).column == 36
    assert positions.at("pets", 1, "no such key") == positions.at("pets", 1)
    path = tmp_path / "home.yaml"
    path.write_text(GOOD)
    assert line_of(path, "owners", "ann", "email") == 8
    assert load_yaml(path, Home) == load_yaml_text(GOOD, "", Home)


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("1", 1),
        ("-0", 0),
        ("-12.50", -12.5),
        ("1e-3", 0.001),
        ("9007199254740991", MAX_INTEGER),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ('"1"', "1"),
        ("'yes'", "yes"),
        ("2026-11-24", "2026-11-24"),
        ("1.2.3", "1.2.3"),
        ("12 apples", "12 apples"),
        ("sha256:00", "sha256:00"),
        ("nano", "nano"),
        ("information", "information"),
    ],
)
def test_scalars(scalar: str, value: object) -> None:
    parsed, _ = parse_yaml(f"a: {scalar}", source="f")
    assert isinstance(parsed, dict) and parsed == {"a": value}
    assert type(parsed["a"]) is type(value)


def test_block_text_and_comments_survive() -> None:
    assert parse_yaml("a: |\n  x: 1\n  # not a comment\nb: >\n  one\n  two\n", source="f")[0] == {
        "a": "x: 1\n# not a comment\n",
        "b": "one two\n",
    }


def test_keys_are_their_text() -> None:
    assert parse_yaml("{1: a, true: b, 'x y': c}", source="f")[0] == {"1": "a", "true": "b", "x y": "c"}


def test_several_findings_are_listed_unknown_keys_first() -> None:
    text = "pets:\n  - {kind: cat, lifes: 8}\n  - {kind: dog, names: [1]}\n"
    with pytest.raises(ConfigError) as caught:
        load_yaml_text(text, "home.yaml", Home)
    assert caught.value.message.splitlines() == [
        "home.yaml:2:17: unknown key 'lifes'; did you mean 'lives'?",
        "  home.yaml:1:1: street: the key is missing",
        "  home.yaml:3:25: pets.1.names.0: Input should be a valid string (got 1)",
    ]


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ("street: x\npets: []\nowners:\n  ann: {emial: x}\n", "f:4:9: unknown key 'emial'", "'email'"),
        ("stret: x\npets: []\n", "f:1:1: unknown key 'stret'", "'street'"),
        ("street: x\npets: [{kind: dog, lives: 9}]\n", "f:2:20: unknown key 'lives'", ""),
    ],
)
def test_a_typo_is_answered_with_the_nearest_key_that_is_allowed_there(text: str, where: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_yaml_text(text, "f", Home)
    first = caught.value.message.splitlines()[0]
    assert first == where + (f"; did you mean {hint}?" if hint else "")
    assert caught.value.rule == "yaml.unknown-key"


# What YAML itself does not allow in a file, escaped or not, is no value of ours.
readable_text = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff\u2028\u2029\ufffe\uffff")
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INTEGER, MAX_INTEGER)
    | st.floats(allow_nan=False, allow_infinity=False)
    | readable_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc <&*!#-?", max_size=4), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(json_values)
def test_json_is_read_as_itself(value: object) -> None:
    text = json.dumps(value)
    assert parse_yaml(text, source="f")[0] == value


@settings(deadline=None)
@given(st.text(max_size=200) | st.text(" \n:-[]{}&*!|>'\"#%?,.0x1_neo", max_size=60))
def test_any_text_is_read_or_refused_with_a_position(text: str) -> None:
    try:
        parse_yaml(text, source="f.yaml")
    except ConfigError as error:
        source, line, column, _ = error.message.split(":", 3)
        assert source == "f.yaml" and int(line) >= 1 and int(column) >= 1
        assert int(line) <= text.count("\n") + text.count("\r") + text.count("\x85") + 2 + text.count("\u2028") * 2
