"""Subtraction of two numbers with the same count of digits; the result is never negative."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loop.families.item import Operands, Posed, TaskItem
from loop.families.reading import ANSWER_PREFIX, is_answer_line, states_number
from loop.families.seeded_stream import SeededStream

_INTEGER = re.compile(r"-?[0-9]+")


class Subtraction:
    """``57 - 34``; the level is the count of digits.

    Problems with a = 2b are left out: their result equals the second operand, so that
    repeating the question would look like answering it.
    """

    name = "subtraction"
    levels = range(1, 9)
    forms = (
        'What is {a} - {b}? Reply with "Answer:" and the number.',
        'Subtract {b} from {a}. Reply with "Answer:" and the number.',
        'Compute {a} minus {b}. Reply with "Answer:" and the number.',
        'Take {b} away from {a}. Reply with "Answer:" and the number.',
    )

    def n_problems(self, level: int) -> int:
        numbers = _numbers(level)
        n_doubles = (numbers.stop - 1) // 2 - numbers.start + 1
        return len(numbers) * (len(numbers) + 1) // 2 - n_doubles

    def problems(self, level: int) -> Iterator[Operands]:
        numbers = _numbers(level)
        return ((str(a), str(b)) for a in numbers for b in range(numbers.start, a + 1) if a != 2 * b)

    def random_problem(self, level: int, stream: SeededStream) -> Operands:
        numbers = _numbers(level)
        while True:
            a, b = stream.between(numbers.start, numbers.stop - 1), stream.between(numbers.start, numbers.stop - 1)
            if a >= b and a != 2 * b:
                return str(a), str(b)

    def pose(self, operands: Operands, form: int, stream: SeededStream) -> Posed:
        a, b = operands
        answer = str(int(a) - int(b))
        return Posed(self.forms[form].format(a=a, b=b), (a, b), answer, ANSWER_PREFIX + answer)

    def finds_result(self, item: TaskItem, output: str) -> bool:
        return states_number(output, item.answer)

    def has_form(self, item: TaskItem, output: str) -> bool:
        return is_answer_line(output, _INTEGER)


def _numbers(level: int) -> range:
    return range(10 ** (level - 1), 10**level)
