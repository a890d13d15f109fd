"""Addition of two numbers with the same count of digits; the level is that count."""

from __future__ import annotations

import re
from collections.abc import Iterator

from loop.families.item import Operands, Posed, TaskItem
from loop.families.reading import ANSWER_PREFIX, is_answer_line, states_number
from loop.families.seeded_stream import SeededStream

_INTEGER = re.compile(r"-?[0-9]+")


class Addition:
    """``34 + 57``. ``3 + 5`` and ``5 + 3`` are one problem, so that they share a half."""

    name = "addition"
    levels = range(1, 9)
    forms = (
        'What is {a} + {b}? Reply with "Answer:" and the number.',
        'Add {a} and {b}. Reply with "Answer:" and the number.',
        'Find the sum of {a} and {b}. Reply with "Answer:" and the number.',
        'Compute {a} plus {b}. Reply with "Answer:" and the number.',
    )

    def n_problems(self, level: int) -> int:
        n_numbers = len(_numbers(level))
        return n_numbers * (n_numbers + 1) // 2

    def problems(self, level: int) -> Iterator[Operands]:
        numbers = _numbers(level)
        return ((str(a), str(b)) for a in numbers for b in range(a, numbers.stop))

    def random_problem(self, level: int, stream: SeededStream) -> Operands:
        numbers = _numbers(level)
        while True:
            a, b = stream.between(numbers.start, numbers.stop - 1), stream.between(numbers.start, numbers.stop - 1)
            # Keeping one order only makes unordered pairs equally likely, a == b included.
            if a <= b:
                return str(a), str(b)

    def pose(self, operands: Operands, form: int, stream: SeededStream) -> Posed:
        a, b = stream.shuffled(operands)
        answer = str(int(a) + int(b))
        return Posed(self.forms[form].format(a=a, b=b), (a, b), answer, ANSWER_PREFIX + answer)

    def finds_result(self, item: TaskItem, output: str) -> bool:
        return states_number(output, item.answer)

    def has_form(self, item: TaskItem, output: str) -> bool:
        return is_answer_line(output, _INTEGER)


def _numbers(level: int) -> range:
    # Zero is left out: "0 + 7" echoed would end in its own answer.
    return range(10 ** (level - 1), 10**level)
