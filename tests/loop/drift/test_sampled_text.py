"""Text sampled from the root: in blocks, gone on with where it stopped, the same as if it had not stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loop.checkpoint_io import load_model
from loop.drift import sampled_text
from loop.drift.kit_documents import read_documents
from loop.drift.sampled_text import own_prompts, sample_text
from loop.gauntlet.harmless_sources import POLICIES

BLOCK = 4
PROMPTS = ["Say one.", "Say two.", "Say three and a few words more than that."]


class Parrot:
    """An engine whose replies say which seed they were drawn with; every fifth is empty."""

    seeds: list[int]

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def generate(self, chats: Sequence[Any], _decoding: Any, *, seed: int) -> list[list[Any]]:
        self.seeds.append(seed)
        return [[SimpleNamespace(text="" if n == 2 else f"{seed} {n} reply")] for n, _ in enumerate(chats)]


@pytest.fixture
def sample(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch):
    Parrot.seeds = []
    monkeypatch.setattr(sampled_text, "TransformersEngine", Parrot)
    monkeypatch.setattr(sampled_text, "_BLOCK", BLOCK)
    _, tokenizer = load_model(tiny_checkpoint)
    return lambda path, n: sample_text(None, tokenizer, PROMPTS, path, n_tokens=n, seed=3, report=lambda *_: None)


def test_it_stops_at_the_first_block_with_enough_tokens(sample, tmp_path: Path):
    sample(tmp_path / "text.jsonl", 300)
    documents = read_documents(tmp_path / "text.jsonl")
    sizes = [sum(len(one.token_ids) for one in documents[k : k + BLOCK]) for k in range(0, len(documents), BLOCK)]
    assert sum(sizes[:-1]) < 300 <= sum(sizes)
    assert all(len(one.token_ids) > one.first_counted >= 1 for one in documents), "empty replies too"
    assert len(set(Parrot.seeds)) == len(Parrot.seeds) == len(sizes)


@pytest.mark.parametrize("n_cut", [1, 50, 400])
def test_a_file_that_was_cut_off_becomes_what_it_would_have_been(sample, tmp_path: Path, n_cut: int):
    sample(tmp_path / "whole.jsonl", 400)
    whole = (tmp_path / "whole.jsonl").read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(whole[:-n_cut])
    sample(tmp_path / "cut.jsonl", 400)
    assert (tmp_path / "cut.jsonl").read_bytes() == whole


def test_enough_text_is_not_sampled_again(sample, tmp_path: Path):
    sample(tmp_path / "text.jsonl", 300)
    n_asked = len(Parrot.seeds)
    sample(tmp_path / "text.jsonl", 300)
    assert len(Parrot.seeds) == n_asked


def test_own_prompts_are_of_every_kind():
    prompts = own_prompts(POLICIES)
    assert len(prompts) > 1000 and all(prompts)
