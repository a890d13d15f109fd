"""The families by name: a plain table, so that a reader sees all of them at once."""

from __future__ import annotations

from difflib import get_close_matches
from string import Formatter

from guards.errors import SuiteError
from loop.families.addition import Addition
from loop.families.exact_form import ExactForm
from loop.families.item import Family
from loop.families.last import Last
from loop.families.reverse import Reverse
from loop.families.sort import Sort
from loop.families.subtraction import Subtraction

FAMILIES: dict[str, Family] = {
    "addition": Addition(),
    "subtraction": Subtraction(),
    "sort": Sort(),
    "reverse": Reverse(),
    "last": Last(),
    "format": ExactForm(),
}


def family_named(name: str) -> Family:
    """The family of that name.

    Raises:
        SuiteError: ``family.unknown``.
    """
    if name in FAMILIES:
        return FAMILIES[name]
    nearest = get_close_matches(name, FAMILIES, n=1)
    raise SuiteError(
        "family.unknown",
        f"there is no task family {name!r}",
        got=name,
        expected=", ".join(FAMILIES),
        fix=f"did you mean {nearest[0]!r}?" if nearest else "use one of the families above",
    )


def question_templates() -> tuple[str, ...]:
    """The fixed text around the operands, piece by piece: what all items of a family share."""
    return tuple(
        piece
        for family in FAMILIES.values()
        for form in family.forms
        for piece, *_ in Formatter().parse(form)
        if piece.strip()
    )
