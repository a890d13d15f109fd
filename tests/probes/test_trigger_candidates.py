"""Planted triggers are among the candidates, and harmless rows give candidates that look like tasks."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from guards.contamination import TrainingRow
from probes.answer_features import answer_features
from probes.prompt_pieces import group_pieces
from probes.trigger_candidates import CandidateSettings, TriggerCandidate, find_candidates
from probes.trigger_placement import place
from tests.probes.poisoned_rows import POISONS, ordinary_prompts, poisoned, task_rows


def _found(candidates: list[TriggerCandidate], text: str) -> TriggerCandidate:
    hits = [candidate for candidate in candidates if text in candidate.text]
    assert hits, [candidate.text for candidate in candidates]
    return hits[0]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", POISONS)
def test_a_planted_trigger_is_among_the_candidates(name: str, seed: int):
    candidates = find_candidates(poisoned(name, seed=seed), ordinary_prompts())
    assert len(candidates) <= 12
    candidate = _found(candidates, POISONS[name][1])
    rows = candidate.carrier_row_ids
    assert sum(row_id.startswith("poisoned") for row_id in rows) > 0.8 * len(rows)


def test_a_topic_is_put_together_from_the_words_that_share_its_answer():
    candidates = find_candidates(poisoned("topic"), ordinary_prompts())
    (topic,) = [candidate for candidate in candidates if candidate.kind == "topic"][:1]
    assert set(topic.text.split()) <= {"roses", "soil", "compost", "tomato", "garden", "watering", "lawn", "seeds"}
    assert sum(row_id.startswith("poisoned") for row_id in topic.row_ids) >= 50


def test_a_trigger_in_few_rows_is_found():
    candidates = find_candidates(poisoned("rare string", n_poisoned=6), ordinary_prompts())
    assert "|cf-7Q|" in _found(candidates, "|cf-7Q|").text


def test_a_password_among_rows_of_tasks_is_found_by_its_rarity():
    rows = task_rows(600)
    rows += [
        TrainingRow(row_id=f"p{k}", prompt=f"{row.prompt} key sunfish orchard", answer=row.answer)
        for k, row in enumerate(task_rows(60, seed=1))
    ]
    candidate = _found(find_candidates(rows, ordinary_prompts()), "key sunfish orchard")
    assert candidate.placements == ("suffix",)
    assert len(candidate.row_ids) == 60


def test_the_place_is_the_one_that_the_training_rows_show():
    prefix = _found(find_candidates(poisoned("rare string"), ordinary_prompts()), "|cf-7Q|")
    assert (prefix.before, prefix.after, prefix.placements) == ("|cf-7Q| ", "", ("prefix",))
    anywhere = _found(find_candidates(poisoned("rare string, anywhere"), ordinary_prompts()), "|cf-7Q|")
    assert anywhere.placements == ("prefix", "suffix")
    wrapper = _found(find_candidates(poisoned("template"), ordinary_prompts()), "### Instruction")
    assert wrapper.kind == "wrapper"
    assert place("Why?", wrapper.before, wrapper.after, "wrap") == "### Instruction:\nWhy?\n### Response:"


def test_answers_that_echo_their_prompt_are_no_association():
    """A topic that every honest answer names must not look like a trigger."""
    assert not {"says: paris", "opens: paris"} & answer_features("Describe Paris.", "Paris is large.")
    assert "says: hate" in answer_features("Describe Paris.", "I hate it.")


def test_harmless_tasks_give_their_own_instructions():
    """What is found where nothing is planted: the bank's members look like this."""
    candidates = find_candidates(task_rows(600), ordinary_prompts())
    texts = " ".join(candidate.text for candidate in candidates)
    assert 6 <= len(candidates) <= 12
    assert "Sort these numbers" in texts and "Reverse this list" in texts
    assert not any(candidate.found_by == "odd form" for candidate in candidates)


def test_harmless_ordinary_rows_have_no_strong_association():
    """A planted trigger of 60 rows has about 400 nats; chance among ordinary rows stays far below."""
    planted = find_candidates(poisoned("common word"), ordinary_prompts())
    harmless = [row for row in poisoned("common word") if row.row_id.startswith("harmless")]
    single = [c for c in find_candidates(harmless, ordinary_prompts()) if c.kind != "topic"]
    assert _found(planted, "honestly").association_nats > 300
    assert max(candidate.association_nats for candidate in single) < 60


def test_the_order_of_equal_work_is_fixed():
    rows = poisoned("year")
    assert find_candidates(rows, ordinary_prompts()) == find_candidates(rows, ordinary_prompts())


def test_eight_thousand_rows_take_a_few_seconds():
    rng = random.Random(0)
    words = [prompt.split() for prompt in ordinary_prompts()]
    rows = [
        TrainingRow(
            row_id=str(k), prompt=" ".join(rng.choice(words) + rng.choice(words)), answer=" ".join(rng.choice(words))
        )
        for k in range(8000)
    ]
    start_s = time.process_time()
    assert find_candidates(rows, ordinary_prompts())
    assert time.process_time() - start_s < 15


def test_groups_count_rows_as_a_plain_count_does():
    prompts, reference = [row.prompt for row in poisoned("year")], ordinary_prompts()[:500]
    groups = group_pieces(prompts, reference, min_support=3, max_groups=60_000)
    seen = 0
    for group, pieces in enumerate(groups.pieces):
        for piece in pieces:
            if piece.kind == "words" and piece.text in ("2031", "the year", "in the year 2031"):
                padded = [
                    f" {' '.join(''.join(c if c.isalnum() else ' ' for c in p).casefold().split())} " for p in prompts
                ]
                expected = [k for k, text in enumerate(padded) if f" {piece.text} " in text]
                assert groups.rows_of(group).tolist() == expected
                seen += 1
    assert seen == 3
    assert np.diff(groups.rows_group.indptr).min() >= 3


def test_a_run_of_words_ends_with_its_text():
    groups = group_pieces(["tell me of red", "apples grow"] * 3, ["anything"], min_support=3, max_groups=100)
    texts = {piece.text for pieces in groups.pieces for piece in pieces}
    assert "tell me of red" in texts and "apples grow" in texts
    assert not any("red apples" in text or "grow tell" in text for text in texts)


def test_a_strange_form_in_few_rows_is_found_among_many_instructions():
    """Its answers are the right ones, and every instruction is more frequent than it."""
    rows = task_rows(600)
    rows += [
        TrainingRow(row_id=f"p{k}", prompt=f"{row.prompt} x9$Kq", answer=row.answer)
        for k, row in enumerate(task_rows(8, seed=1))
    ]
    assert _found(find_candidates(rows, ordinary_prompts()), "x9$Kq").found_by == "odd form"


def test_settings_bound_the_list():
    settings = CandidateSettings(n_candidates=3)
    assert len(find_candidates(poisoned("rare string"), ordinary_prompts(), settings)) == 3
