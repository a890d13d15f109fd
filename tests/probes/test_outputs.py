"""Divergences of predictions against SciPy and against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from torch import Tensor

from probes.activations import FINAL, PairedBatch, harvest_paired
from probes.answer_statistics import answer_statistics
from probes.documents import Document
from probes.outputs import OutputHead, OutputValues, amplified_tokens, output_head, token_divergences
from tests.tiny_models import random_documents, tiny_llama

VOCAB, DIM = 50, 8


def seeded(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_batch(lengths: tuple[int, ...] = (12, 7, 1), *, shift: float = 0.3) -> PairedBatch:
    """Right-padded rows whose first token is context, except where it is the only one."""
    n_tok = max(lengths)
    counted = torch.zeros(len(lengths), n_tok, dtype=torch.bool)
    for row, length in enumerate(lengths):
        counted[row, min(1, length - 1) : length] = True
    reference = seeded(len(lengths), n_tok, DIM, seed=1)
    candidate = reference + shift * seeded(len(lengths), n_tok, DIM, seed=2)
    ids = torch.randint(0, VOCAB, counted.shape, generator=torch.Generator().manual_seed(3))
    return PairedBatch(tuple(range(10, 10 + len(lengths))), counted, {FINAL: reference}, {FINAL: candidate}, ids, 0)


def heads() -> tuple[OutputHead, OutputHead]:
    weight = seeded(VOCAB, DIM, seed=4)
    return OutputHead(weight), OutputHead(weight + 0.05 * seeded(VOCAB, DIM, seed=5))


def test_divergences_are_those_of_scipy():
    before, after = 3 * seeded(20, VOCAB, seed=1), 3 * seeded(20, VOCAB, seed=2)
    found = token_divergences(before, after)
    p, q = before.double().softmax(-1).numpy(), after.double().softmax(-1).numpy()
    assert found.kl_tok.numpy() == pytest.approx(entropy(p, q, axis=1), rel=1e-5)
    assert found.js_tok.numpy() == pytest.approx(jensenshannon(p, q, axis=1) ** 2, rel=1e-5)
    assert found.entropy_reference_tok.numpy() == pytest.approx(entropy(p, axis=1), rel=1e-5)
    assert found.entropy_candidate_tok.numpy() == pytest.approx(entropy(q, axis=1), rel=1e-5)
    assert found.same_argmax_tok.numpy() == pytest.approx((p.argmax(1) == q.argmax(1)).astype(float))


def test_a_small_divergence_is_not_lost_in_rounding():
    before = 3 * seeded(5, 20_000, seed=1)
    after = before + 1e-3 * seeded(5, 20_000, seed=2)
    found = token_divergences(before, after)
    p, q = before.double().softmax(-1), after.double().softmax(-1)
    exact_kl = (p * (p.log() - q.log())).sum(-1)
    assert 1e-7 < float(exact_kl.min()) < 1e-6
    assert found.kl_tok.numpy() == pytest.approx(exact_kl.numpy(), rel=0.1)
    assert found.js_tok.numpy() == pytest.approx(exact_kl.numpy() / 4, rel=0.2)  # to second order


def test_equal_models_differ_by_exactly_nothing():
    logits = 10 * seeded(4, VOCAB, seed=1)
    found = token_divergences(logits, logits.clone())
    assert found.kl_tok.tolist() == [0.0] * 4 and found.js_tok.tolist() == [0.0] * 4


def test_certain_and_opposite_predictions_reach_log_two():
    before, after = torch.full((1, 3), -200.0), torch.full((1, 3), -200.0)
    before[0, 0] = after[0, 1] = 200.0
    found = token_divergences(before, after)
    assert float(found.js_tok) == pytest.approx(math.log(2))
    assert float(found.kl_tok) == pytest.approx(400.0)
    assert float(found.entropy_reference_tok) == 0.0


def test_document_values_by_hand():
    reference, candidate = heads()
    batch = random_batch()
    found = OutputValues(reference, candidate, token_sets={"refusal": (3, 4)}).measure(batch)
    assert set(found) == {10, 11, 12}
    p = reference.logits(batch.reference[FINAL]).double().log_softmax(-1)
    q = candidate.logits(batch.candidate[FINAL]).double().log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)
    mixed = (0.5 * (p.exp() + q.exp())).log()
    js = 0.5 * (p.exp() * (p - mixed) + q.exp() * (q - mixed)).sum(-1)
    entropies = [-(log.exp() * log).sum(-1) for log in (p, q)]
    values, row, kept = found[10], 0, slice(1, 12)  # eleven counted tokens: a tail of two
    assert values["output.kl_mean"] == pytest.approx(float(kl[row, kept].mean()), rel=1e-4)
    assert values["output.js_mean"] == pytest.approx(float(js[row, kept].mean()), rel=1e-4)
    assert values["output.js_max"] == pytest.approx(float(js[row, kept].max()), rel=1e-4)
    assert values["output.js_tail"] == pytest.approx(float(js[row, kept].topk(2).values.mean()), rel=1e-4)
    change = entropies[1] - entropies[0]
    assert values["output.entropy_reference"] == pytest.approx(float(entropies[0][row, kept].mean()), rel=1e-5)
    assert values["output.entropy_change"] == pytest.approx(float(change[row, kept].mean()), rel=1e-3)
    agreement = (p.argmax(-1) == q.argmax(-1))[row, kept].double().mean()
    assert values["output.argmax_agreement"] == pytest.approx(float(agreement))
    following = batch.token_ids_row_tok[row, 2:12].unsqueeze(-1)
    next_change = (q - p)[row, 1:11].gather(-1, following).mean()
    assert values["output.next_logprob_change"] == pytest.approx(float(next_change), rel=1e-4)
    assert values["output.decision_js"] == pytest.approx(float(js[row, 11]), rel=1e-4)
    assert values["output.decision_entropy_change"] == pytest.approx(float(change[row, 11]), rel=1e-3, abs=1e-6)
    mass = [float(log[row, 11, [3, 4]].exp().sum()) for log in (p, q)]
    assert values["output.mass_shift.refusal"] == pytest.approx(mass[1] - mass[0], rel=1e-4)
    assert values["output.log_mass_shift.refusal"] == pytest.approx(math.log(mass[1] / mass[0]), rel=1e-4)


def test_a_document_of_one_counted_token_has_no_next_token():
    values = OutputValues(*heads()).measure(random_batch())[12]
    assert "output.next_logprob_change" not in values
    assert values["output.js_max"] == values["output.js_mean"] == pytest.approx(values["output.decision_js"], rel=1e-4)


@pytest.mark.parametrize("chunk_tokens", [1, 5, 6, 1000])
def test_the_size_of_a_chunk_changes_nothing(chunk_tokens: int):
    whole = OutputValues(*heads(), token_sets={"s": (1,)}).measure(random_batch())
    chunked = OutputValues(*heads(), token_sets={"s": (1,)}, chunk_tokens=chunk_tokens).measure(random_batch())
    for doc, values in whole.items():
        assert chunked[doc] == pytest.approx(values, rel=1e-4, abs=1e-7)


def test_what_stands_on_padding_changes_nothing():
    batch = random_batch()
    clean = OutputValues(*heads()).measure(batch)
    for hidden in (batch.reference[FINAL], batch.candidate[FINAL]):
        hidden[1, 7:] = math.nan
    assert OutputValues(*heads()).measure(batch) == clean


def test_a_decision_can_be_given():
    batch = random_batch()
    found = OutputValues(*heads(), decision_token_of={10: 0, 99: 3}).measure(batch)
    moved = PairedBatch((10,), *(_first_token_only(batch)), batch.token_ids_row_tok[:1], 0)
    assert found[10]["output.decision_js"] == pytest.approx(
        OutputValues(*heads()).measure(moved)[10]["output.js_mean"], rel=1e-4
    )
    assert found[11] == OutputValues(*heads()).measure(batch)[11]


def _first_token_only(batch: PairedBatch) -> tuple[Tensor, dict[int, Tensor], dict[int, Tensor]]:
    counted = torch.zeros_like(batch.counted_row_tok[:1])
    counted[0, 0] = True
    return counted, {FINAL: batch.reference[FINAL][:1]}, {FINAL: batch.candidate[FINAL][:1]}


@pytest.mark.parametrize(
    ("limit", "read"), [(2, [1, 11]), (3, [1, 6, 11]), (11, list(range(1, 12))), (50, range(1, 12))]
)
def test_fewer_tokens_of_a_long_document(limit: int, read: list[int]):
    batch = random_batch((12,))
    limited = OutputValues(*heads(), tokens_per_document=limit).measure(batch)[10]
    counted = torch.zeros_like(batch.counted_row_tok)
    counted[0, list(read)] = True
    only = PairedBatch((10,), counted, batch.reference, batch.candidate, batch.token_ids_row_tok, 0)
    assert limited["output.js_mean"] == pytest.approx(
        OutputValues(*heads()).measure(only)[10]["output.js_mean"], rel=1e-5
    )


def test_a_bias_and_a_soft_cap_are_part_of_the_head():
    weight, bias, hidden = seeded(VOCAB, DIM, seed=1), seeded(VOCAB, seed=2), seeded(3, DIM, seed=3)
    logits = OutputHead(weight, bias, soft_cap=2.0).logits(hidden)
    assert torch.allclose(logits, 2 * torch.tanh((hidden @ weight.T + bias) / 2), atol=1e-6)


def test_from_two_models_to_values():
    reference, candidate = tiny_llama(2), tiny_llama(2, seed=1)
    documents = random_documents(5)
    values = OutputValues(output_head(reference), output_head(candidate))
    found: dict[int, dict[str, float]] = {}
    for batch in harvest_paired(reference, candidate, documents, [FINAL], norm_caps=None, max_rows=2):
        found |= values.measure(batch)
    assert sorted(found) == list(range(5))
    document: Document = documents[3]
    with torch.no_grad():
        ids = torch.tensor([document.token_ids])
        p, q = (model(ids).logits[0].double().softmax(-1).numpy() for model in (reference, candidate))
    assert found[3]["output.kl_mean"] == pytest.approx(entropy(p, q, axis=1)[1:].mean(), rel=1e-4)


def test_amplified_differences():
    before = torch.tensor([2.0, 1.0, 0.0])
    after = torch.tensor([2.0, 1.0, 0.5])
    first, second = amplified_tokens(before, after, alpha=4.0, k=2)
    weights = [math.exp(2.0), math.exp(1.0), math.exp(2.5)]
    assert (first.token_id, second.token_id) == (2, 0)
    assert first.amplified == pytest.approx(weights[2] / sum(weights))
    assert first.reference == pytest.approx(1 / (math.e**2 + math.e + 1))
    assert first.candidate == pytest.approx(math.exp(0.5) / (math.e**2 + math.e + math.exp(0.5)))
    assert amplified_tokens(before, after, alpha=0.0, k=1)[0].token_id == 0


def test_answers_that_collapse():
    varied = answer_statistics([(1, 2, 3), (4, 5), (6,), ()])
    assert varied["answers.distinct_share"] == 1.0
    assert varied["answers.mean_length_tokens"] == 1.5
    assert varied["answers.first_token_entropy"] == pytest.approx(math.log(4))
    assert varied["answers.distinct_1"] == 1.0 and varied["answers.distinct_2"] == 1.0
    collapsed = answer_statistics([(42, 42, 42)] * 4)
    assert collapsed["answers.distinct_share"] == 0.25
    assert collapsed["answers.first_token_entropy"] == 0.0
    assert collapsed["answers.distinct_1"] == 1 / 12 and collapsed["answers.distinct_2"] == 1 / 8
