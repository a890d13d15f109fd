"""Contrast files for tests: made of nonsense words, so that no two texts are alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from probes.contrast_prompts import MIN_PAIRS, ContrastPair


def contrast_lines(
    *, concept: str = "mood", n_pairs: int = MIN_PAIRS, with_prompt: bool = True
) -> list[dict[str, Any]]:
    """``n_pairs`` of each split, fit first."""
    return [
        {
            "id": f"{concept}-{split.replace('_', '-')}-{number}",
            "split": split,
            "prompt": f"{concept} {split} question {number}?" if with_prompt else None,
            "positive": f"{concept} {split} yes {number}.",
            "negative": f"{concept} {split} no {number}.",
        }
        for split in ("fit", "held_out")
        for number in range(n_pairs)
    ]


def write_contrasts(directory: Path, lines: list[dict[str, Any]], *, concept: str = "mood") -> Path:
    path = directory / f"{concept}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def contrast_pairs(**options: Any) -> list[ContrastPair]:
    return [ContrastPair.model_validate(line) for line in contrast_lines(**options)]
