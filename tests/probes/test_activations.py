"""Activations are those that transformers shows, whatever the batches, and the model stays as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from loop.checkpoint_io import load_model
from probes.activations import FINAL, Document, harvest, harvest_paired, norm_caps
from probes.documents import BatchLimits, plan_batches
from tests.tiny_models import N_VOCABULARY, random_documents, tiny_llama, tiny_model


def count_calls(modules: Any) -> list[int]:
    """How often each module has run; grows as they run."""
    calls = [0] * len(modules)

    def count(number: int) -> None:
        calls[number] += 1

    for number, module in enumerate(modules):
        module.register_forward_hook(lambda *_, number=number: count(number))
    return calls


def n_hooks(model: Any) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def by_document(
    model: Any, documents: list[Document], layers: tuple[int, ...], **limits: int
) -> dict[int, dict[int, torch.Tensor]]:
    """document -> layer -> counted activations, ``[token, feature]``."""
    found: dict[int, dict[int, torch.Tensor]] = {}
    for batch in harvest(model, documents, layers, **limits):
        for row, index in enumerate(batch.doc_indices):
            assert index not in found
            counted = batch.counted_row_tok[row]
            found[index] = {layer: acts[row][counted] for layer, acts in batch.acts_layer_row_tok_feat.items()}
    return found


def shown_by_transformers(model: Any, document: Document) -> tuple[torch.Tensor, ...]:
    """The hidden states of one document alone, each ``[token, feature]``, counted tokens only."""
    with torch.inference_mode():
        states = model(torch.tensor([document.token_ids]), output_hidden_states=True).hidden_states
    return tuple(state[0, document.first_counted :] for state in states)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "opt"])
def test_activations_are_those_that_transformers_shows(architecture: str) -> None:
    model, documents = tiny_model(architecture), random_documents(12)
    found = by_document(model, documents, (0, 1, 2, FINAL), max_rows=5)
    assert sorted(found) == list(range(12))
    norm = {"llama": "norm", "gpt2": "ln_f", "gpt_neox": "final_layer_norm", "opt": "decoder.final_layer_norm"}
    for index, document in enumerate(documents):
        states = shown_by_transformers(model, document)
        for layer in (0, 1):
            torch.testing.assert_close(found[index][layer], states[layer + 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[index][FINAL], states[-1], atol=1e-5, rtol=1e-4)
        # transformers shows the last layer after the norm only
        with torch.inference_mode():
            normed = model.base_model.get_submodule(norm[architecture])(found[index][2])
        torch.testing.assert_close(normed, states[-1], atol=1e-5, rtol=1e-4)


def test_bfloat16_stays_bfloat16(tiny_checkpoint: Path) -> None:
    model, _ = load_model(tiny_checkpoint, "cpu", "bfloat16")
    documents = random_documents(6)
    found = by_document(model, documents, (0, FINAL))
    for index, document in enumerate(documents):
        states = shown_by_transformers(model, document)
        assert found[index][0].dtype == found[index][FINAL].dtype == torch.bfloat16
        torch.testing.assert_close(found[index][0], states[1], atol=2e-2, rtol=2e-2)
        torch.testing.assert_close(found[index][FINAL], states[-1], atol=6e-2, rtol=2e-2)


def test_the_batches_do_not_matter() -> None:
    model, documents = tiny_llama(), random_documents(20)
    alone = by_document(model, documents, (1, 3), max_rows=1)
    for limits in ({"max_rows": 7}, {"max_tokens": 50}, {"max_rows": 20, "max_tokens": 10_000}):
        together = by_document(model, documents, (1, 3), **limits)
        for index, activations in alone.items():
            for layer, acts_tok_feat in activations.items():
                torch.testing.assert_close(together[index][layer], acts_tok_feat, atol=1e-5, rtol=1e-4)


def test_batches_keep_their_limits_and_are_the_same_every_time() -> None:
    model, documents = tiny_llama(1), random_documents(40)
    batches = list(harvest(model, documents, [0], max_rows=6, max_tokens=100))
    for batch in batches:
        n_rows, n_columns = batch.counted_row_tok.shape
        assert n_rows <= 6 and n_rows * n_columns <= 100
        lengths = [len(documents[index].token_ids) for index in batch.doc_indices]
        assert lengths == sorted(lengths, reverse=True) and lengths[0] <= n_columns < lengths[0] + 8
    again = harvest(model, iter(documents), [0], max_rows=6, max_tokens=100)
    assert [batch.doc_indices for batch in again] == [batch.doc_indices for batch in batches]


def test_batches_have_few_lengths_and_none_beyond_the_context() -> None:
    limits = BatchLimits(max_rows=1, max_tokens=4096, n_vocabulary=2, context_tokens=1000)
    documents = [Document(f"d{n}", "s", (1,) * n, 0) for n in range(1, 1001)]
    n_columns = {
        len(batch.token_ids_row_tok[0]) for batch in plan_batches(documents, limits, device=torch.device("cpu"))
    }
    assert max(n_columns) == 1000 and len(n_columns) == 40
    for n in range(1, 1001):
        assert min(length for length in n_columns if length >= n) <= max(n + 7, n * 9 / 8)


def test_a_document_beyond_the_limit_is_read_alone() -> None:
    documents = [Document("long", "s", (1,) * 30, 0), Document("short", "s", (1,) * 3, 0)]
    assert [batch.doc_indices for batch in harvest(tiny_llama(1), documents, [0], max_tokens=10)] == [(0,), (1,)]


def test_context_and_padding_do_not_count() -> None:
    documents = [Document("a", "s", (1, 2, 3, 4, 5), 2), Document("b", "s", (1, 2, 3), 1)]
    (batch,) = harvest(tiny_llama(1), documents, [0])
    assert batch.doc_indices == (0, 1)
    assert batch.counted_row_tok.nonzero().tolist() == [[0, 2], [0, 3], [0, 4], [1, 1], [1, 2]]


def test_layers_after_the_last_one_asked_for_do_not_run() -> None:
    model: Any = tiny_llama(4)
    layers, others = count_calls(model.model.layers), count_calls([model.model.norm, model.lm_head])
    batches = list(harvest(model, random_documents(9), [2, 0], max_rows=3))
    assert list(batches[0].acts_layer_row_tok_feat) == [2, 0]
    assert layers == [len(batches)] * 3 + [0]
    assert others == [0, 0]
    list(harvest(model, random_documents(2), [FINAL, 1]))
    assert layers[3] == 1 and others == [1, 0]  # the head does not run for the last hidden state either


def test_no_hook_is_left_after_a_break_an_error_or_an_abandoned_generator() -> None:
    model: Any = tiny_llama()
    for batch in harvest(model, random_documents(9), [1], max_rows=2):
        assert n_hooks(model) == 0, batch.doc_indices
        break
    abandoned = harvest(model, random_documents(9), [1, FINAL], max_rows=2)
    next(abandoned)
    assert n_hooks(model) == 0

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    handle = model.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        next(abandoned)
    handle.remove()
    assert n_hooks(model) == 0


def test_the_model_is_left_as_it_was() -> None:
    model: Any = tiny_llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    list(harvest(model, random_documents(5), [0, 2]))
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert model(torch.tensor([[1, 2, 3]])).logits.requires_grad


def test_two_harvests_of_one_model_do_not_disturb_each_other() -> None:
    model, documents = tiny_llama(), random_documents(8)
    early, late = harvest(model, documents, [0], max_rows=2), harvest(model, documents, [3], max_rows=2)
    for one, other in zip(early, late, strict=True):
        assert list(one.acts_layer_row_tok_feat) == [0] and list(other.acts_layer_row_tok_feat) == [3]


def test_only_a_window_of_documents_is_read_ahead() -> None:
    n_read = 0

    def endless() -> Iterator[Document]:
        nonlocal n_read
        while True:
            n_read += 1
            yield Document(f"d{n_read}", "s", (n_read % N_VOCABULARY,) * 10, 0)

    batches = harvest(tiny_llama(1), endless(), [0], max_tokens=100)
    assert n_read == 0
    next(batches)
    assert n_read == 640  # 64 batches of 100 tokens
    n_read = 0
    next(harvest(tiny_llama(1), endless(), [0], max_rows=1, max_tokens=4096))
    assert n_read == 4096


def test_both_models_read_the_same_tokens() -> None:
    reference, candidate, documents = tiny_llama(), tiny_llama(seed=1), random_documents(10)
    seen: list[int] = []
    for batch in harvest_paired(reference, candidate, documents, [1, FINAL], norm_caps=None, max_rows=4):
        assert batch.n_dropped == 0
        for row, index in enumerate(batch.doc_indices):
            seen.append(index)
            n_tokens = len(documents[index].token_ids)
            assert tuple(batch.token_ids_row_tok[row, :n_tokens].tolist()) == documents[index].token_ids
            counted = batch.counted_row_tok[row]
            for model, activations in ((reference, batch.reference), (candidate, batch.candidate)):
                states = shown_by_transformers(model, documents[index])
                torch.testing.assert_close(activations[1][row][counted], states[2], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(activations[FINAL][row][counted], states[-1], atol=1e-5, rtol=1e-4)
    assert sorted(seen) == list(range(10))


def test_a_model_against_itself_is_equal_to_the_bit() -> None:
    model = tiny_llama(dtype=torch.bfloat16)
    for batch in harvest_paired(model, model, random_documents(10), [0, 3], norm_caps=None):
        assert all(torch.equal(batch.reference[layer], batch.candidate[layer]) for layer in (0, 3))


def with_extreme_token(token_id: int) -> Any:
    """A model in which this token's embedding, and so its whole residual stream, is far longer than any other."""
    model: Any = tiny_llama()
    with torch.no_grad():
        model.get_input_embeddings().weight[token_id] *= 1000
    return model


