"""Heads are read through TransformerLens, from a copy: the model and the tokenizer stay as they were."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from guards.errors import ProbeError
from loop.checkpoint_io import load_model
from probes.activations import FINAL
from probes.heads import harvest_heads
from tests.tiny_models import random_documents

N_HEADS, HEAD_WIDTH = 4, 8


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> tuple[Any, Any]:
    return load_model(tiny_checkpoint, "cpu", "float32")


def into_output_projection(model: Any, layer: int, token_ids: tuple[int, ...]) -> torch.Tensor:
    """What the plain model's heads hand to the output projection, ``[token, head, feature]``."""
    kept: list[torch.Tensor] = []
    projection = model.model.layers[layer].self_attn.o_proj
    handle = projection.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    with torch.inference_mode():
        model(torch.tensor([token_ids]))
    handle.remove()
    return kept[0][0].unflatten(-1, (N_HEADS, HEAD_WIDTH))


def test_heads_are_what_goes_into_the_output_projection(loaded: tuple[Any, Any]) -> None:
    pytest.importorskip("transformer_lens")
    model, tokenizer = loaded
    documents = random_documents(7)
    seen: list[int] = []
    for batch in harvest_heads(model, tokenizer, documents, [0, 1], max_rows=3):
        for row, index in enumerate(batch.doc_indices):
            seen.append(index)
            document = documents[index]
            for layer in (0, 1):
                found = batch.heads_layer_row_tok_head_feat[layer][row][batch.counted_row_tok[row]]
                expected = into_output_projection(model, layer, document.token_ids)[document.first_counted :]
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)
    assert sorted(seen) == list(range(7))


def test_only_the_layers_asked_for_are_read_in_the_dtype_of_the_model(tiny_checkpoint: Path) -> None:
    pytest.importorskip("transformer_lens")
    model, tokenizer = load_model(tiny_checkpoint, "cpu", "bfloat16")
    (batch,) = harvest_heads(model, tokenizer, random_documents(2), [0])
    assert {layer: heads.dtype for layer, heads in batch.heads_layer_row_tok_head_feat.items()} == {0: torch.bfloat16}


def test_model_and_tokenizer_are_left_as_they_were(tiny_checkpoint: Path) -> None:
    pytest.importorskip("transformer_lens")
    model, tokenizer = load_model(tiny_checkpoint, "cpu", "float32")
    names, settings = list(model.state_dict()), dict(tokenizer.init_kwargs)
    list(harvest_heads(model, tokenizer, random_documents(2), [1]))
    assert list(model.state_dict()) == names
    assert dict(tokenizer.init_kwargs) == settings
    assert not any(module._forward_hooks for module in model.modules())


def test_a_missing_library_is_a_refusal_that_says_what_to_install(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformer_lens.model_bridge", None)
    with pytest.raises(ProbeError, match=r"stairlock\[probes\]") as refusal:
        harvest_heads(*loaded, random_documents(2), [0])
    assert refusal.value.rule == "heads.no-transformer-lens"


def test_the_last_hidden_state_has_no_heads(loaded: tuple[Any, Any]) -> None:
    with pytest.raises(ProbeError) as refusal:
        harvest_heads(*loaded, random_documents(2), [0, FINAL])
    assert refusal.value.rule == "heads.no-final"


def test_a_model_that_the_bridge_cannot_take_is_a_typed_refusal(
    loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = pytest.importorskip("transformer_lens.model_bridge").TransformerBridge

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("Unsupported architecture")

    monkeypatch.setattr(bridge, "boot_transformers", refuse)
    with pytest.raises(ProbeError, match="Unsupported architecture") as refusal:
        harvest_heads(*loaded, random_documents(2), [0])
    assert refusal.value.rule == "heads.unknown-architecture"
