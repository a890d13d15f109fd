"""What an improvement cycle brought, on items that no decision has used, with paired intervals.

``python -m benchmarks.measure_cycle --model root=DIR --model candidate=DIR ... --reference root --out FILE``;
``--reference`` may be repeated.

Every model answers the same fresh draws of the families, refusal and over-refusal suites.
Differences to the reference are paired; intervals are Tango's at 95%, for people.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from guards.evidence import Scored
from guards.statistics import clopper_pearson, tango_interval
from loop.checkpoint_io import load_model
from loop.engine import TransformersEngine
from loop.suites import draw_items, load_suite, score_output

SUITES = Path(__file__).resolve().parents[1] / "policies" / "suites"
MEASURED = {"families": ("strict", "lenient", "format"), "refusal": ("refused",), "over_refusal": ("answered",)}

Scores = dict[str, dict[str, dict[str, int]]]
"""suite/cluster -> metric -> item -> 0 or 1."""


def answer(directory: Path, suites: Sequence[str], n_draws: int, seed: str) -> Scores:
    """Scores of one model on ``n_draws`` draws of the families, and on one of the others."""
    model, tokenizer = load_model(directory)
    engine = TransformersEngine(model, tokenizer, max_rows=128)
    scores: Scores = defaultdict(lambda: defaultdict(dict))
    for name in suites:
        metrics = MEASURED[name]
        suite = load_suite(SUITES / f"{name}.yaml")
        for number in range(n_draws if name == "families" else 1):
            items = draw_items(suite, hashlib.sha256(f"{seed}/{number}".encode()).digest())
            assert suite.decoding is not None
            outputs = engine.generate([item.messages or () for item in items], suite.decoding, seed=0)
            for item, (output,) in zip(items, outputs, strict=True):
                outcome = score_output(suite, item, output.text, output.finished)
                assert isinstance(outcome, Scored)
                for metric in metrics:
                    for group in (name, f"{name}/{item.tags.get('family', 'all')}"):
                        scores[group][metric][item.item_id] = int(outcome.scores[metric])
    return scores


def compare(scores: Scores, reference: Scores) -> dict[str, dict[str, dict[str, object]]]:
    """Rate with its interval, and the paired difference to the reference with its interval."""
    result: dict[str, dict[str, dict[str, object]]] = {}
    for group, by_metric in scores.items():
        result[group] = {}
        for metric, items in by_metric.items():
            n, k = len(items), sum(items.values())
            other = reference[group][metric]
            gains = sum(value > other[item] for item, value in items.items())
            losses = sum(value < other[item] for item, value in items.items())
            result[group][metric] = {
                "n": n,
                "rate": round(k / n, 4),
                "interval_95": [round(v, 4) for v in clopper_pearson(k, n, 0.95)],
                "difference": round((gains - losses) / n, 4),
                "difference_interval_95": [round(v, 4) for v in tango_interval(gains, losses, n, 0.95)],
            }
    return result


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--reference", action="append", required=True)
    parser.add_argument("--suites", nargs="+", choices=list(MEASURED), default=list(MEASURED))
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--seed", default="measure-cycle-1")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    directories = {name: Path(path) for name, _, path in (entry.partition("=") for entry in args.model)}
    started_s = time.perf_counter()
    scores = {name: answer(path, args.suites, args.draws, args.seed) for name, path in directories.items()}
    result = {
        reference: {name: compare(own, scores[reference]) for name, own in scores.items()}
        for reference in args.reference
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    for reference, by_name in result.items():
        for name, groups in by_name.items():
            for group, metrics in groups.items():
                for metric, figures in metrics.items():
                    print(f"{name:12} against {reference:12} {group:24} {metric:9} {figures}")
    print(f"wall_s {time.perf_counter() - started_s:.1f}")


if __name__ == "__main__":
    main()
