"""Reversing the order of short words; the level is how many."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import combinations

from loop.families.item import Operands, Posed, TaskItem
from loop.families.reading import ANSWER_PREFIX, is_answer_line, states_words
from loop.families.seeded_stream import SeededStream
from loop.families.words import WORDS

_WORD_LIST = re.compile(r"[A-Za-z]+(?: [A-Za-z]+)*")


class Reverse:
    """``dog sun cat`` to ``cat sun dog``. A problem is the set of words: all its orders share a half."""

    name = "reverse"
    levels = range(2, 11)
    forms = (
        'Reverse the order of these words: {items}. Reply with "Answer:" and the words.',
        'List these words from last to first: {items}. Reply with "Answer:" and the words.',
        'Words: {items}. Reverse this list. Reply with "Answer:" and the words.',
    )

    def n_problems(self, level: int) -> int:
        return math.comb(len(WORDS), level)

    def problems(self, level: int) -> Iterator[Operands]:
        return combinations(sorted(WORDS), level)

    def random_problem(self, level: int, stream: SeededStream) -> Operands:
        return tuple(sorted(stream.sample(WORDS, level)))

    def pose(self, operands: Operands, form: int, stream: SeededStream) -> Posed:
        shown = tuple(stream.shuffled(operands))
        answer = " ".join(reversed(shown))
        return Posed(self.forms[form].format(items=" ".join(shown)), shown, answer, ANSWER_PREFIX + answer)

    def finds_result(self, item: TaskItem, output: str) -> bool:
        return states_words(output, item.given, tuple(item.answer.split()))

    def has_form(self, item: TaskItem, output: str) -> bool:
        return is_answer_line(output, _WORD_LIST)
