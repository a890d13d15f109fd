"""Training text that a gate also asks: equal rows, and long shared runs of words.

Texts are compared as words: Unicode NFKC, case folded, punctuation dropped. A sign before a number
stays, because ``12 + 30`` and ``12 - 30`` are different questions.

Not covered: paraphrases, translations, near-duplicates with other numbers, and text encoded in
some other way. Nor rows that a trainer did not declare; a repeated training run shows those.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from guards.canonical import sha256_bytes
from guards.evidence import Frozen

TEMPLATE_WORDS = 4
"""A run of this many words that a template has is template text wherever it stands."""

_MIN_LINE_WORDS = 4
_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63\uff0d"), "-")
_WORD = re.compile(r"[^\W_]+|[-+*/%=<>^\u00d7\u00f7](?=\s*\d)")

Words = tuple[str, ...]


class TrainingRow(Frozen):
    """One row that the candidate was trained on."""

    row_id: str
    prompt: str
    answer: str


class GateText(Frozen):
    """What one gate item shows the model; several lines where it has several parts."""

    suite: str
    item_id: str
    text: str


class Hit(Frozen):
    """A training row that has seen a gate item. It names both, and quotes neither."""

    kind: Literal["equal", "ngram"]
    suite: str
    item_id: str
    row_id: str


def words(text: str) -> Words:
    """The words of a text; two texts with equal words count as the same."""
    if text.isascii():  # what follows would change nothing but case, and takes many times as long
        return tuple(_WORD.findall(text.lower()))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).translate(_DASHES)
    visible = "".join(char for char in folded if unicodedata.category(char) != "Cf")
    return tuple(_WORD.findall(visible))


def row_digest(text: str) -> str:
    """Digest of a text's words: equal for texts that differ in case, spacing and punctuation only."""
    return sha256_bytes(" ".join(words(text)).encode("utf-8"))


def template_shingles(template_texts: Iterable[str]) -> frozenset[Words]:
    """Every run of :data:`TEMPLATE_WORDS` words in the templates that generated items are made from."""
    return frozenset(shingle for text in template_texts for shingle in _runs_of(words(text), TEMPLATE_WORDS))


def ngrams(text_words: Words, n: int, shingles: frozenset[Words]) -> Iterator[Words]:
    """Runs of ``n`` words of which none is template text."""
    is_template = [False] * len(text_words)
    for start, shingle in enumerate(_runs_of(text_words, TEMPLATE_WORDS)):
        if shingle in shingles:
            is_template[start : start + TEMPLATE_WORDS] = [True] * TEMPLATE_WORDS
    for start, run in enumerate(_runs_of(text_words, n)):
        if not any(is_template[start : start + n]):
            yield run


def find_contamination(
    training_rows: Iterable[TrainingRow],
    gate_texts: Sequence[GateText],
    template_texts: Iterable[str] = (),
    *,
    n: int = 13,
) -> list[Hit]:
    """Training rows that equal a gate item, or share ``n`` words in a row with one.

    A gate item is its whole text, and each of its lines of at least four words; a training row is
    its prompt, its answer, and both together. At most one hit is reported for a pair.
    """
    shingles = template_shingles(template_texts)
    item_by_words: dict[Words, GateText] = {}
    item_by_ngram: dict[Words, GateText] = {}
    for gate_text in gate_texts:
        for part in _parts_of(gate_text.text):
            item_by_words.setdefault(part, gate_text)
        for run in ngrams(words(gate_text.text), n, shingles):
            item_by_ngram.setdefault(run, gate_text)
    hits: list[Hit] = []
    for row in training_rows:
        prompt, answer = words(row.prompt), words(row.answer)
        kind_by_item: dict[tuple[str, str], Literal["equal", "ngram"]] = {}
        for text_words in (prompt, answer, prompt + answer):
            if text_words in item_by_words:
                item = item_by_words[text_words]
                kind_by_item[item.suite, item.item_id] = "equal"
        for run in ngrams(prompt + answer, n, shingles):
            if run in item_by_ngram:
                item = item_by_ngram[run]
                kind_by_item.setdefault((item.suite, item.item_id), "ngram")
        hits += [
            Hit(kind=kind, suite=suite, item_id=item_id, row_id=row.row_id)
            for (suite, item_id), kind in kind_by_item.items()
        ]
    return hits


def _parts_of(text: str) -> list[Words]:
    whole = words(text)
    lines = [line_words for line in text.splitlines() if len(line_words := words(line)) >= _MIN_LINE_WORDS]
    return [part for part in (whole, *lines) if part]


def _runs_of(text_words: Words, n: int) -> Iterator[Words]:
    return (text_words[start : start + n] for start in range(len(text_words) - n + 1))
