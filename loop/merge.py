"""Merge a PEFT LoRA adapter into its base: W + scale * (B @ A) in float64, rounded once.

Works on the files, not on a loaded model, so it does not depend on what a library makes of an
architecture. The product is summed rank by rank with elementwise operations, never by a matrix
library, so that every machine gets the same bits and the result's digest can be pinned.
Method: LoRA, arXiv 2106.09685; the scale is alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv 2312.03732).

Not covered: whether the adapter was trained on this base (shapes are compared, origins cannot be).
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from guards.canonical import parse_json_strict
from guards.errors import ModelError, StairlockError
from guards.manifest import CheckpointManifest, scan_checkpoint, verify_checkpoint
from guards.safetensors_header import read_header
from loop.checkpoint_io import Progress, new_checkpoint, write_safetensors

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
# PEFT writes a model card beside every adapter; it is never opened and never copied.
_IGNORED_FILES = frozenset({"README.md", ".gitattributes"})

# Settings that were used in training or describe it; they do not change what a merge is.
_INERT_KEYS = frozenset(
    {
        "peft_type",
        "task_type",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "megatron_core",
        "qalora_group_size",
        "r",
        "lora_alpha",
        "use_rslora",
        "bias",
        "init_lora_weights",
    }
)
# Other initialisations change the base's weights too, so adding B @ A to the base would be wrong.
_PLAIN_INITS = (True, False, "gaussian", "orthogonal")
_LORA_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_BF16_DROPPED_BITS = 52 - 7
_BLOCK_ELEMENTS = 1 << 15


def merge_adapter(
    base_dir: Path,
    adapter_dir: Path,
    out_dir: Path,
    *,
    expected_base_digest: str | None = None,
    progress: Progress | None = None,
) -> CheckpointManifest:
    """Write the merged checkpoint to ``out_dir``, which must not exist.

    Everything but the weights is copied from the base byte for byte; weights without an adapter
    keep their bits. Adapted weights keep the base's dtype (bfloat16, float16 or float32) and are
    rounded to it once, to nearest, ties to even.

    Raises:
        CheckpointError: the base does not pass its allow-list, or is not ``expected_base_digest``.
        ModelError: ``merge.not-an-adapter``, ``merge.unknown-file``, ``merge.unsupported`` (an
            adapter setting that this merge does not implement: DoRA, biases, saved modules,
            rank patterns, embeddings, ...), ``merge.bad-adapter`` (shapes, pairs or targets that
            do not fit), ``model.not-finite``, ``model.out-exists``, ``model.no-space``.
    """
    base = (
        scan_checkpoint(base_dir) if expected_base_digest is None else verify_checkpoint(base_dir, expected_base_digest)
    )
    config, pairs = _read_adapter(adapter_dir)
    scale = config["lora_alpha"] / (math.sqrt(config["r"]) if config.get("use_rslora") else config["r"])
    unused = set(pairs)
    n_merged = 0
    with new_checkpoint(out_dir) as partial:
        for entry in base.files:
            source, target = base_dir / entry.path, partial / entry.path
            if not entry.path.endswith(".safetensors"):
                shutil.copyfile(source, target)
                continue
            tensors = _load_tensors(source)
            for name in sorted(tensors):
                module = name.removesuffix(".weight")
                if module in pairs:
                    tensors[name] = merge_weight(tensors[name], *pairs[module], scale, name=name)
                    unused.discard(module)
                    n_merged += 1
                    if progress is not None:
                        progress("merging the adapter", n_merged, len(pairs))
            write_safetensors(target, tensors)
        if unused:
            raise _bad(
                adapter_dir, f"adapters for weights that the base has not: {sorted(unused)[:5]}", "the base's modules"
            )
        return scan_checkpoint(partial)


def merge_weight(
    weight: torch.Tensor, lora_a: torch.Tensor, lora_b: torch.Tensor, scale: float, *, name: str
) -> torch.Tensor:
    """``weight`` (out, in) + ``scale`` * ``lora_b`` (out, rank) @ ``lora_a`` (rank, in), in ``weight``'s dtype.

    Raises:
        ModelError: ``merge.bad-adapter`` (shapes), ``merge.unsupported`` (dtype).
    """
    if weight.ndim != 2 or lora_a.shape[1] != weight.shape[1] or lora_b.shape[0] != weight.shape[0]:
        raise ModelError(
            "merge.bad-adapter",
            f"the adapter of {name!r} does not fit the base's weight",
            got=f"weight {tuple(weight.shape)}, A {tuple(lora_a.shape)}, B {tuple(lora_b.shape)}",
            fix="give the base that the adapter was trained on",
        )
    b_out_rank, a_rank_in = lora_b.to(torch.float64), lora_a.to(torch.float64)
    merged = torch.empty_like(weight)
    n_rows = max(1, _BLOCK_ELEMENTS // weight.shape[1])
    block, term = torch.empty(2, n_rows, weight.shape[1], dtype=torch.float64).unbind()
    for start in range(0, weight.shape[0], n_rows):  # a block of rows stays in the processor's cache
        rows = slice(start, min(start + n_rows, weight.shape[0]))
        factor = b_out_rank[rows]
        exact, product = block[: len(factor)].zero_(), term[: len(factor)]
        for rank in range(a_rank_in.shape[0]):  # in this order, so that the sum has the same bits everywhere
            exact += torch.mul(factor[:, rank, None], a_rank_in[rank, None, :], out=product)
        exact *= scale
        exact += weight[rows].to(torch.float64)
        merged[rows] = _round_once(exact, weight.dtype, name=name)
    return merged


def _round_once(exact: torch.Tensor, dtype: torch.dtype, *, name: str) -> torch.Tensor:
    """float64 to ``dtype``, to nearest, ties to even. torch's own path to 16 bits rounds twice, through float32."""
    if dtype == torch.float32:
        return exact.to(torch.float32)
    if dtype == torch.float16:
        return torch.from_numpy(exact.numpy().astype(np.float16))  # numpy rounds once
    if dtype == torch.bfloat16:
        bits = exact.view(torch.int64)
        tie = (bits >> _BF16_DROPPED_BITS) & 1
        kept = (bits + ((1 << (_BF16_DROPPED_BITS - 1)) - 1) + tie) >> _BF16_DROPPED_BITS << _BF16_DROPPED_BITS
        return kept.view(torch.float64).to(torch.bfloat16)  # exact now, except below 2**-126
    raise ModelError(
        "merge.unsupported", f"cannot merge into {name!r} of this dtype", got=str(dtype), expected="a float dtype"
    )


