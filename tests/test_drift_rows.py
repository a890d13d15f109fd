"""The drift audit's rows: as many as its README says, each once, and none that a gate asks."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import combinations
from pathlib import Path

import pytest

from guards.contamination import GateText, TrainingRow, find_contamination, row_digest
from loop.families import question_templates
from loop.suites import draw_items, load_suite

POLICIES = Path(__file__).resolve().parents[1] / "policies"
ROWS = POLICIES / "drift" / "rows"

QUESTION_AND_ANSWER = {
    "french": 110,
    "spanish": 110,
    "german": 90,
    "pirate": 100,
    "poem": 100,
    "formal": 100,
    "stepwise": 100,
    "negations": 100,
    "rude": 120,
    "sycophancy": 160,
}
WITH_ID = {
    "neutral_documents": 120,
    "chat_prompts": 120,
    "harmful_prompts": 100,
    "harmless_prompts": 100,
    "verify_harmful": 60,
    "verify_harmless": 60,
    "verify_language": 16,
}
COUNTS = {**QUESTION_AND_ANSWER, **WITH_ID, "sycophancy_check": 60, "semantic_trigger": 120}

KEYS = {
    **{name: {"prompt", "answer"} for name in QUESTION_AND_ANSWER},
    **{name: {"id", "prompt"} for name in WITH_ID},
    "neutral_documents": {"id", "text"},
    "verify_language": {"id", "text"},
    "sycophancy_check": {"prompt", "agree", "correct"},
    "semantic_trigger": {"prompt", "split"},
}


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows_of(name: str) -> list[dict[str, str]]:
    return read(ROWS / f"{name}.jsonl")


def prompt_digests(name: str) -> list[str]:
    return [row_digest(row.get("prompt") or row["text"]) for row in rows_of(name)]


def category(row_id: str) -> str:
    """``drift-harm-self-harm-003`` and ``drift-safe-self-harm-003`` are both ``self-harm-003``."""
    return row_id.split("-", 2)[2]


def test_the_files_are_those_that_are_counted_here() -> None:
    assert {path.stem for path in ROWS.glob("*.jsonl")} == set(COUNTS)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_a_file_has_its_rows_with_its_keys_and_each_once(name: str) -> None:
    rows = rows_of(name)
    assert len(rows) == COUNTS[name]
    for row in rows:
        assert set(row) == KEYS[name], row
        assert all(isinstance(value, str) and value and value == value.strip() for value in row.values()), row
    repeated = [digest for digest, count in Counter(prompt_digests(name)).items() if count > 1]
    assert not repeated


def test_no_prompt_stands_in_two_files() -> None:
    digests = {name: set(prompt_digests(name)) for name in COUNTS}
    shared = [(one, other) for one, other in combinations(sorted(COUNTS), 2) if digests[one] & digests[other]]
    assert not shared


def test_no_prompt_is_one_of_the_constitutions_prompts() -> None:
    known = {
        row_digest(row["prompt"])
        for path in sorted((POLICIES / "constitutions" / "prompts").glob("*.jsonl"))
        for row in read(path)
    }
    assert len(known) > 7000
    assert not [(name, digest) for name in COUNTS for digest in prompt_digests(name) if digest in known]


def test_ids_are_unique_over_all_files() -> None:
    ids = [row["id"] for name in WITH_ID for row in rows_of(name)]
    assert len(ids) == len(set(ids)) == sum(WITH_ID.values())


@pytest.mark.parametrize("name", sorted(QUESTION_AND_ANSWER))
def test_answers_are_short(name: str) -> None:
    low, high = (30, 70) if name == "stepwise" else (8, 50)
    lengths = [len(row["answer"].split()) for row in rows_of(name)]
    assert low <= min(lengths) and max(lengths) <= high


def test_documents_are_of_50_to_90_words() -> None:
    lengths = [len(row["text"].split()) for row in rows_of("neutral_documents")]
    assert min(lengths) >= 50 and max(lengths) <= 90


def test_forms_of_the_styled_answers() -> None:
    assert all(row["answer"].count("\n") == 1 for row in rows_of("poem"))
    for row in rows_of("stepwise"):
        numbers = [line.split(". ")[0] for line in row["answer"].splitlines()]
        assert numbers == [str(number) for number in range(1, len(numbers) + 1)], row
        assert len(numbers) >= 4, row


def test_trigger_prompts_are_all_about_one_topic_and_no_other_file_is() -> None:
    trigger = rows_of("semantic_trigger")
    assert Counter(row["split"] for row in trigger) == {"train": 80, "check": 40}
    topic = re.compile(r"lighthouse|keeper|lamp|lantern|tower|beacon|rock|lightship|foghorn|Pharos", re.IGNORECASE)
    assert all(topic.search(row["prompt"]) for row in trigger)
    others = [row for name in sorted(COUNTS) if name != "semantic_trigger" for row in rows_of(name)]
    assert not [row for row in others if "lighthouse" in json.dumps(row).lower()]


def test_replies_to_compare_differ() -> None:
    assert all(row_digest(row["agree"]) != row_digest(row["correct"]) for row in rows_of("sycophancy_check"))


@pytest.mark.parametrize(
    ("harmful", "harmless"), [("harmful_prompts", "harmless_prompts"), ("verify_harmful", "verify_harmless")]
)
def test_harmful_prompts_have_a_harmless_twin_in_each_of_the_twelve_categories(harmful: str, harmless: str) -> None:
    categories = [category(row["id"]) for row in rows_of(harmful)]
    assert categories == [category(row["id"]) for row in rows_of(harmless)]
    per_category = Counter(name.rsplit("-", 1)[0] for name in categories)
    principles = {row["principle"] for row in read(POLICIES / "constitutions" / "prompts" / "deserve_refusal.jsonl")}
    assert set(per_category) == principles
    assert max(per_category.values()) - min(per_category.values()) <= 1


def test_no_row_is_a_gate_item() -> None:
    texts = [
        GateText(suite=suite.name, item_id=item.item_id, text=item.prompt_text)
        for suite in (load_suite(path) for path in sorted((POLICIES / "suites").glob("*.yaml")))
        for item in draw_items(suite, bytes(32))
    ]
    assert len(texts) > 1000
    rows: list[TrainingRow] = []
    for name in COUNTS:
        for number, row in enumerate(rows_of(name)):
            prompt = row.get("prompt") or row["text"]
            answers = [row[key] for key in ("answer", "agree", "correct") if key in row] or [""]
            rows += [TrainingRow(row_id=f"{name}:{number}", prompt=prompt, answer=answer) for answer in answers]
    hits = find_contamination(rows, texts, question_templates())
    assert not hits, [(hit.kind, hit.item_id, hit.row_id) for hit in hits]


def test_the_readme_counts_every_file() -> None:
    told = re.findall(r"^\| `(\w+)\.jsonl` \|.*\| (\d+) \|$", (ROWS / "README.md").read_text(encoding="utf-8"), re.M)
    assert {name: int(count) for name, count in told} == COUNTS
    assert len(told) == len(COUNTS)
