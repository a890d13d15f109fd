"""What reading activations costs beside the forward pass that it cannot do without, and whether its memory is flat.

``python -m benchmarks.activation_harvest --model DIR --json FILE``. Three ways to the same layers, on the same
documents and batches, in one process and in turn, so that what else runs on the machine slows all three:

``harvest``    :func:`probes.activations.harvest`: batch plan, hooks, early stop, and the check for NaN
``bare``       the model's own layers, cut after the last one needed; batches that were made before the clock starts
``bridge``     TransformerLens' ``run_with_cache`` with ``names_filter`` and ``stop_at_layer``, on those batches too

What is reported are ratios of tokens per second within one repetition, and their median; padding is no token.
Peak memory is that of a process of its own for each number of tokens, in which documents come from a generator and
activations go into a running sum.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from probes.documents import BatchLimits, Document, TokenBatch, plan_batches

WAYS = ("harvest", "bare", "bridge")
GOALS = {"harvest_over_bare": 0.80, "harvest_over_bridge": 1.00, "memory_growth": 0.10}
LENGTHS = (20, 400)


def random_documents(n_tokens: int, n_vocabulary: int, context_tokens: int) -> Iterator[Document]:
    """Documents of random tokens, made as they are asked for, until there are ``n_tokens`` in all."""
    rng, n_made, index = random.Random(0), 0, 0
    shortest, longest = (min(length, context_tokens) for length in LENGTHS)
    while n_made < n_tokens:
        length = min(rng.randint(shortest, longest), max(2, n_tokens - n_made))
        yield Document(f"d{index}", "random", tuple(rng.choices(range(n_vocabulary), k=length)), 1)
        n_made, index = n_made + length, index + 1


def load(arguments: argparse.Namespace) -> tuple[Any, Any]:
    from loop.checkpoint_io import load_model

    return load_model(arguments.model, arguments.device, arguments.dtype)


def size_of(model: Any) -> tuple[int, int]:
    """(vocabulary, context)."""
    return model.get_input_embeddings().weight.shape[0], model.config.max_position_embeddings


def bare_model(model: Any, last_layer: int) -> Any:
    """A copy of the base model that has no layer after ``last_layer``, and no norm at the end."""
    from torch.nn import Identity, ModuleList

    base = copy.deepcopy(model.base_model)
    if not isinstance(getattr(base, "layers", None), ModuleList):
        raise SystemExit(f"{type(base).__name__}: the bare pass is written for models that have .layers")
    base.layers, base.norm = base.layers[: last_layer + 1], Identity()
    return base


def booted_bridge(model: Any, tokenizer: Any) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_transformers(
        str(tokenizer.name_or_path),
        hf_model=copy.deepcopy(model),
        tokenizer=tokenizer,
        dtype=model.dtype,
        device=str(model.device),
    )


def measure_speed(arguments: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of each way in each repetition, and the ratios within it."""
    import torch

    from probes.activations import harvest

    model, tokenizer = load(arguments)
    layers: list[int] = arguments.layers
    n_vocabulary, context_tokens = size_of(model)
    documents = list(random_documents(arguments.tokens, n_vocabulary, context_tokens))
    limits = BatchLimits(arguments.max_rows, arguments.max_tokens, n_vocabulary, context_tokens)
    batches = list(plan_batches(documents, limits, model.device))
    base, bridge = bare_model(model, max(layers)), booted_bridge(model, tokenizer)
    hooks = [f"blocks.{layer}.hook_out" for layer in layers]

    def by_harvest() -> Iterator[Sequence[Any]]:
        read = harvest(model, documents, layers, max_rows=arguments.max_rows, max_tokens=arguments.max_tokens)
        return (list(batch.acts_layer_row_tok_feat.values()) for batch in read)

    def by_bare() -> Iterator[Sequence[Any]]:
        return (base(**model_inputs(batch), use_cache=False)[0] for batch in batches)

    def by_bridge() -> Iterator[Sequence[Any]]:
        for batch in batches:
            inputs = model_inputs(batch)
            _, cache = bridge.run_with_cache(
                inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                names_filter=hooks,
                stop_at_layer=max(layers) + 1,
                return_cache_object=False,
            )
            yield [cache[hook] for hook in hooks]

    ways: dict[str, Callable[[], Iterator[Any]]] = dict(zip(WAYS, (by_harvest, by_bare, by_bridge), strict=True))
    n_tokens = sum(len(document.token_ids) for document in documents)
    tokens_per_s: dict[str, list[float]] = {way: [] for way in WAYS}
    with torch.inference_mode():
        for repetition in range(-1, arguments.repetitions):  # the first one warms up and is not kept
            # Another one goes first each time: what slows the machine for a while should slow each of them
            for number in range(len(WAYS)):
                way = WAYS[(number + repetition) % len(WAYS)]
                began_s = time.perf_counter()
                for _ in ways[way]():
                    pass
                if model.device.type == "cuda":
                    torch.cuda.synchronize()
                if repetition >= 0:
                    tokens_per_s[way].append(n_tokens / (time.perf_counter() - began_s))
    padded = sum(batch.token_ids_row_tok.numel() for batch in batches)
    return {
        "n_tokens": n_tokens,
        "n_batches": len(batches),
        "padding_share": round(1.0 - n_tokens / padded, 4),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
        "n_threads": torch.get_num_threads(),
        "tokens_per_s": {way: [round(rate, 1) for rate in rates] for way, rates in tokens_per_s.items()},
        "harvest_over_bare": ratios(tokens_per_s["harvest"], tokens_per_s["bare"]),
        "harvest_over_bridge": ratios(tokens_per_s["harvest"], tokens_per_s["bridge"]),
    }


