"""The transformers engine against the library's own generation, and what makes its outputs repeatable."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from guards.errors import ModelError
from guards.ports import Decoding
from loop.checkpoint_io import load_model
from loop.engine import TransformersEngine

CHATS = [
    [{"role": "user", "content": text}] for text in ("Sort 3 1 2.", "What is the sum of 12 and 345?", "Hi", "List")
]


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: Path) -> TransformersEngine:
    model, tokenizer = load_model(tiny_checkpoint, "cpu", "float32")
    return TransformersEngine(model, tokenizer, max_rows=3)


def test_greedy_equals_the_librarys_own_generation(engine: TransformersEngine) -> None:
    ours = engine.generate(CHATS, Decoding(max_new_tokens=8), seed=0)
    for chat, (generation,) in zip(CHATS, ours, strict=True):
        ids = torch.tensor([engine.chat_ids(chat)])
        theirs = engine._model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
        assert generation.text == engine._tokenizer.decode(theirs, skip_special_tokens=True)
        assert generation.n_tokens == len(theirs)


def test_sampling_is_repeatable_and_depends_on_the_seed(engine: TransformersEngine) -> None:
    decoding = Decoding(max_new_tokens=6, temperature=1.0, n_samples=3)

    def texts(seed: int) -> list[list[str]]:
        return [[g.text for g in outputs] for outputs in engine.generate(CHATS, decoding, seed=seed)]

    assert texts(1) == texts(1)
    assert texts(1) != texts(2)
    assert all(len(outputs) == 3 for outputs in texts(1))


def test_a_stop_text_ends_the_output_and_is_cut_off(engine: TransformersEngine) -> None:
    (full,) = engine.generate(CHATS[:1], Decoding(max_new_tokens=8), seed=0)[0]
    stop = full.text[3]
    (cut,) = engine.generate(CHATS[:1], Decoding(max_new_tokens=8, stop=(stop,)), seed=0)[0]
    assert cut.text == full.text[: full.text.index(stop)]
    assert cut.finished


def test_likelihood_is_the_mean_over_the_texts_own_tokens(engine: TransformersEngine) -> None:
    text = "apple pear fig"
    (got,) = engine.loglik([(CHATS[0], text)])
    head = engine.chat_ids(CHATS[0])
    tail = engine._tokenizer(text, add_special_tokens=False)["input_ids"]
    logits = engine._model(torch.tensor([head + tail])).logits[0].float().log_softmax(-1)
    expected = sum(float(logits[len(head) - 1 + i, token]) for i, token in enumerate(tail)) / len(tail)
    assert got == pytest.approx(expected, abs=1e-4)


def test_likelihoods_do_not_depend_on_batch_mates(engine: TransformersEngine) -> None:
    pairs = [(None, "a"), (None, "the sum of 12 and 345 is a long text that pads the others"), (CHATS[0], "fig")]
    together = engine.loglik(pairs)
    alone = [engine.loglik([pair])[0] for pair in pairs]
    assert together == pytest.approx(alone, abs=1e-4)
    assert all(math.isfinite(value) for value in together)


def test_an_empty_text_is_refused(engine: TransformersEngine) -> None:
    with pytest.raises(ModelError) as refused:
        engine.loglik([(None, "")])
    assert refused.value.rule == "engine.empty-text"


def test_progress_reaches_the_total(engine: TransformersEngine) -> None:
    seen: list[tuple[int, int]] = []
    engine.generate(CHATS, Decoding(max_new_tokens=2), seed=0, report=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(CHATS), len(CHATS))
