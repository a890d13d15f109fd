"""The reading for linters: it reports everything, and refuses exactly what the strict reading refuses."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, model_validator

from guards.errors import ConfigError
from guards.evidence import Frozen
from guards.strict_yaml import load_yaml_text, parse_yaml, read_leniently


class Cat(Frozen):
    kind: Literal["cat"]
    lives: int = 9


class Dog(Frozen):
    kind: Literal["dog"]
    names: tuple[str, ...] = ()


class Home(Frozen):
    street: str
    pets: tuple[Annotated[Cat | Dog, Field(discriminator="kind")], ...] = ()
    area_m2: float | None = None
    rent: float | None = None

    @model_validator(mode="after")
    def _rent_needs_an_area(self) -> Home:
        if self.rent is not None and self.area_m2 is None:
            raise ValueError("a rent needs an area")
        return self


def found(text: str) -> list[str]:
    """``line:col rule`` of every finding, in order."""
    reading = read_leniently(text, "f", Home)
    return [f"{one.position.line}:{one.position.column} {one.rule}" for one in reading.findings]


def test_everything_is_reported_in_the_order_of_the_file() -> None:
    text = """\
street: Long Street
street: Short Street
pets:
  - {kind: cat, lifes: 8}
  - {kind: dog, names: [Rex, *other, yes]}
  - &b {kind: dog}
area: 1
area_m2: 0x1f
"""
    assert found(text) == [
        "2:1 yaml.duplicate-key",
        "4:17 yaml.unknown-key",
        "5:30 yaml.alias",
        "5:38 yaml.ambiguous-boolean",
        "6:5 yaml.alias",
        "7:1 yaml.unknown-key",
        "8:10 yaml.ambiguous-number",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("street: x\narea_m2: .nan\nrent: 5\n", ["2:10 yaml.not-finite"]),  # and not: a rent needs an area
        ("<<: {street: x}\n", ["1:1 yaml.merge-key"]),  # and not: the street is missing
        ("*a : b\n", ["1:1 yaml.alias"]),
        ("? [a, b]\n: c\n", ["1:3 yaml.bad-key"]),
        ("street: x\npets: [{kind: .inf}]\n", ["2:15 yaml.not-finite"]),
        ("street: !!str x\nrent: 5\n", ["1:1 yaml.invalid", "1:9 yaml.tag"]),
        ("street: x\n---\nstreet: y\n", ["2:1 yaml.many-documents"]),
        ("%YAML 1.1\n---\nstreet: x\n", ["2:1 yaml.directive"]),
        ("street: x\nrent: [\n", ["3:1 yaml.syntax"]),
        ("", ["1:1 yaml.empty"]),
        ("# nothing\n", ["1:1 yaml.empty"]),
        ('street: "\\ud800"\n', ["1:9 yaml.syntax"]),
        ("a: " * 3, ["1:5 yaml.syntax"]),
        ("street: x\narea_m2: " + "[" * 50, ["2:49 yaml.too-deep"]),
        ("x\n", ["1:1 yaml.invalid"]),
        ("street: x # \u2028\n# \x85\nrent: yes", ["1:13 yaml.line-break", "2:3 yaml.line-break"]),
        ('street: "\\u2028"\n', []),
        ("street: x\npets: [{kind:\tcat},\t{kind: dog}]\n", ["2:14 yaml.syntax", "2:20 yaml.syntax"]),
        ("street: x\npets: [{kind: dog, names: [why?, :x, y:]}]\n", [f"2:{at} yaml.syntax" for at in (28, 34, 38)]),
        ("street: x\n: z\n", ["2:1 yaml.bad-key"]),
        ("# a\tb\nstreet: 'a\tb' # c\td\npets: [ # a\tb\n{kind: dog, names: ['?', a?b: c]}]", ["4:26 yaml.syntax"]),
    ],
)
def test_what_follows_from_a_problem_is_no_other_one(text: str, expected: list[str]) -> None:
    assert found(text) == expected


def test_a_good_file_is_read_as_by_the_strict_reading() -> None:
    text = "street: x\npets: [{kind: cat}, {kind: dog, names: [Rex]}]\n"
    reading = read_leniently(text, "f", Home)
    assert reading.value == load_yaml_text(text, "f", Home) and reading.findings == () and reading.is_whole


def test_a_file_of_nothing_but_problems_is_given_up_in_time() -> None:
    began_s = time.process_time()
    reading = read_leniently("pets: [" + ".nan, " * 20_000 + "]\n", "f", Home)
    assert len(reading.findings) == 1000 and not reading.is_whole
    assert time.process_time() - began_s < 5


@pytest.mark.parametrize("text", ["9" * 20_000 + "x", "1" + "_" * 20_000 + "x", "0x" + "f" * 20_000 + "g"])
def test_a_long_word_that_is_almost_a_number_takes_no_time(text: str) -> None:
    began_s = time.process_time()
    assert parse_yaml(f"a: {text}", source="f")[0] == {"a": text}
    assert time.process_time() - began_s < 2


def test_long_keys_and_values_are_cut_in_messages() -> None:
    long = "k" * 100_000
    for text in (
        f"street: x\n? {long}\n: 1\n",
        f"street: x\npets: [{{kind: {long}}}]\n",
        f'street: x\n"{long}": .nan\n',
    ):
        for one in read_leniently(text, "f", Home).findings:
            assert len(one.message) < 1000


texts = st.text(max_size=200) | st.text(" \n:-[]{}&*!|>'\"#%?,.0x1_neo", max_size=60)
pieces = st.lists(
    st.sampled_from(
        "street: x|pets:|  - kind: cat|  - {kind: dog}|    lives: 3|rent: 5|area_m2: 2|a: *b|<<: {a: b}|? [a]|: 1|---|"
        "street: yes|pets: [.nan, 0x1]|lives: &a 1|  - !!x y|%YAML 1.1|...|- |x: [|]".split("|")
    ),
    max_size=8,
).map("\n".join)


@settings(deadline=None, max_examples=300)
@given(texts | pieces)
def test_both_readings_agree(text: str) -> None:
    reading = read_leniently(text, "f", Home)
    try:
        home = load_yaml_text(text, "f", Home)
    except ConfigError as error:
        places = {(one.rule, one.position.line, one.position.column) for one in reading.findings}
        assert reading.value is None and (error.rule, error.line, error.column) in places
    else:
        assert reading.findings == () and reading.value == home
