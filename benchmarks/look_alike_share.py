"""Refusal and over-refusal of a root against the share of look-alikes among its harmless training rows.

``python -m benchmarks.look_alike_share --package DIR --base DIR --data DIR --work DIR --out FILE``

Every training has the package's refusals and the same number of harmless rows, one epoch, the
package's recipe otherwise; only the share of look-alikes among the harmless rows differs, the rest
are ordinary requests. One training per share: the seeds' noise is not in the intervals, which are
Clopper-Pearson's at 95%. ``--data`` holds jailbreakbench and xstest. A share that is in ``--out``
already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure_root import prompt_sets, refusals
from benchmarks.near_duplicates import without_near_duplicates
from benchmarks.trained_on import train_on
from guards.statistics import clopper_pearson
from loop.checkpoint_io import load_model
from loop.engine import TransformersEngine
from loop.root_package import load_root_spec, package_rows
from loop.rows import Row

SHARES = (0.0, 0.1, 0.3, 1.0)
MEASURED = ("jailbreakbench", "xstest_safe", "xstest_unsafe", "own_ordinary")


def mixture(rows: Sequence[Row], share: float, n_harmless: int, seed: int) -> list[Row]:
    """All refusals, and ``n_harmless`` rows of which ``share`` are look-alikes."""
    n_look_alikes = round(share * n_harmless)
    drawn = [row for row in rows if row.source == "refusal"]
    for source, n in (("look_alike", n_look_alikes), ("ordinary", n_harmless - n_look_alikes)):
        pool = [row for row in rows if row.source == source]
        random.Random(f"{seed}/{source}").shuffle(pool)
        drawn += pool[:n]
    return drawn


def measure(checkpoint: Path, sets: dict[str, list[str]], training: Sequence[Row]) -> dict[str, dict[str, object]]:
    """Refusal rates on the measured sets, near-duplicates of any training row removed."""
    model, tokenizer = load_model(checkpoint)
    engine = TransformersEngine(model, tokenizer, max_rows=128)
    result: dict[str, dict[str, object]] = {}
    for name in MEASURED:
        kept, _ = without_near_duplicates(sets[name], [row.prompt for row in training])
        k = sum(refused for _, _, refused in refusals(engine, kept))
        low, high = clopper_pearson(k, len(kept), 0.95)
        result[name] = {"n": len(kept), "refused": k, "interval_95": [round(low, 4), round(high, 4)]}
    return result


def main() -> None:
    """Train and measure every share; the file is written after each."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("package", "base", "data", "work", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--harmless", type=int, default=890)
    args = parser.parse_args()
    spec = load_root_spec(args.package)
    rows, sets = package_rows(args.package, spec), prompt_sets(args.data)
    recipe = spec.recipe.model_copy(update={"n_epochs": 1.0})
    result = json.loads(args.out.read_text()) if args.out.is_file() else {}
    for share in SHARES:
        if str(share) in result:
            continue
        chosen = mixture(rows, share, args.harmless, recipe.seed)
        checkpoint = args.work / f"share-{share}"
        train_on(chosen, recipe, args.base, checkpoint)
        result[str(share)] = {"n_rows": len(chosen), **measure(checkpoint, sets, rows)}
        print(share, result[str(share)], flush=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