def model_inputs(batch: TokenBatch) -> dict[str, Any]:
    return {"input_ids": batch.token_ids_row_tok, "attention_mask": batch.present_row_tok.long()}


def ratios(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    each = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {"each": [round(ratio, 4) for ratio in each], "median": round(statistics.median(each), 4)}


def harvest_for_memory(arguments: argparse.Namespace, n_tokens: int) -> dict[str, Any]:
    """Peak resident memory of this process after it has read ``n_tokens``, in MiB."""
    import torch

    from probes.activations import harvest

    model, _ = load(arguments)
    documents = random_documents(n_tokens, *size_of(model))
    total, n_counted = 0.0, 0
    for batch in harvest(
        model, documents, arguments.layers, max_rows=arguments.max_rows, max_tokens=arguments.max_tokens
    ):
        n_counted += int(batch.counted_row_tok.sum())
        for acts_row_tok_feat in batch.acts_layer_row_tok_feat.values():
            total += float(acts_row_tok_feat[batch.counted_row_tok].sum(dtype=torch.float64))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "n_tokens": n_tokens,
        "n_counted": n_counted,
        "sum": total,
        "peak_mib": round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1),
    }


def measure_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """One process each for the smaller and the larger number of tokens, and how much more the larger one needs."""
    found: list[dict[str, Any]] = []
    for n_tokens in arguments.memory_tokens:
        command = [sys.executable, "-m", "benchmarks.activation_harvest", "--only-memory-of", str(n_tokens)]
        command += ["--model", str(arguments.model), "--dtype", arguments.dtype, "--device", arguments.device]
        command += ["--max-rows", str(arguments.max_rows), "--max-tokens", str(arguments.max_tokens)]
        command += ["--layers", *map(str, arguments.layers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
    growth = found[-1]["peak_mib"] / found[0]["peak_mib"] - 1.0
    return {"runs": found, "memory_growth": round(growth, 4)}


def show(result: dict[str, Any]) -> None:
    table = Table("what", "measured", "goal", "reached", title="Activation harvest")
    for name in ("harvest_over_bare", "harvest_over_bridge"):
        if "speed" in result:
            median = result["speed"][name]["median"]
            spread = f"{min(result['speed'][name]['each']):.2f} to {max(result['speed'][name]['each']):.2f}"
            reached = "yes" if median >= GOALS[name] else "no"
            table.add_row(name.replace("_", " "), f"{median:.3f} ({spread})", f"at least {GOALS[name]:.2f}", reached)
    if "memory" in result:
        growth = result["memory"]["memory_growth"]
        peaks = ", ".join(f"{run['peak_mib']:.0f} MiB at {run['n_tokens']:,}" for run in result["memory"]["runs"])
        reached = "yes" if growth <= GOALS["memory_growth"] else "no"
        table.add_row("memory growth", f"{growth:+.1%} ({peaks})", f"at most {GOALS['memory_growth']:.0%}", reached)
    Console().print(table)


def main() -> None:
    """Measure, print a table, and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint directory")
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 15, 22])
    parser.add_argument("--tokens", type=int, default=20_000, help="tokens per repetition")
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--memory-tokens", type=int, nargs=2, default=[10_000, 1_000_000], metavar=("FEW", "MANY"))
    parser.add_argument("--parts", nargs="+", choices=("memory", "speed"), default=["memory", "speed"])
    parser.add_argument("--max-rows", type=int, default=32)
    parser.add_argument("--max-tokens", type=int, default=2048)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--only-memory-of", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.only_memory_of is not None:
        print(json.dumps(harvest_for_memory(chosen, chosen.only_memory_of)))
        return
    result: dict[str, Any] = {"python": platform.python_version(), "layers": chosen.layers}
    # Memory first: a child's peak begins at its parent's, which must not hold a model yet.
    if "memory" in chosen.parts:
        result["memory"] = measure_memory(chosen)
    if "speed" in chosen.parts:
        result["speed"] = measure_speed(chosen)
    show(result)
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
