"""Scoring an output of a generated task: strict, lenient, and its form alone.

``strict``   the whole output is exactly the reply that was asked for, and it was finished
``lenient``  the right result is stated, whatever its form (see :mod:`loop.families.reading`)
``format``   the finished output has the form that was asked for, whatever its result

Strict implies both others. A model that learns nothing but the form raises ``format`` and
lowers ``lenient``, which is why a gate should never read ``strict`` or ``format`` alone.

Not covered: whether the reasoning behind a right result is sound.
"""

from __future__ import annotations

from typing import NamedTuple

from guards.evidence import Scored
from loop.families.item import TaskItem
from loop.families.reading import without_echo
from loop.families.registry import family_named

METRICS = ("strict", "lenient", "format")


class TaskJudgement(NamedTuple):
    """What the verifier found; what rejection sampling keeps or drops by."""

    strict: bool
    lenient: bool
    format: bool


def judge_task(item: TaskItem, output: str, *, finished: bool) -> TaskJudgement:
    """Check one output; ``finished`` is false where the token limit cut it off."""
    family = family_named(item.family)
    strict = finished and output.strip() == item.reply
    lenient = family.finds_result(item, without_echo(item.prompt, output))
    # What was cut off might have gone on, so that its form is unknown: not shown, not scored.
    return TaskJudgement(strict=strict, lenient=lenient, format=finished and family.has_form(item, output))


def score_task(item: TaskItem, output: str, *, finished: bool) -> Scored:
    """The judgement as scores of 0 or 1."""
    judgement = judge_task(item, output, finished=finished)
    return Scored(scores={metric: float(getattr(judgement, metric)) for metric in METRICS})
