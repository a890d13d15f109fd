"""Sorting different numbers from 1 to 99 in ascending order; the level is how many."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from itertools import combinations

from loop.families.item import Operands, Posed, TaskItem
from loop.families.reading import ANSWER_PREFIX, is_answer_line, states_numbers
from loop.families.seeded_stream import SeededStream

_NUMBERS = range(1, 100)
_INTEGERS = re.compile(r"-?[0-9]+(?: -?[0-9]+)*")


class Sort:
    """``34 7 59`` to ``7 34 59``. A problem is the set of numbers, whatever order shows it."""

    name = "sort"
    levels = range(2, 11)
    forms = (
        'Sort these numbers from smallest to largest: {items}. Reply with "Answer:" and the sorted numbers.',
        'Put in ascending order: {items}. Reply with "Answer:" and the sorted numbers.',
        'Order these numbers from low to high: {items}. Reply with "Answer:" and the sorted numbers.',
    )

    def n_problems(self, level: int) -> int:
        return math.comb(len(_NUMBERS), level)

    def problems(self, level: int) -> Iterator[Operands]:
        return (tuple(map(str, numbers)) for numbers in combinations(_NUMBERS, level))

    def random_problem(self, level: int, stream: SeededStream) -> Operands:
        return tuple(map(str, sorted(stream.sample(_NUMBERS, level))))

    def pose(self, operands: Operands, form: int, stream: SeededStream) -> Posed:
        shown = tuple(stream.shuffled(operands))
        # A list that is sorted already asks for nothing. Two numbers may stay in order:
        # otherwise level 2 would teach to swap, not to compare.
        while len(operands) > 2 and shown == operands:
            shown = tuple(stream.shuffled(operands))
        answer = " ".join(operands)
        return Posed(self.forms[form].format(items=" ".join(shown)), shown, answer, ANSWER_PREFIX + answer)

    def finds_result(self, item: TaskItem, output: str) -> bool:
        return states_numbers(output, item.given, tuple(item.answer.split()))

    def has_form(self, item: TaskItem, output: str) -> bool:
        return is_answer_line(output, _INTEGERS)
