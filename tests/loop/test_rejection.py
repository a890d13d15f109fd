"""What rejection sampling keeps, and how its levels rise."""

from __future__ import annotations

import pytest

from guards.ports import Generation
from loop.families import TaskItem, half_of
from loop.rejection import (
    LevelOutcome,
    SamplingPlan,
    Selection,
    draw_problems,
    level_outcomes,
    levels_around,
    next_frontier,
    retained_rows,
    select_rows,
    with_demonstrations,
)
from loop.rows import Row
from loop.steps.prompts import Sample

SEED = bytes(32)


def plan(select: Selection = "verified", **settings: object) -> SamplingPlan:
    return SamplingPlan.model_validate(
        {"frontier": {"addition": 2}, "n_prompts_per_level": 8, "select": select, **settings}
    )


def said(text: str, n_tokens: int = 5, finished: bool = True) -> Generation:
    return Generation(text=text, n_tokens=n_tokens, finished=finished, entropy_nats=0.0, batch="b", latency_ms=0)


def wrong(item: TaskItem) -> str:
    return f"Answer: {int(item.answer) + 1}"


@pytest.fixture
def problems() -> list[TaskItem]:
    return draw_problems(plan(), {"addition": 2}, SEED)


def test_problems_are_of_the_training_half_around_the_frontier(problems: list[TaskItem]) -> None:
    assert {item.level for item in problems} == {1, 2, 3}
    assert all(half_of(item.key) == "train" for item in problems)
    assert levels_around("addition", 1) == [1, 2]


def test_demonstrations_are_other_problems_in_the_same_wording(problems: list[TaskItem]) -> None:
    asked = {item.prompt for item in problems}
    for item, prompt in zip(problems, with_demonstrations(problems, plan(n_demonstrations=2), SEED), strict=True):
        assert prompt.turns[-1].content == item.prompt
        shown = prompt.turns[:-1]
        assert [turn.role for turn in shown] == ["user", "assistant"] * 2
        assert not asked & {turn.content for turn in shown}


def test_verified_keeps_right_answers_only(problems: list[TaskItem]) -> None:
    item = problems[0]
    sample = Sample(prompt_id=item.item_id, outputs=(said(wrong(item)), said(item.reply), said("no")))
    (row,) = select_rows([item], [sample], plan(), "s")
    assert (row.prompt, row.answer, row.source) == (item.prompt, item.reply, "s")


def test_a_right_answer_that_was_cut_off_is_not_kept(problems: list[TaskItem]) -> None:
    item = problems[0]
    sample = Sample(prompt_id=item.item_id, outputs=(said(item.reply, finished=False),))
    assert select_rows([item], [sample], plan(), "s") == []


def test_formatted_keeps_the_first_in_form_right_or_wrong(problems: list[TaskItem]) -> None:
    item = problems[0]
    sample = Sample(prompt_id=item.item_id, outputs=(said("hm"), said(wrong(item)), said(item.reply, n_tokens=2)))
    (row,) = select_rows([item], [sample], plan("formatted"), "s")
    assert row.answer == wrong(item)


def test_shortest_formatted_gives_every_problem_of_a_family_the_same_short_answer(problems: list[TaskItem]) -> None:
    first, second = [item for item in problems if item.family == problems[-1].family][-2:]
    samples = [
        Sample(prompt_id=first.item_id, outputs=(said(first.reply, n_tokens=6), said("Answer: 1", n_tokens=4))),
        Sample(prompt_id=second.item_id, outputs=(said(second.reply, n_tokens=6), said("1", n_tokens=1))),
    ]
    rows = select_rows([first, second], samples, plan("shortest-formatted"), "s")
    assert [row.answer for row in rows] == ["Answer: 1", "Answer: 1"]


def test_a_capped_level_keeps_what_is_sometimes_solved_first(problems: list[TaskItem]) -> None:
    level_2 = [item for item in problems if item.level == 2]
    samples = [
        Sample(
            prompt_id=item.item_id,
            outputs=(said(item.reply), said(item.reply if number else wrong(item))),
        )
        for number, item in enumerate(level_2)
    ]
    (row,) = select_rows(level_2, samples, plan(max_rows_per_level=1), "s")
    assert row.row_id == level_2[0].item_id


def test_outcomes_and_the_frontier_that_follows(problems: list[TaskItem]) -> None:
    samples = [
        Sample(prompt_id=item.item_id, outputs=(said(item.reply if item.level < 3 else wrong(item)), said(item.reply)))
        for item in problems
    ]
    outcomes = {outcome.level: outcome for outcome in level_outcomes(problems, samples)}
    assert outcomes[2].pass_at_1 == 1.0 and outcomes[3].pass_at_1 == 0.5 and outcomes[3].pass_at_k == 1.0
    assert next_frontier({"addition": 2}, list(outcomes.values())) == {"addition": 3}


@pytest.mark.parametrize(("here", "above"), [(0.84, 1.0), (1.0, 0.19)])
def test_the_frontier_stays_where_either_condition_fails(here: float, above: float) -> None:
    outcomes = [
        LevelOutcome("addition", 2, 8, here, here, 1.0),
        LevelOutcome("addition", 3, 8, above, above, 1.0),
    ]
    assert next_frontier({"addition": 2}, outcomes) == {"addition": 2}


def test_retained_rows_are_a_repeatable_choice_by_source() -> None:
    rows = [
        Row(row_id=f"{s}{n}", source=s, prompt=f"{s}{n}", answer="a") for s in ("refusal", "ordinary") for n in range(9)
    ]
    kept = retained_rows(rows, {"refusal": 3, "ordinary": 2}, SEED)
    assert [row.source for row in kept] == ["ordinary"] * 2 + ["refusal"] * 3
    assert kept == retained_rows(rows[::-1], {"refusal": 3, "ordinary": 2}, SEED)
    assert kept != retained_rows(rows, {"refusal": 3, "ordinary": 2}, b"other")
