"""Bad weights, activations and outputs that a drift audit may be given, each with its exact refusal."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from guards.errors import CheckpointError, ProbeError, StairlockError
from probes.activations import FINAL, PairedBatch
from probes.answer_statistics import answer_statistics
from probes.control_directions import principal_directions
from probes.document_values import DocumentValues
from probes.documents import Document
from probes.outputs import OutputHead, OutputValues, amplified_tokens, output_head, token_divergences
from probes.random_dictionary import random_dictionary
from probes.spectra import describe_spectrum
from probes.weights import compare_weights
from tests.probes.planted import DIM, LAYER, small_dictionary
from tests.probes.weight_directories import random_weights, write_checkpoint
from tests.tiny_models import tiny_llama

UP = "model.layers.0.mlp.up_proj.weight"
O = "model.layers.0.self_attn.o_proj.weight"  # noqa: E741
EMBEDDING = "model.embed_tokens.weight"
DOCUMENTS = [Document(f"d{index}", "neutral", (0, 1, 2), 0) for index in range(2)]


def refusal_of(call: Callable[[], object]) -> StairlockError:
    with pytest.raises(StairlockError) as refusal:
        call()
    return refusal.value


def unit(dim: int = 32) -> Tensor:
    return torch.eye(dim)[0]


def audit(
    tmp_path: Path, after: dict[str, Tensor], *, before: dict[str, Tensor] | None = None, directions=None
) -> Callable[[], object]:
    reference = write_checkpoint(tmp_path / "reference", before or random_weights())
    candidate = write_checkpoint(tmp_path / "candidate", after)
    return lambda: list(compare_weights(reference, candidate, directions))


def with_value(name: str, value: float, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    tensors = {key: tensor.to(dtype) for key, tensor in random_weights().items()}
    tensors[name].view(-1)[-1] = value
    return tensors


def test_the_unbroken_checkpoints_are_accepted(tmp_path: Path):
    audit(tmp_path, random_weights(1), directions={"r": unit()})()


@pytest.mark.parametrize("change", ["absent", "added", "transposed", "reshaped"])
def test_other_tensors(tmp_path: Path, change: str):
    tensors = random_weights()
    moved = tensors.pop(UP)
    tensors |= {
        "absent": {},
        "added": {UP: moved, "model.extra.weight": torch.ones(2, 2)},
        "transposed": {UP: moved.T.contiguous()},
        "reshaped": {UP: moved.reshape(-1)},
    }[change]
    reference = write_checkpoint(tmp_path / "reference", random_weights())
    candidate = write_checkpoint(tmp_path / "candidate", tensors)
    refusal = refusal_of(lambda: compare_weights(reference, candidate))  # before anything is read
    assert isinstance(refusal, ProbeError)
    assert refusal.rule == "weights.other-shapes"
    assert ("model.extra.weight" if change == "added" else UP) in refusal.got


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [UP, EMBEDDING, "model.norm.weight"])
def test_a_candidate_that_is_not_finite(tmp_path: Path, name: str, value: float):
    refusal = refusal_of(audit(tmp_path, with_value(name, value)))
    assert refusal.rule == "weights.not-finite" and name in refusal.message


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_both_not_finite_in_the_same_place(tmp_path: Path, value: float):
    """The update there would be NaN, or look unchanged."""
    broken = with_value(UP, value, torch.bfloat16)
    assert refusal_of(audit(tmp_path, broken, before=broken)).rule == "weights.not-finite"


def test_float64_weights_whose_squares_overflow(tmp_path: Path):
    before = {name: tensor.double() for name, tensor in random_weights().items()}
    assert refusal_of(audit(tmp_path, with_value(UP, 1e200, torch.float64), before=before)).rule == "weights.not-finite"


def test_an_update_of_nothing(tmp_path: Path):
    before = {**random_weights(), UP: torch.zeros(64, 32)}
    assert refusal_of(audit(tmp_path, random_weights(1), before=before)).rule == "weights.zero-reference"


def test_an_update_along_a_direction_that_the_reference_has_nothing_of(tmp_path: Path):
    before = random_weights()
    before[O][0] = 0.0
    refusal = refusal_of(audit(tmp_path, random_weights(1), before=before, directions={"r": unit()}))
    assert refusal.rule == "weights.zero-reference" and "'r'" in refusal.got


@pytest.mark.parametrize(
    "direction",
    [
        unit(16),
        2 * unit(),
        torch.zeros(32),
        torch.full((32,), math.nan),
        torch.eye(32)[:1],
        {0: unit(16)},
        {1: 2 * unit()},
    ],
)
def test_a_direction_of_another_stream(tmp_path: Path, direction: Tensor | dict[int, Tensor]):
    assert refusal_of(audit(tmp_path, random_weights(), directions={"r": direction})).rule == "weights.bad-direction"


def test_a_missing_shard(tmp_path: Path):
    reference = write_checkpoint(tmp_path / "reference", random_weights())
    candidate = write_checkpoint(tmp_path / "candidate", random_weights(), n_shards=2)
    (candidate / "model-00002-of-00002.safetensors").unlink()
    refusal = refusal_of(lambda: compare_weights(reference, candidate))
    assert isinstance(refusal, CheckpointError) and refusal.rule == "manifest.missing-shard"


@pytest.mark.parametrize(
    ("values", "sides", "floor", "rule"),
    [
        ([1.0, math.nan], (2, 3), 1e-9, "weights.not-finite"),
        ([1.0, 2.0], (2, 3), math.nan, "weights.not-finite"),
        ([1.0, 2.0], (2, 3), 0.0, "weights.bad-spectrum"),
        ([1.0, 2.0], (3, 2), 1e-9, "weights.bad-spectrum"),
        ([1.0, 2.0, 3.0], (2, 3), 1e-9, "weights.bad-spectrum"),
    ],
)
def test_no_spectrum(values: list[float], sides: tuple[int, int], floor: float, rule: str):
    assert refusal_of(lambda: describe_spectrum(torch.tensor(values), *sides, noise_floor=floor)).rule == rule


def batch(*, doc_indices: tuple[int, ...] = (0, 1), layers: tuple[int, ...] = (LAYER, FINAL)) -> PairedBatch:
    generator = torch.Generator().manual_seed(0)
    counted = torch.ones(2, 3, dtype=torch.bool)
    sides = [{layer: torch.randn(2, 3, DIM, generator=generator) for layer in layers} for _ in range(2)]
    return PairedBatch(doc_indices, counted, sides[0], sides[1], torch.zeros(2, 3, dtype=torch.long), 0)


def measured(given: PairedBatch, *, directions=None) -> DocumentValues:
    values = DocumentValues(DOCUMENTS, [LAYER], directions or {}, [small_dictionary()])
    values.measure(given)
    return values


def test_the_unbroken_batch_is_accepted():
    measured(batch(), directions={LAYER: {"r": unit(DIM)}})


@pytest.mark.parametrize("side", ["reference", "candidate"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_activations_that_are_not_finite(side: str, value: float):
    given = batch()
    getattr(given, side)[LAYER][1, 2, 5] = value
    refusal = refusal_of(lambda: measured(given))
    assert refusal.rule == "drift.not-finite" and "'d1'" in refusal.message and side in refusal.message


def test_what_is_refused_is_not_in_the_sums():
    values = DocumentValues(DOCUMENTS, [LAYER], {}, [small_dictionary()])
    broken = batch()
    broken.candidate[LAYER][0, 0, 0] = math.nan
    refusal_of(lambda: values.measure(broken))
    assert values.features("small") == {}
    values.measure(batch())  # and its documents may still come
    assert values.features("small")["neutral"].n_documents == 2


def test_a_reference_of_zeros_gives_no_relative_change():
    given = batch()
    given.reference[LAYER][0] = 0.0
    assert refusal_of(lambda: measured(given)).rule == "drift.not-finite"


def test_a_document_that_comes_twice():
    values = measured(batch())
    assert refusal_of(lambda: values.measure(batch())).rule == "drift.repeated-document"
    assert refusal_of(lambda: measured(batch(doc_indices=(1, 1)))).rule == "drift.repeated-document"


@pytest.mark.parametrize("doc_indices", [(0, 2), (-1, 0)])
def test_documents_that_were_not_given(doc_indices: tuple[int, ...]):
    assert refusal_of(lambda: measured(batch(doc_indices=doc_indices))).rule == "drift.unknown-document"


def test_a_document_of_which_nothing_counts():
    given = batch()
    given.counted_row_tok[1] = False
    assert refusal_of(lambda: measured(given)).rule == "drift.nothing-counted"
    heads = OutputHead(torch.ones(5, DIM)), OutputHead(torch.ones(5, DIM))
    assert refusal_of(lambda: OutputValues(*heads).measure(given)).rule == "outputs.nothing-counted"


def test_a_layer_that_was_not_read():
    assert refusal_of(lambda: measured(batch(layers=(FINAL,)))).rule == "drift.missing-layer"
    assert refusal_of(lambda: DocumentValues(DOCUMENTS, [8], {}, [small_dictionary()])).rule == "drift.missing-layer"
    elsewhere = {9: {"r": unit(DIM)}}
    assert refusal_of(lambda: DocumentValues(DOCUMENTS, [LAYER], elsewhere)).rule == "drift.missing-layer"


def test_widths_that_differ():
    given = batch()
    given.candidate[LAYER] = given.candidate[LAYER][..., :-1]
    assert refusal_of(lambda: measured(given)).rule == "drift.other-width"
    narrow = {LAYER: {"r": unit(DIM - 1)}}
    assert refusal_of(lambda: measured(batch(), directions=narrow)).rule == "drift.other-width"
    wide = DocumentValues(DOCUMENTS, [LAYER], {}, [small_dictionary(dim=DIM + 1)])
    assert refusal_of(lambda: wide.measure(batch())).rule == "dictionary.other-width"


@pytest.mark.parametrize("vector", [2 * unit(DIM), torch.zeros(DIM), torch.full((DIM,), math.nan), torch.eye(DIM)])
def test_a_direction_that_is_no_unit_vector(vector: Tensor):
    refusal = refusal_of(lambda: DocumentValues(DOCUMENTS, [LAYER], {LAYER: {"r": vector}}))
    assert refusal.rule == "drift.bad-direction"


def test_two_dictionaries_of_one_name():
    twice = [small_dictionary(), small_dictionary(seed=6)]
    assert refusal_of(lambda: DocumentValues(DOCUMENTS, [LAYER], {}, twice)).rule == "drift.same-name"


def test_a_random_dictionary_needs_tokens_and_finite_ones():
    acts = torch.randn(300, DIM)
    make = lambda given: random_dictionary(small_dictionary(), given, seed=0, name="r")  # noqa: E731
    make(acts)
    assert refusal_of(lambda: make(acts[:255])).rule == "dictionary.too-few-tokens"
    acts[3, 3] = math.nan
    assert refusal_of(lambda: make(acts)).rule == "dictionary.not-finite"
    assert refusal_of(lambda: make(torch.randn(300, DIM - 1))).rule == "dictionary.other-width"
    assert refusal_of(lambda: principal_directions(acts, 2)).rule == "directions.not-finite"
    assert refusal_of(lambda: principal_directions(torch.randn(5, DIM), 5)).rule == "directions.too-few-tokens"


def head(n_vocabulary: int = 5) -> OutputHead:
    return OutputHead(torch.ones(n_vocabulary, DIM))


def test_the_unbroken_outputs_are_accepted():
    OutputValues(head(), head(), token_sets={"s": (1, 2)}, decision_token_of={0: 2}).measure(batch())


def test_other_vocabularies():
    assert refusal_of(lambda: OutputValues(head(), head(6))).rule == "outputs.other-vocabulary"
    logits = torch.zeros(2, 5), torch.zeros(2, 6)
    assert refusal_of(lambda: token_divergences(*logits)).rule == "outputs.other-vocabulary"
    assert refusal_of(lambda: amplified_tokens(logits[0][0], logits[1][0], 1.0, 1)).rule == "outputs.other-vocabulary"


@pytest.mark.parametrize("ids", [(), (5,), (-1,), (1, 1)])
def test_token_sets_that_cannot_be_followed(ids: tuple[int, ...]):
    refusal = refusal_of(lambda: OutputValues(head(), head(), token_sets={"s": ids}))
    assert refusal.rule == "outputs.bad-token-set"


@pytest.mark.parametrize("position", [-1, 3])
def test_a_decision_outside_of_its_document(position: int):
    values = OutputValues(head(), head(), decision_token_of={1: position})
    assert refusal_of(lambda: values.measure(batch())).rule == "outputs.bad-decision"


def test_outputs_without_final_hidden_states():
    values = OutputValues(head(), head())
    assert refusal_of(lambda: values.measure(batch(layers=(LAYER,)))).rule == "outputs.no-hidden-states"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_outputs_that_are_not_finite(value: float):
    given = batch()
    given.candidate[FINAL][0, 1, 0] = value
    assert refusal_of(lambda: OutputValues(head(), head()).measure(given)).rule == "outputs.not-finite"
    weight = torch.ones(5, DIM)
    weight[0, 0] = value
    assert refusal_of(lambda: OutputHead(weight)).rule == "outputs.not-finite"


def test_limits_that_are_none():
    for limits in ({"chunk_tokens": 0}, {"tokens_per_document": 1}):
        assert refusal_of(lambda given=limits: OutputValues(head(), head(), **given)).rule == "outputs.bad-limit"
    logits = torch.zeros(5)
    for alpha, k in ((-1.0, 1), (math.nan, 1), (1.0, 0), (1.0, 6)):
        refusal = refusal_of(lambda a=alpha, n=k: amplified_tokens(logits, logits, a, n))
        assert refusal.rule == "outputs.bad-limit"


def test_heads_that_are_not_known():
    model = tiny_llama(1)
    model.config.logit_scale = 0.25
    assert refusal_of(lambda: output_head(model)).rule == "outputs.unsupported-head"
    body = tiny_llama(1).model
    assert refusal_of(lambda: output_head(body)).rule == "outputs.unsupported-head"
    assert refusal_of(lambda: replace(head(), soft_cap=0.0)).rule == "outputs.unsupported-head"
    assert refusal_of(lambda: replace(head(), bias_vocab=torch.zeros(4))).rule == "outputs.unsupported-head"


def test_no_answers():
    assert refusal_of(lambda: answer_statistics([])).rule == "outputs.no-answers"
