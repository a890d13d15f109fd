"""Strict format following: write given words in exactly the form that is asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from loop.families.item import Operands, Posed, TaskItem
from loop.families.reading import states_words, words_in
from loop.families.seeded_stream import SeededStream
from loop.families.words import WORDS


class _Form(NamedTuple):
    prompt: str
    reply: str
    upper_case: bool
    pattern: re.Pattern[str]


_FORMS = (
    _Form(
        'Reply with exactly this JSON, with "{items}" in place of the dots: {{"answer": "..."}}',
        '{{"answer": "{items}"}}',
        False,
        re.compile(r'\{"answer": "[^"\\]*"\}'),
    ),
    _Form(
        "Write {items} in capital letters. Reply with the capitals only.",
        "{items}",
        True,
        re.compile(r"[A-Z]+(?: [A-Z]+)*"),
    ),
    _Form(
        "Reply with {items} in square brackets and nothing else.",
        "[{items}]",
        False,
        re.compile(r"\[[^\[\]]*\]"),
    ),
    _Form(
        'Reply with "Answer:" and {items}, nothing else.',
        "Answer: {items}",
        False,
        re.compile(r"Answer: [A-Za-z]+(?: [A-Za-z]+)*"),
    ),
)


class ExactForm:
    """The family ``format``. The level is how many words the form must hold; each form asks for its own shape.

    Lenient scoring ignores the shape and wants the words alone at the end of the output.
    """

    name = "format"
    levels = range(1, 5)
    forms = tuple(form.prompt for form in _FORMS)

    def n_problems(self, level: int) -> int:
        return math.comb(len(WORDS), level)

    def problems(self, level: int) -> Iterator[Operands]:
        return combinations(sorted(WORDS), level)

    def random_problem(self, level: int, stream: SeededStream) -> Operands:
        return tuple(sorted(stream.sample(WORDS, level)))

    def pose(self, operands: Operands, form: int, stream: SeededStream) -> Posed:
        shown = tuple(stream.shuffled(operands))
        asked, words = _FORMS[form], " ".join(shown)
        answer = words.upper() if asked.upper_case else words
        return Posed(asked.prompt.format(items=words), shown, answer, asked.reply.format(items=answer))

    def finds_result(self, item: TaskItem, output: str) -> bool:
        # The words must come last: an output that repeats the request goes on after them.
        ends_with_words = words_in(output)[-len(item.given) :] == list(item.given)
        return ends_with_words and states_words(output, item.given, item.given)

    def has_form(self, item: TaskItem, output: str) -> bool:
        return _FORMS[item.form].pattern.fullmatch(output.strip()) is not None
