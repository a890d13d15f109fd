"""Read and write whole models: safetensors only, no remote code, and the same bytes every time.

What is written here depends on the model and the tokenizer alone: JSON has sorted keys, keys that
libraries write about themselves are dropped, and the weights' file has one defined layout. So a
checkpoint that is loaded and saved again keeps its digest.

Not covered: a newer transformers may add keys to config.json that do mean something; they are kept,
and the digest changes. That is why a merge copies its base's files instead of saving them again.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from guards.durable import whole_directory
from guards.errors import ModelError
from guards.manifest import (
    VOLATILE_CONFIG_KEYS,
    VOLATILE_GENERATION_KEYS,
    VOLATILE_TOKENIZER_KEYS,
    CheckpointManifest,
    scan_checkpoint,
    verify_checkpoint,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Progress = Callable[[str, int, int], None]
"""Called with (stage, units done, units in all); units are bytes, tensors or files, by stage."""

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_SAFETENSORS_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ONE_FILE = "1000TB"
_VOLATILE_KEYS = {
    "config.json": VOLATILE_CONFIG_KEYS,
    "generation_config.json": VOLATILE_GENERATION_KEYS,
    "tokenizer_config.json": VOLATILE_TOKENIZER_KEYS,
}
# What a library raises on a checkpoint that is malformed in a way that the scan does not know.
_LOAD_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError, RuntimeError)


def resolve_device(device: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU; anything else must exist on this machine.

    Raises:
        ModelError: ``model.no-device``.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise _no_device(device, "a device name such as auto, cpu, cuda or cuda:1") from error
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (resolved.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not present.get(resolved.type, False):
        raise _no_device(device, f"a device of this machine: {', '.join(name for name, ok in present.items() if ok)}")
    return resolved


def resolve_dtype(dtype: str) -> torch.dtype:
    """``auto`` is bfloat16. Another dtype is another checkpoint, so evidence records which it was.

    Raises:
        ModelError: ``model.unknown-dtype``.
    """
    name = "bfloat16" if dtype == "auto" else dtype
    if name not in DTYPES:
        raise ModelError("model.unknown-dtype", "unknown dtype", got=repr(dtype), expected=", ".join(["auto", *DTYPES]))
    return DTYPES[name]


def load_model(
    directory: Path,
    device: str = "auto",
    dtype: str = "auto",
    *,
    attn_implementation: str = "sdpa",
    expected_digest: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint, in evaluation mode, after its files have been checked.

    With ``expected_digest`` the directory must be exactly that checkpoint. Without, it must still
    pass the allow-list. Nothing is fetched, and no code of the checkpoint's is run.

    Raises:
        CheckpointError: any rule of :func:`guards.manifest.verify_checkpoint`.
        ModelError: ``model.no-device``, ``model.unknown-dtype``, ``model.load-failed``,
            ``model.weights-differ`` (a weight that the architecture needs is absent, or one that
            it does not know is there), ``model.tokenizer-too-large`` (ids beyond the embedding).
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer  # slow to import: only when a model is needed

    torch_device, torch_dtype = resolve_device(device), resolve_dtype(dtype)
    if expected_digest is None:
        scan_checkpoint(directory)
    else:
        verify_checkpoint(directory, expected_digest)
    try:
        with _quiet_transformers():
            loaded: Any = AutoModelForCausalLM.from_pretrained(  # a pair, which its annotation does not say
                directory,
                dtype=torch_dtype,
                attn_implementation=attn_implementation,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
            model, info = loaded
            tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except _LOAD_ERRORS as error:
        raise ModelError(
            "model.load-failed",
            f"{directory} cannot be loaded as a causal language model",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:500],
            fix="check that the installed transformers knows this architecture and that it generates text",
        ) from error
    _check_loading(directory, info)
    n_embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > n_embeddings:
        raise ModelError(
            "model.tokenizer-too-large",
            f"{directory}: the tokenizer makes ids that the model has no embedding for",
            got=f"{len(tokenizer)} tokens",
            expected=f"at most {n_embeddings}",
            fix="use the tokenizer that the model was trained with",
        )
    return model.to(torch_device).eval(), tokenizer


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, out_dir: Path) -> CheckpointManifest:
    """Write a whole model to ``out_dir``, which must not exist; it appears complete or not at all.

    Weights keep the dtypes they have in the model. Files: config.json, generation_config.json,
    model.safetensors, tokenizer.json, tokenizer_config.json and, where there is one,
    chat_template.jinja (more for tokenizers that need more). Padding and truncation that a trainer
    left in the tokenizer are not part of it, and are dropped.

    Raises:
        ModelError: ``model.unmerged-adapter``, ``model.out-exists``, ``model.quantized``,
            ``model.no-space``.
        CheckpointError: the result would not pass its own allow-list.
    """
    if hasattr(model, "peft_config"):
        raise ModelError("model.unmerged-adapter", "the model carries an adapter", fix="merge it first (loop.merge)")
    if getattr(model, "hf_quantizer", None) is not None:
        raise ModelError("model.quantized", "the model is quantized", fix="save it in bfloat16, float16 or float32")
    with new_checkpoint(out_dir) as partial:
        with _quiet_transformers():
            model.save_pretrained(partial, max_shard_size=_ONE_FILE)
            tokenizer.save_pretrained(partial)
        _normalise_weights(partial / "model.safetensors")
        _normalise_json_files(partial)
        return scan_checkpoint(partial)


@contextmanager
def new_checkpoint(out_dir: Path) -> Generator[Path]:
    """:func:`guards.durable.whole_directory`, with refusals that say what to do.

    Raises:
        ModelError: ``model.out-exists``, ``model.no-space``.
    """
    try:
        with whole_directory(out_dir) as partial:
            yield partial
    except FileExistsError as error:
        raise ModelError(
            "model.out-exists", f"{out_dir} exists already", fix="name a directory that does not"
        ) from error
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "model.no-space",
            f"{out_dir} could not be written; nothing of it was kept",
            got=str(error)[:500] or type(error).__name__,
            fix="free disk space or check the permissions of the directory, then run it again",
        ) from error


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """JSON with sorted keys and two spaces, as every small file of a checkpoint is written."""
    path.write_text(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer_json(path: Path, document: Mapping[str, Any]) -> None:
    """tokenizer.json without padding and truncation; key order is kept, because ids follow it."""
    body = {**document, "padding": None, "truncation": None}
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False), encoding="utf-8")


def write_safetensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors in one defined layout: larger dtypes first (alignment), then by name.

    The safetensors library makes no promise about the order of a file's tensors; a digest needs one.

    Raises:
        ModelError: ``model.unknown-dtype``, ``model.not-finite`` (a NaN or infinite weight).
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in names:
        tensor = tensors[name]
        if tensor.dtype not in _SAFETENSORS_NAMES:
            raise ModelError(
                "model.unknown-dtype", f"tensor {name!r} has a dtype that is not written", got=str(tensor.dtype)
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError("model.not-finite", f"tensor {name!r} holds NaN or infinity", fix="discard this model")
        end = position + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _SAFETENSORS_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    head += b" " * (-len(head) % 8)
    # Loaded tensors may still be mapped from the very file at ``path``: never write into it.
    temporary = path.with_name(f"{path.name}.partial")
    with temporary.open("wb") as stream:
        stream.write(struct.pack("<Q", len(head)))
        stream.write(head)
        for name in names:
            flat = tensors[name].detach().cpu().contiguous().reshape(-1)
            stream.write(flat.view(torch.uint8).numpy().data)
    temporary.replace(path)


def _check_loading(directory: Path, info: Mapping[str, Any]) -> None:
    missing, unexpected = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    mismatched = sorted(str(item) for item in info["mismatched_keys"])
    if missing or unexpected or mismatched:
        raise ModelError(
            "model.weights-differ",
            f"{directory}: the weights are not those of the architecture that config.json names",
            got=f"missing {missing[:5]}, unknown {unexpected[:5]}, of another shape {mismatched[:5]}",
            expected="exactly the architecture's weights (missing ones would be filled with random numbers)",
            fix="save the model again with the config that belongs to it",
        )


def _normalise_weights(path: Path) -> None:
    with safe_open(path, framework="pt") as source:
        names: list[str] = source.keys()
        write_safetensors(path, {name: source.get_tensor(name) for name in names})


def _normalise_json_files(directory: Path) -> None:
    for name, volatile in _VOLATILE_KEYS.items():
        path = directory / name
        if path.exists():
            document = json.loads(path.read_text(encoding="utf-8"))
            write_json(path, {key: value for key, value in document.items() if key not in volatile})
    tokenizer = directory / "tokenizer.json"
    if tokenizer.exists():
        write_tokenizer_json(tokenizer, json.loads(tokenizer.read_text(encoding="utf-8")))


@contextmanager
def _quiet_transformers() -> Generator[None]:
    """Silence transformers' bars and notes for a while, and put its settings back."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _no_device(device: str, expected: str) -> ModelError:
    return ModelError(
        "model.no-device",
        "this device is not available here",
        got=repr(device),
        expected=expected,
        fix="use --device auto, or install the torch build for your accelerator",
    )
