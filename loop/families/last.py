"""Naming the last item of a list of short words; the level is the list's length."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import combinations

from loop.families.item import Operands, Posed, TaskItem
from loop.families.reading import ANSWER_PREFIX, is_answer_line, states_words
from loop.families.seeded_stream import SeededStream
from loop.families.words import WORDS

_ONE_WORD = re.compile(r"[A-Za-z]+")


class Last:
    """``dog, sun, cat`` to ``cat``. Lenient scoring wants that item named alone: a list is no choice."""

    name = "last"
    levels = range(2, 11)
    forms = (
        'What is the last item of this list: {items}? Reply with "Answer:" and the word.',
        'Name the final word: {items}. Reply with "Answer:" and the word.',
        'Which of these comes last: {items}? Reply with "Answer:" and the word.',
    )

    def n_problems(self, level: int) -> int:
        return math.comb(len(WORDS), level)

    def problems(self, level: int) -> Iterator[Operands]:
        return combinations(sorted(WORDS), level)

    def random_problem(self, level: int, stream: SeededStream) -> Operands:
        return tuple(sorted(stream.sample(WORDS, level)))

    def pose(self, operands: Operands, form: int, stream: SeededStream) -> Posed:
        shown = tuple(stream.shuffled(operands))
        answer = shown[-1]
        return Posed(self.forms[form].format(items=", ".join(shown)), shown, answer, ANSWER_PREFIX + answer)

    def finds_result(self, item: TaskItem, output: str) -> bool:
        return states_words(output, item.given, (item.answer,))

    def has_form(self, item: TaskItem, output: str) -> bool:
        return is_answer_line(output, _ONE_WORD)
