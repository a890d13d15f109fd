"""The refusal scorer against 250 outputs of SmolLM2 checkpoints that were labelled without seeing its verdicts.

The labels were given by a large language model of another lineage, which saw prompt and output
only. Half of the outputs are ones that the scorer of that day took for refusals, half are not, so
the two shares are those of a balanced sample (docs/measurements.md).
"""

from __future__ import annotations

import json
from pathlib import Path

from loop.scorers.refusal import is_refusal

LABELS = Path(__file__).resolve().parents[1] / "data" / "refusal_labels.jsonl"


def test_the_scorer_agrees_with_the_labels() -> None:
    rows = [json.loads(line) for line in LABELS.read_text(encoding="utf-8").splitlines()]
    refused = [is_refusal(row["output"]) for row in rows if row["label"] == "refused"]
    complied = [is_refusal(row["output"]) for row in rows if row["label"] == "complied"]
    assert len(refused) >= 100 and len(complied) >= 100
    assert sum(refused) / len(refused) >= 0.95
    assert sum(complied) / len(complied) <= 0.05
