"""What ships must not train on what it gates with: the contamination gate's own check, over all shipped files."""

from __future__ import annotations

import json
from pathlib import Path

from guards.contamination import GateText, TrainingRow, find_contamination
from loop.families import question_templates
from loop.suites import draw_items, load_suite

POLICIES = Path(__file__).resolve().parents[1] / "policies"


def training_rows() -> list[TrainingRow]:
    prompts = [
        json.loads(line)
        for path in sorted((POLICIES / "constitutions" / "prompts").glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return [TrainingRow(row_id=row["id"], prompt=row["prompt"], answer="") for row in prompts]


def test_no_training_prompt_is_a_gate_item() -> None:
    texts = [
        GateText(suite=suite.name, item_id=item.item_id, text=item.prompt_text)
        for suite in (load_suite(path) for path in sorted((POLICIES / "suites").glob("*.yaml")))
        for item in draw_items(suite, bytes(32))
    ]
    assert len(texts) > 1000
    hits = find_contamination(training_rows(), texts, question_templates())
    assert not hits, [(hit.kind, hit.item_id, hit.row_id) for hit in hits]
