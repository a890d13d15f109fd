"""What counts as the same text, and what counts as a leak."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guards.contamination import GateText, TrainingRow, find_contamination, row_digest, words
from loop.families import FAMILIES, draw, question_templates

PASSAGE = (
    "The ferry left the harbour a little after seven, when the fog had lifted from the water, and the passengers "
    "who had waited on the quay since dawn went below to warm their hands on cups of tea."
)


def row(prompt: str = "Say something.", answer: str = "Something.", row_id: str = "r1") -> TrainingRow:
    return TrainingRow(row_id=row_id, prompt=prompt, answer=answer)


def gate(text: str, item_id: str = "g1") -> GateText:
    return GateText(suite="s", item_id=item_id, text=text)


def kinds(rows: list[TrainingRow], texts: list[GateText], templates: tuple[str, ...] = (), n: int = 13) -> list[str]:
    return [hit.kind for hit in find_contamination(rows, texts, templates, n=n)]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is  the\tcapital of FRANCE?", "what is the capital of france"),
        ("ﬁne café", "fine cafe\u0301"),
        ("１２ ＋ ３０", "12 + 30"),
        ("in\u200bvis\u00adible", "invisible"),
        ("Straße", "STRASSE"),
        ("**bold** _text_", "bold text"),
        ("12 \u2212 5", "12 - 5"),
        ("3 \u2013 2", "3-2"),
        ("don't", "don t"),
    ],
)
def test_texts_that_count_as_the_same(one: str, other: str) -> None:
    assert words(one) == words(other) != ()
    assert row_digest(one) == row_digest(other)


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=200))
@example("".join(map(chr, range(128))))
def test_ascii_is_read_as_any_other_text(text: str) -> None:
    assert words(text) == words(text + "\u200b"), "what nobody sees keeps it from being plain ASCII"


@pytest.mark.parametrize(
    ("one", "other"),
    [("12 + 30", "12 - 30"), ("12 * 3", "12 / 3"), ("-5", "5"), ("1 2", "12"), ("a b", "b a"), ("x < 3", "x > 3")],
)
def test_texts_that_do_not(one: str, other: str) -> None:
    assert words(one) != words(other)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_words_of_words_are_the_words(text: str) -> None:
    once = words(text)
    assert words(" ".join(once)) == once


def test_an_equal_prompt_is_found_whatever_its_spelling() -> None:
    question = gate("What is 12 + 30? Reply with the number.")
    assert kinds([row("what is 12+30 reply with the number!")], [question]) == ["equal"]
    assert kinds([row("What is 12 - 30? Reply with the number.")], [question]) == []
    assert kinds([row("Now: what is 12 + 30? Reply with the number.")], [question]) == []


def test_an_equal_answer_and_an_equal_whole_are_found() -> None:
    assert kinds([row("Write.", "The sky is blue today.")], [gate("The sky is blue today.")]) == ["equal"]
    assert kinds([row("The sky is", "blue today.")], [gate("The sky is blue today.")]) == ["equal"]


def test_each_line_of_a_gate_item_counts() -> None:
    item = gate("What colour is the sky at noon?\nBlue.\nGreen.")
    assert kinds([row("What colour is the sky at noon?", "Blue.")], [item]) == ["equal"]
    assert kinds([row("Name a colour.", "Blue.")], [item]) == []


@pytest.mark.parametrize("length", [12, 13, 14])
def test_thirteen_words_in_a_row_are_a_leak_and_twelve_are_not(length: int) -> None:
    taken = PASSAGE.split()[5 : 5 + length]
    leaking = row(answer="I once read that " + " ".join(taken).upper() + " so it ended.")
    assert kinds([leaking], [gate(PASSAGE)]) == (["ngram"] if length >= 13 else [])


def test_a_leak_across_the_seam_of_prompt_and_answer_is_found() -> None:
    taken = PASSAGE.split()[5:18]
    assert kinds([row(" ".join(taken[:6]), " ".join(taken[6:]))], [gate(PASSAGE)]) == ["ngram"]


def test_template_text_is_no_leak_but_what_stands_in_it_is() -> None:
    template = "Read the text below with great care and then reply with one word that sums up all of it, nothing else: "
    train, item = row(template + "apples"), gate(template + "pears")
    assert kinds([train], [item]) == ["ngram"]
    assert kinds([train], [item], (template,)) == []
    assert kinds([row(template + PASSAGE)], [gate(PASSAGE)], (template,)) == ["ngram"]


def test_short_template_words_do_not_hide_ordinary_text() -> None:
    assert kinds([row(answer=PASSAGE)], [gate("Note. " + PASSAGE)], ("The", "and the", "the fog had")) == ["ngram"]


def test_one_hit_for_each_pair_naming_both() -> None:
    texts = [gate(PASSAGE, "g1"), gate("Another text, of which nothing was taken.", "g2")]
    (hit,) = find_contamination([row("x", "y", "r1"), row(answer=PASSAGE, row_id="r2")], texts)
    assert (hit.kind, hit.suite, hit.item_id, hit.row_id) == ("equal", "s", "g1", "r2")


@settings(deadline=None)
@given(st.lists(st.sampled_from("alpha beta gamma delta 12 + - 7".split()), min_size=13, max_size=40), st.randoms())
def test_a_planted_gate_text_is_always_found(parts: list[str], rng: random.Random) -> None:
    if len(words(" ".join(parts))) < 13:
        return
    spelt = "  ".join(part.upper() if rng.random() < 0.5 else part + "," * part.isalpha() for part in parts)
    assert kinds([row(answer="before " + spelt + " after")], [gate(" ".join(parts))]) != []


def test_the_shipped_families_do_not_leak_from_half_to_half() -> None:
    rows, texts = [], []
    for name, family in FAMILIES.items():
        for level in list(family.levels)[:3]:
            n = 15 if name != "format" else 5
            rows += [
                row(item.prompt, item.answer, f"r{len(rows)}") for item in draw(name, level, n, b"one", half="train")
            ]
            texts += [gate(item.prompt, f"g{len(texts)}") for item in draw(name, level, n, b"two", half="gate")]
    assert len(texts) > 50
    assert find_contamination(rows, texts, question_templates()) == []
    assert len(find_contamination([row(texts[0].text)], texts, question_templates())) == 1
