"""Text of others, made harmless and still readable."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loop.terminal_text import printable, printable_lines, short

INVISIBLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


@given(st.text())
def test_nothing_invisible_is_left(text: str):
    assert not [character for character in printable(text) if unicodedata.category(character) in INVISIBLE]
    assert "\n" not in printable(text)


@given(st.text())
def test_lines_stay_lines_and_are_as_harmless(text: str):
    lines = printable_lines(text)
    assert len(lines) == text.count("\n") + 1
    assert lines == [printable(line) for line in text.split("\n")]


@given(st.text(alphabet=st.characters(categories=["L", "M", "N", "P", "S", "Zs"])))
def test_what_shows_itself_is_left_alone(text: str):
    assert printable(text) == text


@given(st.text())
def test_twice_is_once(text: str):
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31mred", "\\x9b31mred"),
        ("safe\rEVIL", "safe\\rEVIL"),
        ("a\x00b\x7f", "a\\x00b\\x7f"),
        ("abc\u202edef", "abc\\u202edef"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("half\ud800", "half\\ud800"),
        ("two\nlines", "two\\nlines"),
    ],
)
def test_what_hides_is_shown_as_an_escape(hostile: str, shown: str):
    assert printable(hostile) == shown


def test_a_long_text_ends_and_says_so():
    assert printable("x" * 30, max_chars=10) == "xxxxxxxxxx… (20 more characters)"
    assert printable("x" * 10, max_chars=10) == "x" * 10


def test_a_short_digest_is_the_beginning_of_it():
    assert short("sha256:" + "ab" * 32) == "abababababab"
