"""Checkpoint directories that hold chosen weights, and nothing of a model beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

DIM, INNER, VOCAB = 32, 64, 400


def random_weights(seed: int = 0, n_layers: int = 2) -> dict[str, Tensor]:
    """Every matrix of a small Llama by its real name, float32."""
    generator = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, DIM), "model.norm.weight": (DIM,)}
    for layer in range(n_layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{kind}_proj.weight": (DIM, DIM) for kind in "qo"}
        shapes |= {f"{at}.self_attn.{kind}_proj.weight": (DIM // 2, DIM) for kind in "kv"}
        shapes |= {f"{at}.mlp.{kind}_proj.weight": (INNER, DIM) for kind in ("gate", "up")}
        shapes |= {f"{at}.mlp.down_proj.weight": (DIM, INNER), f"{at}.input_layernorm.weight": (DIM,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def write_checkpoint(directory: Path, tensors: Mapping[str, Tensor], *, n_shards: int = 1) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}))
    (directory / "tokenizer.json").write_text("{}")
    if n_shards == 1:
        save_file(dict(tensors), directory / "model.safetensors")
        return directory
    placed: dict[str, str] = {}
    names = sorted(tensors)
    for shard in range(n_shards):
        file = f"model-{shard + 1:05d}-of-{n_shards:05d}.safetensors"
        held = names[shard::n_shards]
        save_file({name: tensors[name] for name in held}, directory / file)
        placed |= dict.fromkeys(held, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return directory
