"""Drawing items: distinct problems from one half, the same for the same seed.

Every problem belongs to one half, by a hash of its canonical operands. Training draws from
one half and gates from the other, so that even the smallest level cannot leak, whatever the
wording and the order in which operands are shown.

Not covered: near-duplicates. ``34 + 57`` may train while ``34 + 58`` gates; the contamination
gate looks at texts as they are.
"""

from __future__ import annotations

import hashlib
from typing import get_args

from guards.canonical import sha256_bytes
from guards.errors import SuiteError
from loop.families.item import Family, Half, Operands, TaskItem
from loop.families.registry import family_named
from loop.families.seeded_stream import SeededStream

GENERATOR_VERSION = 1
"""Goes up whenever the same seed would give other items; suites name the version they froze."""

_ENUMERATE_UP_TO = 20_000
_TRIES_PER_ITEM = 64


def problem_key(family: str, operands: Operands) -> str:
    """The canonical name of a problem: its family and operands, without wording or order."""
    return f"{family} {' '.join(operands)}"


def half_of(key: str) -> Half:
    """The half that a problem belongs to, for ever: the lowest bit of the sha256 of its key."""
    return "gate" if hashlib.sha256(key.encode("utf-8")).digest()[-1] & 1 else "train"


def draw(
    family: str, level: int, n: int, seed_bytes: bytes, half: Half, exclude: frozenset[str] = frozenset()
) -> list[TaskItem]:
    """``n`` different problems of one level and half, wordings in equal shares.

    ``seed_bytes`` is any non-empty byte string (see :mod:`loop.families.seeded_stream` for
    the method); ``exclude`` holds keys that must not be drawn, for example those drawn before.

    Raises:
        SuiteError: ``family.unknown``, ``family.level``, ``family.half``, ``family.no-seed``,
            ``family.count``, or ``family.exhausted`` where the half holds fewer than ``n``
            problems that are not excluded.
    """
    chosen = family_named(family)
    _check_request(chosen, level, n, seed_bytes, half)
    stream = SeededStream(seed_bytes, f"draw/{GENERATOR_VERSION}/{family}/{level}/{half}")
    small = chosen.n_problems(level) <= max(_ENUMERATE_UP_TO, 8 * n)
    pick = _pick_from_all if small else _pick_at_random
    problems = pick(chosen, level, n, stream, half, exclude)
    return [_item(chosen, level, operands, i % len(chosen.forms), stream) for i, operands in enumerate(problems)]


def _check_request(family: Family, level: int, n: int, seed_bytes: bytes, half: str) -> None:
    if level not in family.levels:
        low, high = family.levels[0], family.levels[-1]
        raise SuiteError(
            "family.level",
            f"the family {family.name!r} has no level {level}",
            got=str(level),
            expected=f"{low} to {high}",
        )
    if half not in get_args(Half):
        raise SuiteError("family.half", f"there is no half {half!r}", got=half, expected="train or gate")
    if not seed_bytes:
        raise SuiteError("family.no-seed", "drawing needs seed bytes", got="none", expected="32 random bytes")
    if n < 1:
        raise SuiteError("family.count", "a draw must ask for at least one item", got=str(n), expected="1 or more")


def _pick_from_all(
    family: Family, level: int, n: int, stream: SeededStream, half: Half, exclude: frozenset[str]
) -> list[Operands]:
    available = [operands for operands in family.problems(level) if _is_free(family.name, operands, half, exclude)]
    if n > len(available):
        raise _exhausted(family, level, n, half, f"{len(available)} left")
    return stream.sample(available, n)


def _pick_at_random(
    family: Family, level: int, n: int, stream: SeededStream, half: Half, exclude: frozenset[str]
) -> list[Operands]:
    picked: dict[Operands, None] = {}
    for _ in range(_TRIES_PER_ITEM * n):
        operands = family.random_problem(level, stream)
        if operands not in picked and _is_free(family.name, operands, half, exclude):
            picked[operands] = None
            if len(picked) == n:
                return list(picked)
    raise _exhausted(family, level, n, half, f"{len(picked)} found in {_TRIES_PER_ITEM * n} tries")


def _is_free(family: str, operands: Operands, half: Half, exclude: frozenset[str]) -> bool:
    key = problem_key(family, operands)
    return key not in exclude and half_of(key) == half


def _exhausted(family: Family, level: int, n: int, half: Half, got: str) -> SuiteError:
    return SuiteError(
        "family.exhausted",
        f"the {half} half of {family.name} level {level} does not hold {n} items that are not excluded",
        got=got,
        expected=str(n),
        fix="ask for fewer items, exclude fewer, or use a higher level",
    )


def _item(family: Family, level: int, operands: Operands, form: int, stream: SeededStream) -> TaskItem:
    posed = family.pose(operands, form, stream)
    key = problem_key(family.name, operands)
    fingerprint = sha256_bytes(f"{key}\n{posed.prompt}".encode()).removeprefix("sha256:")[:12]
    return TaskItem(
        item_id=f"{family.name}-{level}-{fingerprint}",
        family=family.name,
        level=level,
        form=form,
        prompt=posed.prompt,
        answer=posed.answer,
        key=key,
        reply=posed.reply,
        given=posed.given,
    )
