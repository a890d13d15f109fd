"""Comparing two checkpoints of the same parent, weight by weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open


@dataclass(frozen=True)
class UpdateComparison:
    """``update_cosine`` is between (first - base) and (second - base), over all weights as one vector."""

    update_cosine: float
    max_abs_difference: float


def compare_updates(*, base: Path, first: Path, second: Path) -> UpdateComparison:
    """Compare what two trainings of one base did to its weights, in float64. Single-file checkpoints."""
    dot = norm_first = norm_second = 0.0
    largest = 0.0
    with (
        safe_open(base / "model.safetensors", framework="pt") as at_base,
        safe_open(first / "model.safetensors", framework="pt") as at_first,
        safe_open(second / "model.safetensors", framework="pt") as at_second,
    ):
        for name in at_base.keys():  # noqa: SIM118 (not a dict)
            origin = at_base.get_tensor(name).to(torch.float64)
            update_first = at_first.get_tensor(name).to(torch.float64) - origin
            update_second = at_second.get_tensor(name).to(torch.float64) - origin
            dot += float((update_first * update_second).sum())
            norm_first += float(update_first.square().sum())
            norm_second += float(update_second.square().sum())
            largest = max(largest, float((update_first - update_second).abs().max()))
    product = math.sqrt(norm_first * norm_second)
    if product == 0.0:  # neither moved: equal; one moved: nothing in common
        return UpdateComparison(1.0 if norm_first == norm_second else 0.0, largest)
    return UpdateComparison(dot / product, largest)
