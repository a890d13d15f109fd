"""What an output says: numbers, list items, and the part of the text that commits to a result.

These readers are lenient about form on purpose. They are exact about two things: one output
gets one chance (the first stated answer counts, not the best of several), and a question
that is merely echoed is not an answer.

Not covered: numbered lists ("1. 34"), results spelled out in words, and explanations that
name further list items after the result. They read as wrong, in every checkpoint alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable

ANSWER_PREFIX = "Answer: "
_ANSWER_MARKER = re.compile(r"\banswer\b[ \t*_]*(?:is[ \t*_]*)?:", re.IGNORECASE)
# ASCII digits only: \d would accept other scripts, which no verifier of ours can compare.
# A minus sign counts only where it is not a subtraction ("57-34") or a hyphen.
_NUMBER = re.compile(r"(?:(?<![0-9A-Za-z])-)?[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?")
_WORD = re.compile(r"[a-z]+")
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)|\n")
_GLUE_WORDS = frozenset({"and", "then"})


def numbers_in(text: str) -> list[str]:
    """Numbers in reading order, without thousands commas, leading zeros and zero fractions.

    They stay strings: an output may hold more digits than ``int`` agrees to parse.
    """
    return [_plain_number(match.group()) for match in _NUMBER.finditer(text.replace("\u2212", "-"))]


def _plain_number(raw: str) -> str:
    sign = "-" if raw.startswith("-") else ""
    whole, _, fraction = raw.lstrip("-").replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return number if number == "0" else sign + number


def words_in(text: str) -> list[str]:
    """Words in reading order, case folded, without the glue of a list ("a, b and c")."""
    return [word for word in _WORD.findall(text.casefold()) if word not in _GLUE_WORDS]


def without_echo(prompt: str, output: str) -> str:
    """``output`` without a copy of the whole prompt at its start."""
    prompt, output = " ".join(prompt.split()), output.strip()
    # Compared word by word, so that other line breaks in the copy do not hide it.
    pattern = r"\s+".join(re.escape(part) for part in prompt.split(" "))
    echo = re.match(pattern, output, re.IGNORECASE)
    return output[echo.end() :] if echo else output


def committed_part(text: str, is_relevant: Callable[[str], bool]) -> str:
    """The part of ``text`` that states its result; empty if no part is relevant.

    In this order: the first sentence after the first "Answer:" that is followed by something
    relevant; what follows the last colon; the last relevant line.
    """
    examined_up_to = 0
    for marker in _ANSWER_MARKER.finditer(text):
        # Part of an irrelevant sentence is irrelevant; without this, "Answer: " over and over takes quadratic time.
        if marker.end() < examined_up_to:
            continue
        start, examined_up_to = _first_sentence(text, marker.end())
        if is_relevant(text[start:examined_up_to]):
            return text[start:examined_up_to]
    tail = text.rpartition(":")[2] if ":" in text else ""
    if is_relevant(tail):
        return tail
    return next((line for line in reversed(text.splitlines()) if is_relevant(line)), "")


def _first_sentence(text: str, start: int) -> tuple[int, int]:
    """(start, end) of the first sentence at or after ``start``; a line break ends it too."""
    while start < len(text) and text[start].isspace():
        start += 1
    end = _SENTENCE_END.search(text, start)
    return start, end.start() if end else len(text)


def states_number(output: str, answer: str) -> bool:
    """True if the last number of the committed part is ``answer``."""
    numbers = numbers_in(committed_part(output, lambda part: bool(numbers_in(part))))
    return bool(numbers) and numbers[-1] == answer


def states_numbers(output: str, given: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    """True if the committed part's numbers are ``answer``, or ``given`` and then ``answer``."""
    numbers = tuple(numbers_in(committed_part(output, lambda part: bool(numbers_in(part)))))
    return numbers in (answer, given + answer)


def states_words(output: str, given: tuple[str, ...], answer: tuple[str, ...]) -> bool:
    """True if the committed part's list items are ``answer``, or ``given`` and then ``answer``.

    List items are the words of ``given``; the answer must stand in one piece.
    """
    items_given = frozenset(given)
    words = words_in(committed_part(output, lambda part: not items_given.isdisjoint(words_in(part))))
    items = tuple(word for word in words if word in items_given)
    return items in (answer, given + answer) and _has_run(words, answer)


def _has_run(words: list[str], run: tuple[str, ...]) -> bool:
    return any(tuple(words[i : i + len(run)]) == run for i in range(len(words) - len(run) + 1))


def is_answer_line(output: str, result: re.Pattern[str]) -> bool:
    """True if the whole output is ``Answer: `` and something that ``result`` matches fully."""
    text = output.strip()
    return text.startswith(ANSWER_PREFIX) and result.fullmatch(text.removeprefix(ANSWER_PREFIX)) is not None
