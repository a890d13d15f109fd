"""The words of a task family: an item, how a problem is posed, and what a family must offer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

from pydantic import Field

from guards.evidence import Frozen
from loop.families.seeded_stream import SeededStream

Half = Literal["train", "gate"]
Operands = tuple[str, ...]
"""What a problem is about, in canonical order: permutations of one problem are one problem."""


class TaskItem(Frozen):
    """One question with a known right answer.

    ``answer`` is the bare result (``91``), ``reply`` the only output that scores strictly
    (``Answer: 91``), ``given`` the operands as the prompt shows them, ``key`` the canonical
    operands that decide the item's half.
    """

    item_id: str = Field(min_length=1)
    family: str = Field(min_length=1)
    level: int = Field(ge=1)
    form: int = Field(ge=0)
    prompt: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    key: str = Field(min_length=1)
    reply: str = Field(min_length=1)
    given: tuple[str, ...] = Field(min_length=1)


class Posed(NamedTuple):
    """A problem put into words."""

    prompt: str
    given: tuple[str, ...]
    answer: str
    reply: str


class Family(Protocol):
    """One kind of task. ``level`` is its difficulty; ``forms`` are its wordings, by index."""

    @property
    def name(self) -> str: ...

    @property
    def levels(self) -> range: ...

    @property
    def forms(self) -> tuple[str, ...]: ...

    def n_problems(self, level: int) -> int:
        """How many distinct problems a level has, both halves together."""
        ...

    def problems(self, level: int) -> Iterator[Operands]:
        """Every problem of a level once, in a fixed order. Only called for small levels."""
        ...

    def random_problem(self, level: int, stream: SeededStream) -> Operands:
        """One problem, uniformly."""
        ...

    def pose(self, operands: Operands, form: int, stream: SeededStream) -> Posed:
        """Words for a problem; ``stream`` decides the order in which operands are shown."""
        ...

    def finds_result(self, item: TaskItem, output: str) -> bool:
        """True if the output states the right result, whatever its form (lenient)."""
        ...

    def has_form(self, item: TaskItem, output: str) -> bool:
        """True if the output has the form that was asked for, whatever its result."""
        ...
