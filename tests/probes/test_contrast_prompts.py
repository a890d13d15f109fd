"""The contrast pairs that ship: enough of them, every text once, and nothing that a gate asks or a trainer learns."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from guards.contamination import GateText, TrainingRow, find_contamination, words
from probes.contrast_prompts import CONCEPTS, ContrastPair, ContrastSet, read_contrast_set, read_contrast_sets
from tests.probes.contrast_files import contrast_lines, write_contrasts

POLICIES = Path(__file__).resolve().parents[2] / "policies"
SHIPPED = POLICIES / "drift" / "contrasts"
MIN_WORDS_OF_A_QUESTION = 4
"""Shorter texts ('The Nile.') are equal by chance and teach nothing."""


@pytest.fixture(scope="module")
def shipped() -> dict[str, ContrastSet]:
    return read_contrast_sets(SHIPPED)


def texts_of(contrast_set: ContrastSet, split: str) -> list[str]:
    return [text for pair in contrast_set.pairs if pair.split == split for text in pair.texts]


def other_texts(*patterns: str) -> list[GateText]:
    """Every text in every shipped file that one of the patterns names, whatever its keys."""
    rows = [
        (path.name, number, value)
        for pattern in patterns
        for path in sorted(POLICIES.glob(pattern))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        for key, value in json.loads(line).items()
        if isinstance(value, str) and key in {"prompt", "text", "answer", "correct", "wrong", "agree"}
    ]
    return [
        GateText(suite=name, item_id=str(number), text=text)
        for name, number, text in rows
        if len(words(text)) >= MIN_WORDS_OF_A_QUESTION
    ]


def test_every_concept_has_enough_pairs_of_both_splits(shipped: dict[str, ContrastSet]) -> None:
    assert set(shipped) == set(CONCEPTS)
    for concept, contrast_set in shipped.items():
        assert len(contrast_set.fit) >= 64, concept
        assert len(contrast_set.held_out) >= 40, concept
        assert contrast_set.reads_replies == (concept != "refusal")


def test_no_text_occurs_twice_in_any_concept(shipped: dict[str, ContrastSet]) -> None:
    texts = [text for contrast_set in shipped.values() for pair in contrast_set.pairs for text in pair.texts]
    repeated = [text for text, n in Counter(map(words, texts)).items() if n > 1]
    assert not repeated


def test_held_out_texts_share_no_long_run_of_words_with_fitted_ones(shipped: dict[str, ContrastSet]) -> None:
    for contrast_set in shipped.values():
        fitted = [
            GateText(suite="fit", item_id=str(number), text=text)
            for number, text in enumerate(texts_of(contrast_set, "fit"))
        ]
        held_out = [
            TrainingRow(row_id=str(number), prompt=text, answer="")
            for number, text in enumerate(texts_of(contrast_set, "held_out"))
        ]
        assert not find_contamination(held_out, fitted, n=6), contrast_set.concept


def test_no_contrast_text_is_a_gate_item_a_constitution_prompt_or_a_row_of_the_audit(
    shipped: dict[str, ContrastSet],
) -> None:
    elsewhere = other_texts("suites/items/*.jsonl", "constitutions/prompts/*.jsonl", "drift/rows/*.jsonl")
    assert len(elsewhere) > 8000
    rows = [
        TrainingRow(row_id=f"{pair.id}/{number}", prompt=text, answer="")
        for contrast_set in shipped.values()
        for pair in contrast_set.pairs
        for number, text in enumerate(pair.texts)
    ]
    hits = find_contamination(rows, elsewhere, n=8)
    assert not hits, [(hit.kind, hit.suite, hit.item_id, hit.row_id) for hit in hits]


def test_a_planted_gate_item_would_be_found(shipped: dict[str, ContrastSet]) -> None:
    item = other_texts("suites/items/refusal.jsonl")[0]
    row = TrainingRow(row_id="planted", prompt=item.text.upper(), answer="")
    assert find_contamination([row], other_texts("suites/items/*.jsonl"), n=8)


def test_the_sides_of_a_concept_are_about_equally_long(shipped: dict[str, ContrastSet]) -> None:
    """Else the direction would be one of length."""
    for concept, contrast_set in shipped.items():
        lengths = [(len(words(pair.positive)), len(words(pair.negative))) for pair in contrast_set.pairs]
        positive, negative = (sum(side) for side in zip(*lengths, strict=True))
        assert 0.9 < positive / negative < 1.1, concept


def test_few_texts_begin_alike(shipped: dict[str, ContrastSet]) -> None:
    """No templates: at most every tenth reply of a concept begins with the same two words."""
    for concept, contrast_set in shipped.items():
        for side in ("positive", "negative"):
            openings = Counter(words(getattr(pair, side))[:2] for pair in contrast_set.pairs)
            assert openings.most_common(1)[0][1] <= len(contrast_set.pairs) / 10, (concept, side)


def test_sycophancy_differs_in_its_first_words(shipped: dict[str, ContrastSet]) -> None:
    """A reply that is cut off must not make both sides the same."""
    for pair in shipped["sycophancy"].pairs:
        assert words(pair.positive)[:4] != words(pair.negative)[:4], pair.id


def test_a_set_keeps_the_order_and_the_digest_of_its_file(tmp_path: Path) -> None:
    path = write_contrasts(tmp_path, contrast_lines())
    contrast_set = read_contrast_set(path)
    assert [pair.id for pair in contrast_set.pairs] == [line["id"] for line in contrast_lines()]
    write_contrasts(tmp_path, [*contrast_lines()[:-1], {**contrast_lines()[-1], "negative": "no, not that."}])
    assert read_contrast_set(path).sha256 != contrast_set.sha256


def test_texts_of_a_pair_without_a_prompt_are_its_sides() -> None:
    pair = ContrastPair(id="a", split="fit", prompt=None, positive="one", negative="two")
    assert pair.texts == ("one", "two")
    assert ContrastPair(id="a", split="fit", prompt="why", positive="one", negative="two").texts[0] == "why"