def _read_adapter(directory: Path) -> tuple[dict[str, Any], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """The checked config, and (A, B) by module path of the base."""
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if not {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE} <= names:
        raise ModelError(
            "merge.not-an-adapter",
            f"{directory} is not a PEFT adapter that can be merged",
            got=", ".join(repr(name) for name in sorted(names)[:10]) or "nothing",
            expected=f"{ADAPTER_CONFIG_FILE} and {ADAPTER_WEIGHTS_FILE}",
            fix="save it with PEFT as safetensors (save_pretrained)",
        )
    unknown = sorted(names - {ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE} - _IGNORED_FILES)
    linked = [name for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE) if not _is_plain_file(directory / name)]
    if unknown or linked:
        raise ModelError(
            "merge.unknown-file",
            f"{directory} holds more than an adapter's two files, or links",
            got=", ".join(repr(name) for name in (unknown + linked)[:10]),
            expected=f"{ADAPTER_CONFIG_FILE} and {ADAPTER_WEIGHTS_FILE} as plain files",
            fix="copy those two files into a directory of their own",
        )
    config = _check_config(directory)
    pairs = _pair_up(directory, _load_tensors(directory / ADAPTER_WEIGHTS_FILE), config)
    return config, pairs


def _check_config(directory: Path) -> dict[str, Any]:
    path = directory / ADAPTER_CONFIG_FILE
    try:
        config = parse_json_strict(path.read_bytes(), source=str(path))
    except (StairlockError, ValueError, RecursionError) as error:
        raise ModelError("merge.bad-adapter", f"{path} is not strict JSON") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        got = config.get("peft_type") if isinstance(config, dict) else type(config).__name__
        raise ModelError(
            "merge.unsupported", f"{path}: only LoRA adapters are merged", got=repr(got), expected="'LORA'"
        )
    refused = {
        key: value for key, value in config.items() if key not in _INERT_KEYS and value not in (None, False, [], {}, "")
    }
    if config.get("bias", "none") != "none":
        refused["bias"] = config["bias"]
    init = config.get("init_lora_weights", True)
    if not any(init is plain or (isinstance(plain, str) and init == plain) for plain in _PLAIN_INITS):
        refused["init_lora_weights"] = init
    if not isinstance(config.get("use_rslora", False), bool):
        refused["use_rslora"] = config["use_rslora"]
    if refused:
        raise ModelError(
            "merge.unsupported",
            f"{path} uses settings that this merge does not implement",
            got=", ".join(f"{key}={value!r}"[:100] for key, value in sorted(refused.items())),
            expected="plain LoRA on linear layers (rsLoRA scaling is understood)",
            fix="merge it with PEFT (merge_and_unload), save the whole model, and add that directory",
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise _bad(directory, f"r = {rank!r}", "a whole number of 1 or more")
    if not isinstance(alpha, (int, float)) or isinstance(alpha, bool) or not math.isfinite(alpha) or alpha <= 0:
        raise _bad(directory, f"lora_alpha = {alpha!r}", "a positive number")
    return config


def _pair_up(
    directory: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    sides: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        match = _LORA_KEY.fullmatch(key)
        if match is None:
            raise ModelError(
                "merge.unsupported",
                f"{directory} holds a tensor that is not a linear layer's LoRA",
                got=repr(key),
                expected="base_model.model.MODULE.lora_A.weight and lora_B.weight",
                fix="merge it with PEFT (merge_and_unload), save the whole model, and add that directory",
            )
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                "model.not-finite", f"{directory}: {key!r} holds NaN or infinity", fix="discard this adapter"
            )
        sides.setdefault(match["module"], {})[match["side"]] = tensor
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for module, both in sorted(sides.items()):
        if set(both) != {"A", "B"}:
            raise _bad(directory, f"{module} with lora_{next(iter(both))} only", "lora_A and lora_B")
        a, b = both["A"], both["B"]
        if a.ndim != 2 or b.ndim != 2 or a.shape[0] != config["r"] or b.shape[1] != config["r"]:
            raise _bad(directory, f"{module} with A {tuple(a.shape)}, B {tuple(b.shape)}", f"rank {config['r']}")
        pairs[module] = (a, b)
    _check_targets(directory, config.get("target_modules"), set(pairs))
    return pairs


def _check_targets(directory: Path, targets: object, modules: set[str]) -> None:
    """A list of targets must be what the weights adapt: a half-written adapter would show here."""
    if not isinstance(targets, list):  # a pattern such as "all-linear" names no module to look for
        return
    names = [str(target) for target in targets]
    strays = [m for m in modules if not any(m == name or m.endswith("." + name) for name in names)]
    idle = [name for name in names if not any(m == name or m.endswith("." + name) for m in modules)]
    if strays or idle:
        raise _bad(
            directory, f"weights for {sorted(strays)[:5]}, none for {sorted(idle)[:5]}", f"targets {sorted(names)}"
        )


def _load_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    with path.open("rb") as stream:
        read_header(stream, source=str(path))
    return load_file(path)


def _is_plain_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _bad(directory: Path, got: str, expected: str) -> ModelError:
    return ModelError(
        "merge.bad-adapter",
        f"{directory}: the adapter's weights and its config do not fit each other or the base",
        got=got,
        expected=expected,
        fix="save the adapter again, and give the base that it was trained on",
    )
