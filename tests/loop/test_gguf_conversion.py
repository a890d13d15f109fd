"""The parts of the conversion that can be checked without the model; the pinned digest checks the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from guards.errors import ModelError
from loop.gguf_conversion import CONFIG, _checkpoint_name, _undo_rope_interleaving, convert_smollm2_gguf


def interleave(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to query and key weights, written out row by row."""
    n_out = weight.shape[0]
    half = n_out // n_heads // 2
    rows = []
    for head in range(n_heads):
        for pair in range(half):
            rows += [weight[head * 2 * half + pair], weight[head * 2 * half + half + pair]]
    return np.stack(rows)


@pytest.mark.parametrize("n_heads", [1, 3, 9])
def test_interleaving_is_undone(n_heads: int) -> None:
    weight = np.arange(n_heads * 8 * 5, dtype=np.float32).reshape(n_heads * 8, 5)
    assert not np.array_equal(interleave(weight, n_heads), weight)
    assert np.array_equal(_undo_rope_interleaving(interleave(weight, n_heads), n_heads), weight)


@pytest.mark.parametrize(
    ("gguf_name", "name"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.29.ffn_down.weight", "model.layers.29.mlp.down_proj.weight"),
        ("blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight"),
    ],
)
def test_names(gguf_name: str, name: str) -> None:
    assert _checkpoint_name(gguf_name) == name


@pytest.mark.parametrize("gguf_name", ["output.weight", "blk.0.attn_k.bias", "blk.0.ssm.weight", "blk.0", ""])
def test_a_tensor_that_is_not_smollm2s(gguf_name: str) -> None:
    with pytest.raises(ModelError) as refusal:
        _checkpoint_name(gguf_name)
    assert refusal.value.rule == "model.bad-gguf"


def test_another_models_file_is_refused(tmp_path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(str(tmp_path / "x.gguf"), "llama")
    writer.add_block_count(2)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError) as refusal:
        convert_smollm2_gguf(tmp_path / "x.gguf", tmp_path / "out")
    assert refusal.value.rule == "model.bad-gguf"
    assert "llama.block_count" in refusal.value.got
    assert not (tmp_path / "out").exists()


def test_the_heads_fit_the_hidden_size() -> None:
    assert CONFIG["num_attention_heads"] * CONFIG["head_dim"] == CONFIG["hidden_size"]