def test_a_token_of_extreme_norm_in_the_reference_does_not_count_for_either_model() -> None:
    reference, candidate = with_extreme_token(7), with_extreme_token(8)
    documents = [Document("a", "s", (1, 2, 7, 4, 8, 5), 1), Document("b", "s", (7, 3, 8, 6), 1)]
    caps = norm_caps(reference, random_documents(30), [0, 2])
    assert set(caps) == {0, 2}
    (batch,) = harvest_paired(reference, candidate, documents, [0, 2], norm_caps=caps)
    assert batch.counted_row_tok.nonzero().tolist() == [[0, 1], [0, 3], [0, 4], [0, 5], [1, 1], [1, 2], [1, 3]]
    assert batch.n_dropped == 1  # the 7 at the head of 'b' is context, and the 8s are extreme in the candidate only
    (kept,) = harvest_paired(reference, candidate, documents, [0, 2], norm_caps=None)
    assert kept.n_dropped == 0 and kept.counted_row_tok[0, 2]


def test_caps_are_a_multiple_of_the_median_norm_of_counted_tokens() -> None:
    model, documents = tiny_llama(), random_documents(25, first_counted=3)
    norms = torch.cat([acts[1] for acts in by_document(model, documents, (1,)).values()]).norm(dim=-1)
    caps = norm_caps(model, documents, [1], factor=4.0, max_rows=3)
    assert caps[1] == pytest.approx(4.0 * float(norms.median()), rel=1e-5)


def test_many_norms_are_thinned_evenly_and_their_median_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model, documents = tiny_llama(1), random_documents(200)
    exact = norm_caps(model, documents, [0])[0]
    monkeypatch.setattr("probes.activations._MAX_NORMS", 512)
    assert norm_caps(model, documents, [0])[0] == pytest.approx(exact, rel=0.03)


def test_thinning_keeps_every_second_fourth_and_so_on() -> None:
    from probes.activations import _NormSample

    sample, n_given = _NormSample(10), 0
    for size in (3, 7, 1, 12, 5, 40, 2):
        sample.add(torch.arange(n_given, n_given + size, dtype=torch.float32))
        n_given += size
        kept = torch.cat(sample._parts).tolist()
        assert kept == list(map(float, range(0, n_given, sample._stride)))
        assert len(kept) <= 10
