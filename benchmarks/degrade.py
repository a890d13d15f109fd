"""A checkpoint that really got worse: Gaussian noise on every weight matrix.

``python -m benchmarks.degrade --model DIR --noise 0.1 --out DIR`` adds noise of 0.1 standard deviations
of each matrix to it. For benchmarks/assay_sensitivity.py.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def add_noise(path: Path, noise: float, seed: int) -> None:
    """Rewrite one safetensors file; vectors (norms, biases) stay as they are."""
    generator = torch.Generator().manual_seed(seed)
    tensors = load_file(path)
    for name, tensor in sorted(tensors.items()):
        if tensor.dim() == 2:
            drawn = torch.randn(tensor.shape, generator=generator) * noise * tensor.float().std()
            tensors[name] = (tensor.float() + drawn).to(tensor.dtype)
    save_file(tensors, path, metadata={"format": "pt"})


def main() -> None:
    """Copy the checkpoint and add the noise."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--noise", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shutil.copytree(args.model, args.out)
    for number, path in enumerate(sorted(args.out.glob("*.safetensors"))):
        path.chmod(0o644)
        add_noise(path, args.noise, args.seed + number)


if __name__ == "__main__":
    main()
