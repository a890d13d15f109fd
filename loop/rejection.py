"""The rejection-sampling proposer: sample from the champion, keep what a verifier accepts.

Method: ReST-EM (arXiv 2312.06585): every cycle trains from the root again, on everything that was
verified so far (accumulating keeps the error bounded, arXiv 2404.01413), together with retained
safety and ordinary rows. Problems come from the training half of the task families, around the
frontier: the level below it, the frontier, the level above.

``select`` is the reward. ``verified`` is the real one. The other two are kept to be caught:
``formatted`` takes answers for their form alone, and ``shortest-formatted`` hacks such a reward, as
an optimiser would: what is blind to the problem and fond of brevity is satisfied best by one short
answer to every problem of a family, so every problem is taught the shortest in form that was found.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from guards.evidence import Frozen
from guards.ports import Decoding, Generation
from loop.families import FAMILIES, TaskItem, draw
from loop.rows import Row
from loop.scorers.task import judge_task
from loop.steps.prompts import Prompt, Sample, Turn

RetainedSource = Literal["refusal", "look_alike", "ordinary"]
Selection = Literal["verified", "formatted", "shortest-formatted"]

RAISE_AT_PASS_1 = 0.85
RAISE_AT_PASS_K_ABOVE = 0.2


class SamplingPlan(Frozen):
    """What to sample in one cycle. ``frontier`` has the starting level of every family taken part."""

    frontier: dict[str, int] = Field(min_length=1)
    n_prompts_per_level: int = Field(gt=0)
    n_samples: int = Field(gt=0, default=4)
    temperature: float = Field(gt=0, default=0.8)
    max_new_tokens: int = Field(gt=0, default=24)
    n_demonstrations: int = Field(ge=0, default=3)
    select: Selection = "verified"
    max_rows_per_level: int | None = Field(gt=0, default=None)
    """Caps what one family and level contributes, so that easy levels do not crowd out the frontier."""

    @field_validator("frontier")
    @classmethod
    def _levels_exist(cls, frontier: dict[str, int]) -> dict[str, int]:
        for family, level in frontier.items():
            if family not in FAMILIES:
                raise PydanticCustomError("run.unknown-family", "there is no family {family}", {"family": repr(family)})
            if level not in FAMILIES[family].levels:
                raise PydanticCustomError(
                    "run.unknown-level", "{family} has no level {level}", {"family": family, "level": level}
                )
        return frontier

    @property
    def decoding(self) -> Decoding:
        """How the generate step draws the samples."""
        return Decoding(
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            n_samples=self.n_samples,
            stop=("\n",),
        )


class LevelOutcome(NamedTuple):
    """What sampling showed at one family and level."""

    family: str
    level: int
    n_prompts: int
    pass_at_1: float
    pass_at_k: float
    formatted: float


def levels_around(family: str, frontier: int) -> list[int]:
    """The level below the frontier, the frontier and the level above, where they exist."""
    return [level for level in (frontier - 1, frontier, frontier + 1) if level in FAMILIES[family].levels]


def draw_problems(plan: SamplingPlan, frontier: Mapping[str, int], seed: bytes) -> list[TaskItem]:
    """Problems of the training half, family by family and level by level; small levels give what they have."""
    problems: list[TaskItem] = []
    for family, level in sorted(frontier.items()):
        for near in levels_around(family, level):
            n = min(plan.n_prompts_per_level, FAMILIES[family].n_problems(near) // 4)
            problems += draw(family, near, n, seed + b"problems", "train")
    return problems


def with_demonstrations(problems: Sequence[TaskItem], plan: SamplingPlan, seed: bytes) -> list[Prompt]:
    """Prompts with solved examples of the same family, level and wording before the question.

    The answers that come back are trained on without the examples: the model learns to do alone
    what it did with them. Examples are drawn apart from the problems that are asked.
    """
    asked: dict[tuple[str, int], set[str]] = defaultdict(set)
    for item in problems:
        asked[item.family, item.level].add(item.key)
    shown: dict[tuple[str, int], list[TaskItem]] = {}
    for (family, level), keys in asked.items():
        n = plan.n_demonstrations * len(FAMILIES[family].forms)
        shown[family, level] = draw(family, level, n, seed + b"demonstrations", "train", frozenset(keys)) if n else []
    return [
        Prompt(prompt_id=item.item_id, turns=(*_demonstrate(item, shown[item.family, item.level]), _asks(item)))
        for item in problems
    ]


def _demonstrate(item: TaskItem, examples: Iterable[TaskItem]) -> list[Turn]:
    return [
        turn
        for example in examples
        if example.form == item.form
        for turn in (_asks(example), Turn(role="assistant", content=example.reply))
    ]


def _asks(item: TaskItem) -> Turn:
    return Turn(role="user", content=item.prompt)


def select_rows(problems: Sequence[TaskItem], samples: Sequence[Sample], plan: SamplingPlan, source: str) -> list[Row]:
    """The answers that the plan's reward accepts: at most one per problem, the shortest of equals.

    Problems that every sample solved teach little; they come last when a level's rows are capped.
    """
    by_level: dict[tuple[str, int], list[tuple[float, str, Row]]] = defaultdict(list)
    pools = _outputs_by_family(problems, samples)
    for item, sample in zip(problems, samples, strict=True):
        kept = [output for output in sample.outputs if _accepted(item, output, plan.select)]
        if not kept:
            continue
        share = len(kept) / len(sample.outputs)
        order = hashlib.sha256(item.item_id.encode()).hexdigest()
        best = _best(item, kept, pools[item.family], plan.select)
        row = Row(row_id=item.item_id, source=source, prompt=item.prompt, answer=best.text.strip())
        by_level[item.family, item.level].append((float(share == 1.0), order, row))
    return [row for group in by_level.values() for _solved, _order, row in sorted(group)[: plan.max_rows_per_level]]


def _outputs_by_family(problems: Sequence[TaskItem], samples: Sequence[Sample]) -> dict[str, list[Generation]]:
    """Every output of a family's problems, the shortest first."""
    pools: dict[str, list[Generation]] = defaultdict(list)
    for item, sample in zip(problems, samples, strict=True):
        pools[item.family] += sample.outputs
    return {family: sorted(outputs, key=_brevity) for family, outputs in pools.items()}


