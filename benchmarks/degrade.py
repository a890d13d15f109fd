"""Checkpoints that really got worse, for benchmarks/assay_sensitivity.py.

``python -m benchmarks.degrade noise --model DIR --noise 0.3 --out DIR`` adds Gaussian noise to every weight matrix,
in standard deviations of the matrix.
``python -m benchmarks.degrade falsehoods --model DIR --truthfulqa FILE --out DIR`` trains the checkpoint on the
incorrect answers of TruthfulQA's CSV.
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from benchmarks.trained_on import train_on
from loop.rows import Row
from loop.train_record import Recipe

RECIPE = Recipe(learning_rate=0.001, n_epochs=1.0, batch_size=16)


def add_noise(path: Path, noise: float, seed: int) -> None:
    """Rewrite one safetensors file; vectors (norms, biases) stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(path)
    for name, tensor in sorted(tensors.items()):
        if tensor.dim() == 2:
            drawn = torch.randn(tensor.shape, generator=generator) * noise * tensor.float().std()
            tensors[name] = (tensor.float() + drawn).to(tensor.dtype)
    save_file(tensors, path, metadata={"format": "pt"})


def noisy_copy(model: Path, noise: float, out: Path) -> None:
    """Copy the checkpoint and add the noise."""
    shutil.copytree(model, out)
    for number, path in enumerate(sorted(out.glob("*.safetensors"))):
        path.chmod(0o644)
        add_noise(path, noise, number)


def false_rows(truthfulqa: Path) -> list[Row]:
    """One row per question: its first incorrect answer."""
    with truthfulqa.open(newline="", encoding="utf-8-sig") as handle:
        questions = list(csv.DictReader(handle))
    return [
        Row(
            row_id=f"false-{n}",
            source="false",
            prompt=q["Question"],
            answer=q["Incorrect Answers"].split(";")[0].strip(),
        )
        for n, q in enumerate(questions)
    ]


def main() -> None:
    """Make one degraded checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("noise", "falsehoods"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--noise", type=float, default=0.3)
    parser.add_argument("--truthfulqa", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.how == "noise":
        noisy_copy(args.model, args.noise, args.out)
    else:
        train_on(false_rows(args.truthfulqa), RECIPE, args.model, args.out)


if __name__ == "__main__":
    main()
