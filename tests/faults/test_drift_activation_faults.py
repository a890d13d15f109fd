"""Models that do not match, activations that are no numbers, documents that say nothing: refused, never averaged."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from guards.errors import ProbeError
from probes.activations import FINAL, Document, harvest, harvest_paired, norm_caps
from tests.tiny_models import CONTEXT_TOKENS, N_VOCABULARY, random_documents, tiny_llama, tiny_model


def refusal_of(batches: Any) -> ProbeError:
    with pytest.raises(ProbeError) as refusal:
        list(batches)
    return refusal.value


@pytest.mark.parametrize(
    ("candidate", "rule"),
    [
        (lambda: tiny_llama(3), "activations.layers-differ"),
        (lambda: tiny_llama(width=64), "activations.widths-differ"),
        (lambda: tiny_llama(n_vocabulary=N_VOCABULARY + 1), "activations.vocabularies-differ"),
        (lambda: tiny_llama(dtype=torch.bfloat16), "activations.dtypes-differ"),
        (lambda: tiny_model("gpt_neox", 4), "activations.architectures-differ"),
    ],
    ids=["layers", "widths", "vocabularies", "dtypes", "architectures"],
)
def test_models_that_cannot_be_compared_are_refused_before_anything_runs(candidate: Any, rule: str) -> None:
    with pytest.raises(ProbeError) as refusal:
        harvest_paired(tiny_llama(), candidate(), random_documents(3), [0], norm_caps=None)
    assert refusal.value.rule == rule


def broken_in_layer(layer: int, value: float) -> Any:
    model: Any = tiny_llama()
    with torch.no_grad():
        model.model.layers[layer].mlp.down_proj.weight[0, 0] = value
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers_name_the_model_the_layer_and_the_document(value: float) -> None:
    broken = broken_in_layer(2, value)
    # Longest first, so 'd0' is not what happens to come first
    longest = max(random_documents(5), key=lambda document: len(document.token_ids)).doc_id
    for reference, candidate, role in ((tiny_llama(), broken, "candidate"), (broken, tiny_llama(), "reference")):
        refusal = refusal_of(harvest_paired(reference, candidate, random_documents(5), [1, 2], norm_caps=None))
        assert refusal.rule == "activations.not-finite"
        assert role in refusal.message
        assert "layer 2" in refusal.got and repr(longest) in refusal.got
    assert list(harvest(broken, random_documents(5), [1]))  # the layer before it is sound
    assert refusal_of(harvest(broken, random_documents(5), [1, FINAL])).rule == "activations.not-finite"
    with pytest.raises(ProbeError) as in_caps:
        norm_caps(broken, random_documents(5), [2])
    assert in_caps.value.rule == "activations.not-finite"


def test_one_broken_token_among_sound_ones_is_found() -> None:
    model: Any = tiny_llama()
    with torch.no_grad():
        model.get_input_embeddings().weight[9] = float("nan")
    documents = [Document("sound", "s", (1, 2, 3, 4), 1), Document("broken", "s", (1, 9, 2), 2)]
    refusal = refusal_of(harvest(model, documents, [0]))
    assert refusal.rule == "activations.not-finite"
    assert "'broken'" in refusal.got  # although the token is context there


def test_padding_brings_in_no_token_that_a_document_does_not_hold() -> None:
    """Every embedding is NaN here but those of the tokens that the documents hold: padding is none of the others."""
    model: Any = tiny_llama()
    with torch.no_grad():
        weight = model.get_input_embeddings().weight
        weight[[index for index in range(N_VOCABULARY) if index not in (5, 6, 7, 8)]] = float("nan")
    documents = [Document("long", "s", (5, 6, 7, 8), 0), Document("short", "s", (6, 7), 0)]
    (batch,) = harvest(model, documents, [0])
    assert batch.counted_row_tok.sum() == 6


@pytest.mark.parametrize(
    ("documents", "rule"),
    [
        ([], "activations.no-documents"),
        ([Document("a", "s", (), 0)], "activations.empty-document"),
        ([Document("a", "s", (1, 2), 2)], "activations.nothing-counted"),
        ([Document("a", "s", (1, 2), -1)], "activations.nothing-counted"),
        ([Document("a", "s", (1, N_VOCABULARY), 0)], "activations.unknown-token"),
        ([Document("a", "s", (1, -1), 0)], "activations.unknown-token"),
        ([Document("a", "s", (1,) * (CONTEXT_TOKENS + 1), 0)], "activations.document-too-long"),
    ],
    ids=["none", "empty", "all context", "counted from before", "beyond the vocabulary", "negative", "too long"],
)
def test_documents_that_cannot_be_measured_are_refused(documents: list[Document], rule: str) -> None:
    model = tiny_llama(1)
    assert refusal_of(harvest(model, documents, [0])).rule == rule
    assert refusal_of(harvest_paired(model, model, documents, [0], norm_caps=None)).rule == rule
    with pytest.raises(ProbeError) as refusal:
        norm_caps(model, documents, [0])
    assert refusal.value.rule == rule


def test_one_bad_document_among_good_ones_is_refused_by_name() -> None:
    documents = [*random_documents(3), Document("hollow", "s", (5,), 1)]
    refusal = refusal_of(harvest(tiny_llama(1), documents, [0]))
    assert refusal.rule == "activations.nothing-counted" and "'hollow'" in refusal.message


@pytest.mark.parametrize(
    ("layers", "rule"),
    [([], "activations.no-layers"), ([0, 4], "activations.unknown-layer"), ([-2], "activations.unknown-layer")],
)
def test_layers_that_are_not_there_are_refused_at_once(layers: list[int], rule: str) -> None:
    with pytest.raises(ProbeError) as refusal:
        harvest(tiny_llama(4), random_documents(1), layers)
    assert refusal.value.rule == rule


@pytest.mark.parametrize("limits", [{"max_rows": 0}, {"max_tokens": 0}])
def test_batches_of_nothing_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(ProbeError) as refusal:
        harvest(tiny_llama(1), random_documents(1), [0], **limits)
    assert refusal.value.rule == "activations.batch-limits"


def test_an_architecture_whose_layers_are_not_found_is_refused() -> None:
    config = T5Config(vocab_size=N_VOCABULARY, d_model=16, d_ff=16, d_kv=4, num_heads=4, num_layers=2)
    with pytest.raises(ProbeError) as refusal:
        harvest(T5ForConditionalGeneration(config).eval(), random_documents(1), [0])  # type: ignore[arg-type]
    assert refusal.value.rule == "activations.unknown-architecture"
    model: Any = tiny_llama(4)
    model.model.layers = model.model.layers[:2]  # fewer than its config says
    with pytest.raises(ProbeError) as refusal:
        harvest(model, random_documents(1), [0])
    assert refusal.value.rule == "activations.unknown-architecture"


def test_an_adapter_that_is_not_merged_is_refused() -> None:
    from peft import LoraConfig, get_peft_model

    wrapped: Any = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"])).eval()
    with pytest.raises(ProbeError) as refusal:
        harvest(wrapped, random_documents(1), [0])
    assert refusal.value.rule == "activations.unknown-architecture"


def test_a_model_in_training_mode_is_refused() -> None:
    model: Any = tiny_llama()
    model.model.layers[1].train()
    with pytest.raises(ProbeError) as refusal:
        harvest(model, random_documents(1), [0])
    assert refusal.value.rule == "activations.training-mode"


@pytest.mark.parametrize("caps", [{0: 0.0}, {0: float("nan")}, {0: float("inf")}, {1: 5.0}])
def test_caps_that_mean_nothing_are_refused(caps: dict[int, float]) -> None:
    model = tiny_llama()
    with pytest.raises(ProbeError) as refusal:
        harvest_paired(model, model, random_documents(1), [0], norm_caps=caps)
    assert refusal.value.rule == "activations.bad-cap"


@pytest.mark.parametrize("factor", [1.0, 0.0, float("nan"), float("inf")])
def test_a_factor_that_drops_ordinary_tokens_is_refused(factor: float) -> None:
    with pytest.raises(ProbeError) as refusal:
        norm_caps(tiny_llama(), random_documents(1), [0], factor=factor)
    assert refusal.value.rule == "activations.bad-cap"


def test_a_document_whose_tokens_are_all_extreme_is_refused_and_not_left_empty() -> None:
    model = tiny_llama()
    refusal = refusal_of(harvest_paired(model, model, random_documents(3), [0], norm_caps={0: 1e-6}))
    assert refusal.rule == "activations.all-tokens-extreme"