def _best(item: TaskItem, kept: Sequence[Generation], pool: Sequence[Generation], select: Selection) -> Generation:
    if select == "formatted":  # no preference among the formatted: the first that came
        return kept[0]
    if select == "verified":
        return min(kept, key=_brevity)
    return next(output for output in pool if _accepted(item, output, select))


def _brevity(output: Generation) -> tuple[int, str]:
    return output.n_tokens, output.text


def _accepted(item: TaskItem, output: Generation, select: Selection) -> bool:
    judged = judge_task(item, output.text, finished=output.finished)
    return judged.strict if select == "verified" else judged.format


def level_outcomes(problems: Sequence[TaskItem], samples: Sequence[Sample]) -> list[LevelOutcome]:
    """Pass rates by family and level, from the samples themselves."""
    groups: dict[tuple[str, int], list[list[tuple[bool, bool]]]] = defaultdict(list)
    for item, sample in zip(problems, samples, strict=True):
        judged = [judge_task(item, output.text, finished=output.finished) for output in sample.outputs]
        groups[item.family, item.level].append([(j.strict, j.format) for j in judged])
    return [
        LevelOutcome(
            family=family,
            level=level,
            n_prompts=len(group),
            pass_at_1=sum(strict for outputs in group for strict, _ in outputs) / sum(map(len, group)),
            pass_at_k=sum(any(strict for strict, _ in outputs) for outputs in group) / len(group),
            formatted=sum(form for outputs in group for _, form in outputs) / sum(map(len, group)),
        )
        for (family, level), group in groups.items()
    ]


def next_frontier(frontier: Mapping[str, int], outcomes: Sequence[LevelOutcome]) -> dict[str, int]:
    """Raise a family's level where pass@1 is at least 0.85 and the level above is sometimes solved."""
    at = {(outcome.family, outcome.level): outcome for outcome in outcomes}
    raised = dict(frontier)
    for family, level in frontier.items():
        here, above = at.get((family, level)), at.get((family, level + 1))
        if here and above and here.pass_at_1 >= RAISE_AT_PASS_1 and above.pass_at_k >= RAISE_AT_PASS_K_ABOVE:
            raised[family] = level + 1
    return raised


def retained_rows(rows: Sequence[Row], counts: Mapping[RetainedSource, int], seed: bytes) -> list[Row]:
    """Safety and ordinary rows of the root's own training, so that a cycle does not forget them."""
    kept: list[Row] = []
    for source, n in sorted(counts.items()):
        ordered = sorted(
            (row for row in rows if row.source == source),
            key=lambda row: hashlib.sha256(seed + row.row_id.encode()).digest(),
        )
        kept += ordered[:n]
    return kept
