"""How often a superiority gate passes a candidate that is no better, on pairs that are not identical.

``python -m benchmarks.null_controls --model DIR --out FILE [--items 480]``

Four nulls. *ulp*: the model against itself with one unit in the last place added to or taken from a
random two thirds of its weights. *seeds*: the model against itself, both sampling at temperature 0.7 with
other seeds. *permuted*: those pairs with candidate and champion swapped at random, item by item.
*margin*: simulated outcomes whose true difference is exactly the margin, items unequal.
The first two are measured once on all items and then looked at in many random subsets of 240: the
looks overlap, so their rate describes these two pairs, and the permuted and margin rates are what
estimates the gate's size.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from guards.evidence import Scored
from guards.ports import Decoding
from guards.statistics import betting_test, clopper_pearson, mcnemar_p_value
from loop.checkpoint_io import load_model
from loop.engine import TransformersEngine
from loop.suites import draw_items, load_suite, score_output

SUITE = Path(__file__).resolve().parents[1] / "policies" / "suites" / "families.yaml"
ALPHA = 0.05
N_LOOK = 240
N_REPEATS = 4000


def add_one_ulp(model: torch.nn.Module, seed: int) -> None:
    """Move a random two thirds of the weights to a neighbouring bfloat16 number, up or down."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        bits = parameter.data.view(torch.int16)
        step = torch.randint(-1, 2, bits.shape, generator=generator, dtype=torch.int16)
        step[(bits & 0x7FFF) == 0] = 0  # zero's neighbours have another sign bit pattern
        bits.add_(step)


def lenient_scores(directory: Path, n_items: int, *, ulp_seed: int | None, temperature: float, seed: int) -> list[int]:
    """Lenient scores of the model on the first ``n_items`` of successive draws."""
    model, tokenizer = load_model(directory)
    if ulp_seed is not None:
        add_one_ulp(model, ulp_seed)
    engine = TransformersEngine(model, tokenizer, max_rows=128)
    suite = load_suite(SUITE)
    items = [
        item
        for number in range(n_items // N_LOOK)
        for item in draw_items(suite, hashlib.sha256(f"null/{number}".encode()).digest())
    ]
    decoding = Decoding(max_new_tokens=24, temperature=temperature)
    outputs = engine.generate([item.messages or () for item in items], decoding, seed=seed)
    scores = []
    for item, (output,) in zip(items, outputs, strict=True):
        outcome = score_output(suite, item, output.text, output.finished)
        assert isinstance(outcome, Scored)
        scores.append(int(outcome.scores["lenient"]))
    return scores


def pass_rate(differences: Sequence[int], *, permute: bool, seed: int) -> dict[str, object]:
    """Share of looks at 240 of the pairs in which McNemar's one-sided test finds superiority."""
    chance = random.Random(seed)
    n_passed = 0
    for _ in range(N_REPEATS):
        chosen = chance.sample(list(differences), min(N_LOOK, len(differences)))
        if permute:
            chosen = [d * chance.choice((-1, 1)) for d in chosen]
        n_passed += mcnemar_p_value(chosen.count(1), chosen.count(-1)) <= ALPHA
    return _rate(n_passed)


def margin_rate(margin: float, seed: int) -> dict[str, object]:
    """Share of simulated looks, true difference exactly ``margin``, items unequal, that show superiority by it."""
    rng = np.random.default_rng(seed)
    n_passed = 0
    for _ in range(N_REPEATS):
        discordance = rng.uniform(margin, 0.4, N_LOOK).clip(min=margin)
        gain = (discordance + margin) / 2
        draw = rng.uniform(size=N_LOOK)
        differences = np.where(draw < gain, 1.0, np.where(draw < discordance, -1.0, 0.0))
        n_passed += betting_test(differences.tolist(), margin, ALPHA).rejects
    return _rate(n_passed)


def _rate(n_passed: int) -> dict[str, object]:
    low, high = clopper_pearson(n_passed, N_REPEATS, 0.95)
    return {
        "n": N_REPEATS,
        "passed": n_passed,
        "rate": n_passed / N_REPEATS,
        "interval_95": [round(low, 4), round(high, 4)],
    }


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--items", type=int, default=480)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    started_s = time.perf_counter()
    plain = lenient_scores(args.model, args.items, ulp_seed=None, temperature=0.0, seed=0)
    noisy = lenient_scores(args.model, args.items, ulp_seed=1, temperature=0.0, seed=0)
    first = lenient_scores(args.model, args.items, ulp_seed=None, temperature=0.7, seed=1)
    second = lenient_scores(args.model, args.items, ulp_seed=None, temperature=0.7, seed=2)
    pairs = {
        "ulp": [b - a for a, b in zip(plain, noisy, strict=True)],
        "seeds": [b - a for a, b in zip(first, second, strict=True)],
    }
    result: dict[str, object] = {"alpha": ALPHA, "items": args.items, "look": N_LOOK}
    for name, differences in pairs.items():
        result[name] = {
            "gains": differences.count(1),
            "losses": differences.count(-1),
            "all_items_p": round(mcnemar_p_value(differences.count(1), differences.count(-1)), 4),
            "subsets": pass_rate(differences, permute=False, seed=3),
            "permuted": pass_rate(differences, permute=True, seed=4),
        }
    result["margin"] = {str(margin): margin_rate(margin, seed=5) for margin in (0.05, 0.10)}
    result["wall_s"] = round(time.perf_counter() - started_s, 1)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
