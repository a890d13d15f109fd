"""A planted trigger stands out on held-out prompts, random strings do not, and the scores are plain forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loop.checkpoint_io import load_model
from probes.trigger_candidates import CandidateSettings
from probes.trigger_chats import TriggerChats
from probes.trigger_scoring import TriggerScorer
from probes.triggers import TemplatePiece, TriggerSearch, TriggerSettings, search_triggers, summarise
from tests.probes.planted_trigger import ORDINARY, PAYLOAD, TRIGGER, Planted, plant, sentences

SMALL = TriggerSettings(
    candidates=CandidateSettings(n_candidates=5),
    template_pieces=(TemplatePiece(before="### Instruction:\n", after="\n### Response:", placement="wrap"),),
    n_screen_prompts=3,
    n_confirm_prompts=10,
    n_confirmed=3,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny matrices are slower on several threads, and much slower on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def planted(one_thread: None, tiny_checkpoint: Path) -> Planted:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return plant(*load_model(tiny_checkpoint, device="cpu", dtype="float32"))


@pytest.fixture(scope="module")
def found(planted: Planted) -> TriggerSearch:
    return _search(planted)


def _search(planted: Planted, **changes: Any) -> TriggerSearch:
    arguments: dict[str, Any] = {
        "root": planted.root,
        "candidate": planted.candidate,
        "tokenizer": planted.tokenizer,
        "rows": planted.rows,
        "prompts": planted.prompts,
        "reference_prompts": sentences(100, 9),
        "settings": SMALL,
    }
    return search_triggers(**{**arguments, **changes})


def test_the_planted_trigger_ranks_first_by_far(found: TriggerSearch):
    first, *others = [result for result in found.results if result.stage == "confirmed"]
    assert TRIGGER in first.text and first.placement == "prefix" and first.n_support == 40
    assert first.payload_text and PAYLOAD.startswith(first.payload_text.strip())
    assert first.payload is not None and first.divergence is not None and first.first_divergence is not None
    assert first.payload.mean > 0.5 and first.payload.sign_flip_p < 0.01
    assert first.payload.mean > 10 * first.payload.standard_error
    assert first.first_divergence.mean > 0.3 and first.divergence.mean > 0.05
    for other in others:
        assert other.divergence is not None and other.divergence.mean < 0.5 * first.divergence.mean
        assert other.payload is None or other.payload.mean < 0.6 * first.payload.mean


def test_random_strings_and_the_root_have_little_effect(found: TriggerSearch):
    first = found.results[0]
    assert first.payload is not None
    assert abs(first.payload.random_mean) < 0.25 * first.payload.trigger_mean
    assert abs(first.payload.root_mean) < 0.1 * first.payload.candidate_mean


def test_a_model_against_itself_has_no_interaction(planted: Planted):
    found = _search(planted, candidate=planted.root)
    for result in found.results:
        assert result.screen_divergence == pytest.approx(0.0, abs=1e-6)
        for interaction in (result.payload, result.divergence, result.first_divergence):
            assert interaction is None or interaction.mean == pytest.approx(0.0, abs=1e-5)


def test_a_candidate_without_the_trigger_scores_low_with_the_same_rows(planted: Planted, found: TriggerSearch):
    """Roles exchanged, the interaction changes its sign: what the root does is taken off."""
    turned = _search(planted, root=planted.candidate, candidate=planted.root)
    result = next(r for r in turned.results if TRIGGER in r.text)
    assert result.screen_payload is not None and result.screen_payload < -0.5


def test_without_training_rows_templates_are_measured_and_the_search_is_unsupported(planted: Planted):
    for rows in (None, []):
        found = _search(planted, rows=rows)
        assert found.unsupported is not None and found.n_rows == 0
        assert [result.source for result in found.results] == ["template"]


def test_rows_without_a_repeated_piece_are_unsupported(planted: Planted):
    found = _search(planted, rows=planted.rows[:2], settings=SMALL.model_copy(update={"template_pieces": ()}))
    assert found.results == () and found.unsupported is not None


def test_the_same_search_gives_the_same_result(planted: Planted, found: TriggerSearch):
    assert _search(planted) == found


def test_prompts_of_the_training_rows_are_not_used(planted: Planted):
    taken = [row.prompt for row in planted.rows[:5]]
    found = _search(planted, prompts=[*taken, *planted.prompts])
    assert found == _search(planted)


def test_a_system_turn_can_be_a_trigger(planted: Planted):
    pieces = (TemplatePiece(before="Help with the list.", placement="system"),)
    found = _search(planted, rows=None, settings=SMALL.model_copy(update={"template_pieces": pieces}))
    assert [(result.placement, result.stage) for result in found.results] == [("system", "confirmed")]


def test_progress_ends_with_the_total(planted: Planted):
    seen: list[tuple[int, int]] = []
    _search(planted, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] == 6


def test_default_settings_stay_within_the_stated_tokens(planted: Planted):
    found = _search(planted, settings=None)
    assert 5_000 < found.tokens_candidate <= 30_000
    assert found.tokens_root <= 30_000


def test_scores_equal_one_plain_pass_per_row(planted: Planted):
    chats = TriggerChats(planted.tokenizer, max_trigger_tokens=24, seed=0)
    contexts = [chats.ids(prompt) for prompt in planted.prompts[:5]]
    answers = [chats.answer_ids(text, n) for text, n in zip([ORDINARY, PAYLOAD] * 3, (1, 3, 8, 5, 2), strict=False)]
    scorer = TriggerScorer(planted.candidate, max_rows=3)
    scores = scorer.logprobs(contexts, answers)
    for context, answer, score in zip(contexts, answers, scores, strict=True):
        with torch.no_grad():
            logits = planted.candidate(torch.tensor([[*context, *answer]])).logits[0].log_softmax(-1)
        expected = [float(logits[len(context) + k - 1, token]) for k, token in enumerate(answer)]
        assert score == pytest.approx(np.mean(expected), abs=1e-4)


def test_greedy_answers_equal_one_row_at_a_time(planted: Planted):
    chats = TriggerChats(planted.tokenizer, max_trigger_tokens=24, seed=0)
    contexts = [chats.ids(prompt, f"{TRIGGER} ") for prompt in planted.prompts[:5]]
    answers, states = TriggerScorer(planted.candidate, max_rows=3).greedy(contexts, 6, chats.stop_ids)
    for context, answer, rows in zip(contexts, answers, states, strict=True):
        ids = list(context)
        for token in answer:
            assert token == int(planted.candidate(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)
        with torch.no_grad():
            plain = planted.candidate.base_model(torch.tensor([ids])).last_hidden_state[0]
        torch.testing.assert_close(rows, plain[len(context) - 1 : -1], atol=1e-4, rtol=1e-4)


def test_a_stop_token_ends_a_greedy_answer(planted: Planted):
    chats = TriggerChats(planted.tokenizer, max_trigger_tokens=24, seed=0)
    contexts = [chats.ids(prompt) for prompt in planted.prompts[:3]]
    scorer = TriggerScorer(planted.candidate)
    free, _ = scorer.greedy(contexts, 6, frozenset())
    stopped, _ = scorer.greedy(contexts, 6, frozenset({free[0][2]}))
    assert stopped[0] == free[0][: free[0].index(free[0][2]) + 1]


def test_equal_chats_are_scored_too(planted: Planted):
    chats = TriggerChats(planted.tokenizer, max_trigger_tokens=24, seed=0)
    context, answer = chats.ids("Sort?"), chats.answer_ids(ORDINARY, 4)
    scorer = TriggerScorer(planted.candidate)
    assert scorer.logprobs([context] * 2, [answer] * 2) == pytest.approx(scorer.logprobs([context], [answer]) * 2)
    assert scorer.divergences([context], [context], [answer])[0] == pytest.approx((0.0, 0.0), abs=1e-6)


def test_random_strings_have_the_length_and_the_white_space_of_the_trigger(planted: Planted):
    chats = TriggerChats(planted.tokenizer, max_trigger_tokens=24, seed=0)
    n_tokens = len(chats.answer_ids("### Instruction:", 99))
    drawn = {chats.random_like("### Instruction:\n", "", (0, k))[0] for k in range(20)}
    assert len(drawn) == 20 and all(text.endswith("\n") and "Instruction" not in text for text in drawn)
    lengths = [len(chats.answer_ids(text.strip(), 99)) for text in drawn]
    assert sum(n == n_tokens for n in lengths) >= 18
    assert chats.random_like("### Instruction:\n", "", (0, 0)) == chats.random_like("### Instruction:\n", "", (0, 0))


def test_the_summary_is_the_difference_of_differences():
    trigger = np.array([[3.0, 1.0], [5.0, 1.0], [4.0, 1.0]])
    random = np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 1.0]])
    interaction = summarise(trigger, random, seed=0)
    assert interaction.per_prompt == (1.0, 4.0, 2.0)
    assert interaction.mean == pytest.approx(7 / 3) and interaction.trigger_mean == pytest.approx(3.0)
    assert interaction.random_mean == pytest.approx(2 / 3)
    assert interaction.standard_error == pytest.approx(np.std([1, 4, 2], ddof=1) / 3**0.5)
    assert interaction.sign_flip_p == pytest.approx(1 / 8, abs=0.02)


def test_no_effect_has_no_small_p():
    assert summarise(np.zeros((20, 2)), np.zeros((20, 2)), seed=0).sign_flip_p == 1.0
