"""What a root does on public evaluation sets and on ours, with 95% Clopper-Pearson intervals.

``python -m benchmarks.measure_root --model DIR --base DIR --data DIR --rows FILE --out FILE``

``--data`` holds the public sets (jailbreakbench, xstest, harmbench_val, tdc2023, self_instruct);
they are not part of this repository. Prompts near to a training row are removed and counted.
Greedy, 24 new tokens, scored by loop.scorers.refusal.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.near_duplicates import without_near_duplicates
from guards.ports import Decoding
from guards.statistics import bet_fraction, betting_lower_bound, clopper_pearson
from loop.checkpoint_io import load_model
from loop.engine import TransformersEngine
from loop.rows import read_rows
from loop.scorers.refusal import is_refusal
from loop.suites import draw_items, load_suite

SUITES = Path(__file__).resolve().parents[1] / "policies" / "suites"
N_NEW_TOKENS = 24


def prompt_sets(data: Path) -> dict[str, list[str]]:
    """Prompts by set. XSTest is split by its labels; of self-instruct, instructions that need no input."""
    xstest = _rows(data / "xstest" / "xstest_prompts.csv")
    own = {
        name: draw_items(load_suite(SUITES / f"{name}.yaml"), bytes(32))
        for name in ("refusal", "over_refusal", "ordinary")
    }
    return {
        "jailbreakbench": [row["Goal"] for row in _rows(data / "jailbreakbench" / "jailbreakbench.csv")],
        "harmbench_val": [
            row["Behavior"]
            for row in _rows(data / "harmbench_val" / "harmbench_val.csv")
            if row["FunctionalCategory"] == "standard"  # the others ask for song texts, or need a context
        ],
        "tdc2023": json.loads((data / "tdc2023" / "tdc2023_test_behaviors.json").read_text()),
        "xstest_unsafe": [row["prompt"] for row in xstest if row["label"] == "unsafe"],
        "xstest_safe": [row["prompt"] for row in xstest if row["label"] == "safe"],
        "self_instruct_seed": _self_instruct(data / "self_instruct" / "seed_tasks.jsonl"),
        "self_instruct_user": _self_instruct(data / "self_instruct" / "user_oriented_instructions.jsonl"),
        **{
            f"own_{name}": [item.messages[-1]["content"] for item in items if item.messages]
            for name, items in own.items()
        },
    }


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def _self_instruct(path: Path) -> list[str]:
    tasks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [task["instruction"] for task in tasks if not any(i.get("input") for i in task.get("instances", []))]


def refusals(engine: TransformersEngine, prompts: Sequence[str]) -> list[tuple[str, str, bool]]:
    """(prompt, output, refused) for each prompt."""
    outputs = engine.generate(
        [[{"role": "user", "content": prompt}] for prompt in prompts], Decoding(max_new_tokens=N_NEW_TOKENS), seed=0
    )
    return [(prompt, out[0].text, is_refusal(out[0].text)) for prompt, out in zip(prompts, outputs, strict=True)]


def loglik_by_passage(engine: TransformersEngine) -> list[float]:
    """Mean log-likelihood per token, in nats, of every passage of the language suite."""
    items = draw_items(load_suite(SUITES / "language.yaml"), bytes(32))
    return engine.loglik([pair for item in items for pair in item.loglik_pairs])


def main() -> None:
    """Measure and write one JSON file; outputs go beside it for labelling."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "base", "data", "rows", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    started_s = time.perf_counter()
    training = [row.prompt for row in read_rows(args.rows)]
    result: dict[str, object] = {}
    outputs: list[dict[str, object]] = []
    model, tokenizer = load_model(args.model)
    engine = TransformersEngine(model, tokenizer, max_rows=128)
    for name, prompts in prompt_sets(args.data).items():
        kept, removed = without_near_duplicates(prompts, training)
        answered = refusals(engine, kept)
        k = sum(refused for _, _, refused in answered)
        low, high = clopper_pearson(k, len(kept), 0.95)
        result[name] = {
            "n": len(kept),
            "near_duplicates_removed": len(removed),
            "refused": k,
            "rate": round(k / len(kept), 4),
            "interval_95": [round(low, 4), round(high, 4)],
        }
        outputs += [{"set": name, "prompt": p, "output": o, "refused": r} for p, o, r in answered]
        print(name, result[name], flush=True)
    root_loglik = loglik_by_passage(engine)
    base_model, base_tokenizer = load_model(args.base)
    base_loglik = loglik_by_passage(TransformersEngine(base_model, base_tokenizer, max_rows=128))
    differences = [max(-1.0, min(1.0, a - b)) for a, b in zip(root_loglik, base_loglik, strict=True)]
    result["language"] = {
        "n": len(differences),
        "base_mean_nats": round(sum(base_loglik) / len(base_loglik), 4),
        "root_mean_nats": round(sum(root_loglik) / len(root_loglik), 4),
        "difference_nats": round(sum(differences) / len(differences), 4),
        "betting_lower_bound_95": round(
            betting_lower_bound(differences, 0.05, bet_fraction(len(differences), -0.25, 0.05)), 4
        ),
    }
    print("language", result["language"])
    result["wall_s"] = round(time.perf_counter() - started_s, 1)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    args.out.with_suffix(".outputs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in outputs))


if __name__ == "__main__":
    main()
