"""Per-document values of activations of which every difference is known."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from probes.activations import FINAL, PairedBatch
from probes.control_directions import principal_directions, random_directions
from probes.document_values import DocumentValues
from probes.documents import Document
from probes.random_dictionary import random_dictionary
from tests.probes.planted import DIM, LAYER, planted_activations, planted_directions, small_dictionary

LENGTHS = (9, 5, 1)
DOCUMENTS = [Document(f"d{i}", "chat" if i == 1 else "neutral", (0,) * n, 1) for i, n in enumerate(LENGTHS)]


def axis(index: int) -> Tensor:
    return torch.eye(DIM)[index]


def random_batch(*, doc_indices: tuple[int, ...] = (0, 1, 2), seed: int = 3) -> PairedBatch:
    """Layers LAYER and FINAL; the first token of each row is context, except where it is the only one."""
    counted = torch.zeros(len(doc_indices), max(LENGTHS), dtype=torch.bool)
    for row, doc in enumerate(doc_indices):
        counted[row, min(1, LENGTHS[doc] - 1) : LENGTHS[doc]] = True
    n_tokens = counted.numel()
    sides: list[dict[int, Tensor]] = []
    for side in range(2):
        acts = planted_activations(2 * n_tokens, planted_directions(), seed=seed + side)
        sides.append(
            {
                LAYER: acts[:n_tokens].reshape(*counted.shape, DIM),
                FINAL: acts[n_tokens:].reshape(*counted.shape, DIM),
            }
        )
    ids = torch.zeros(counted.shape, dtype=torch.long)
    return PairedBatch(doc_indices, counted, sides[0], sides[1], ids, 0)


def test_layer_values_by_hand():
    batch = random_batch()
    values = DocumentValues(DOCUMENTS, [LAYER, FINAL], {LAYER: {"a": axis(2)}, FINAL: {"b": axis(3)}}).measure(batch)
    for doc, length in enumerate(LENGTHS):
        kept = slice(min(1, length - 1), length)
        for layer, label, name, at in ((LAYER, f"L{LAYER}", "a", 2), (FINAL, "final", "b", 3)):
            before, after = batch.reference[layer][doc, kept].double(), batch.candidate[layer][doc, kept].double()
            difference = after - before
            found = values[doc]
            assert found[f"proj.{name}.{label}"] == pytest.approx(float(difference[:, at].mean()), abs=1e-6)
            assert found[f"last.{name}.{label}"] == pytest.approx(float(difference[-1, at]), abs=1e-6)
            shift = difference.mean(0).norm() / before.mean(0).norm()
            assert found[f"shift.{label}"] == pytest.approx(math.log10(shift), abs=1e-5)
            relative = (difference.norm(dim=1) / before.norm(dim=1)).mean()
            assert found[f"token_shift.{label}"] == pytest.approx(math.log10(relative), abs=1e-5)
            cosine = torch.nn.functional.cosine_similarity(before.mean(0), after.mean(0), dim=0)
            assert found[f"cosine.{label}"] == pytest.approx(float(cosine), abs=1e-7)
            if len(before) > 1:  # by features here, by tokens in the module
                x, y = (acts - acts.mean(0) for acts in (before, after))
                cka = (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
                assert found[f"cka.{label}"] == pytest.approx(float(cka), rel=1e-5)
            else:
                assert found[f"cka.{label}"] == 1.0
    assert "proj.a.final" not in values[0]


def test_dictionary_values_by_hand():
    batch, dictionary = random_batch(), small_dictionary()
    values = DocumentValues(DOCUMENTS, [LAYER], {}, [dictionary], chunk_tokens=4).measure(batch)
    for doc, length in enumerate(LENGTHS):
        kept = slice(min(1, length - 1), length)
        before, after = batch.reference[LAYER][doc, kept], batch.candidate[LAYER][doc, kept]
        f, g = dictionary.encode(before), dictionary.encode(after)
        rate = (g > 0).float().mean(0) - (f > 0).float().mean(0)
        mean = g.mean(0) - f.mean(0)
        found = values[doc]
        assert found["firing_l1.small"] == pytest.approx(float(rate.abs().sum()), rel=1e-5)
        assert found["firing_l2.small"] == pytest.approx(float(rate.norm()), rel=1e-5)
        assert found["activation_l2.small"] == pytest.approx(float(mean.norm()), rel=1e-4)
        assert found["activation_max.small"] == pytest.approx(float(mean.abs().max()), rel=1e-4)
        fvu = [
            float((acts - dictionary.decode(h)).square().sum() / (acts - dictionary.b_dec_dim).square().sum())
            for acts, h in ((before, f), (after, g))
        ]
        assert (found["fvu_reference.small"], found["fvu_candidate.small"]) == pytest.approx(fvu, rel=1e-4)
        assert found["fvu_log_ratio.small"] == pytest.approx(math.log10(fvu[1] / fvu[0]), abs=1e-4)


def test_sums_per_slice():
    batch, dictionary = random_batch(), small_dictionary()
    measured = DocumentValues(DOCUMENTS, [LAYER], {}, [dictionary])
    measured.measure(batch)
    slices = measured.features("small")
    assert {name: (s.n_documents, s.n_tokens) for name, s in slices.items()} == {"chat": (1, 4), "neutral": (2, 9)}
    tokens = [
        (batch.reference[LAYER][r, k], batch.candidate[LAYER][r, k]) for r, k in ((0, slice(1, 9)), (2, slice(0, 1)))
    ]
    encoded = [(dictionary.encode(before), dictionary.encode(after)) for before, after in tokens]
    neutral = slices["neutral"]
    fired = torch.stack([(f > 0).sum(0) for f, _ in encoded]).sum(0)
    assert torch.equal(neutral.reference_fired_feat, fired.double())
    changes = torch.stack([g.mean(0) - f.mean(0) for f, g in encoded]).double()
    assert torch.allclose(neutral.value_change_feat, changes.sum(0), atol=1e-5)
    assert torch.allclose(neutral.value_change_sq_feat, changes.square().sum(0), atol=1e-4)
    rates = torch.stack([(g > 0).double().mean(0) - (f > 0).double().mean(0) for f, g in encoded])
    assert torch.allclose(neutral.rate_change_feat, rates.sum(0), atol=1e-6)
    consistency = torch.nan_to_num(changes.sum(0) / changes.square().sum(0).sqrt())
    assert torch.allclose(neutral.consistency_feat(), consistency, atol=1e-4)
    top = neutral.moved(3)
    assert [abs(m.consistency) for m in top] == sorted((abs(m.consistency) for m in top), reverse=True)
    values_after = torch.cat([g for _, g in encoded]).mean(0)
    assert top[0].value_after == pytest.approx(float(values_after[top[0].feature]), abs=1e-5)
    assert top[0].rate_before == pytest.approx(float(fired[top[0].feature]) / 9)


def test_batches_and_chunks_change_nothing():
    whole = DocumentValues(DOCUMENTS, [LAYER], {LAYER: {"a": axis(0)}}, [small_dictionary()])
    expected = whole.measure(random_batch())
    parts = DocumentValues(DOCUMENTS, [LAYER], {LAYER: {"a": axis(0)}}, [small_dictionary()], chunk_tokens=3)
    batch = random_batch()
    found: dict[int, dict[str, float]] = {}
    for row in (2, 0, 1):
        one = slice(row, row + 1)
        sides = [{LAYER: side[LAYER][one]} for side in (batch.reference, batch.candidate)]
        found |= parts.measure(PairedBatch((row,), batch.counted_row_tok[one], *sides, batch.token_ids_row_tok[one], 0))
    for doc, values in expected.items():
        assert found[doc] == pytest.approx(values, rel=1e-4, abs=1e-6)
    for name, sums in whole.features("small").items():
        other = parts.features("small")[name]
        assert torch.equal(sums.candidate_fired_feat, other.candidate_fired_feat)
        assert torch.allclose(sums.value_change_feat, other.value_change_feat, atol=1e-5)


def test_a_candidate_equal_to_the_reference_has_moved_nothing():
    batch = random_batch()
    same = replace(batch, candidate=batch.reference)
    measured = DocumentValues(DOCUMENTS, [LAYER], {LAYER: {"a": axis(0)}}, [small_dictionary()])
    for values in measured.measure(same).values():
        assert values[f"shift.L{LAYER}"] == values[f"token_shift.L{LAYER}"] == -6.0
        assert values[f"cosine.L{LAYER}"] == pytest.approx(1.0)
        assert values["fvu_log_ratio.small"] == 0.0
        zeros = [f"proj.a.L{LAYER}", f"last.a.L{LAYER}", "firing_l1.small", "activation_l2.small"]
        assert [values[name] for name in zeros] == [0.0] * 4
    assert measured.features("small")["neutral"].moved(5) == ()


def test_what_stands_on_padding_and_context_changes_nothing():
    make = lambda: DocumentValues(DOCUMENTS, [LAYER], {LAYER: {"a": axis(0)}}, [small_dictionary()])  # noqa: E731
    batch = random_batch()
    clean = make().measure(batch)
    for side in (batch.reference, batch.candidate):
        side[LAYER][~batch.counted_row_tok] = math.nan
    assert make().measure(batch) == clean


def test_bfloat16_activations_are_widened_before_they_are_summed():
    batch = random_batch()
    rounded = replace(
        batch,
        reference={LAYER: batch.reference[LAYER].bfloat16()},
        candidate={LAYER: batch.candidate[LAYER].bfloat16()},
    )
    widened = replace(
        rounded,
        reference={LAYER: rounded.reference[LAYER].float()},
        candidate={LAYER: rounded.candidate[LAYER].float()},
    )
    measure = lambda b: DocumentValues(DOCUMENTS, [LAYER], {LAYER: {"a": axis(0)}}).measure(b)  # noqa: E731
    assert measure(rounded) == measure(widened)


def test_a_dictionary_of_differences_reads_the_difference():
    batch = random_batch()
    dictionary = replace(small_dictionary(kind="differences"), name="diff")
    values = DocumentValues(DOCUMENTS, [LAYER], {}, [dictionary]).measure(batch)[0]
    encoded = dictionary.encode((batch.candidate[LAYER] - batch.reference[LAYER])[0, 1:9])
    assert values["activation_max.diff"] == pytest.approx(float(encoded.mean(0).max()), rel=1e-5)
    assert values["firing_l1.diff"] == pytest.approx(float((encoded > 0).float().mean(0).sum()), rel=1e-5)
    assert "fvu_reference.diff" not in values


def test_a_random_dictionary_fires_as_often_as_the_trained_one():
    acts = planted_activations(3000, planted_directions(), seed=1)
    trained = small_dictionary()
    # One feature that never fires and one that always does, beside those in between.
    trained.threshold_feat[0] = 1e4
    trained.b_enc_feat[1] = 1e4
    control = random_dictionary(trained, acts, seed=7, name="random")
    expected = (trained.encode(acts) > 0).sum(0)
    assert int(expected[0]) == 0 and int(expected[1]) == 3000
    assert torch.equal((control.encode(acts) > 0).sum(0), expected)
    assert torch.allclose(control.w_dec_feat_dim.norm(dim=1), torch.ones(trained.d_sae), atol=1e-6)
    assert torch.equal(control.w_enc_dim_feat, control.w_dec_feat_dim.T)
    fresh = planted_activations(3000, planted_directions(), seed=2)
    rates = (control.encode(fresh) > 0).float().mean(0)
    assert torch.allclose(rates, expected / 3000, atol=0.05)
    assert torch.equal(random_dictionary(trained, acts, seed=7, name="x").w_dec_feat_dim, control.w_dec_feat_dim)
    assert not torch.equal(random_dictionary(trained, acts, seed=8, name="x").w_dec_feat_dim, control.w_dec_feat_dim)


def test_control_directions():
    random = random_directions(DIM, 3, seed=1)
    assert list(random) == ["random0", "random1", "random2"]
    assert all(float(vector.norm()) == pytest.approx(1.0) for vector in random.values())
    spread = torch.randn(2000, DIM, generator=torch.Generator().manual_seed(0))
    spread[:, 5] *= 9
    spread[:, 2] *= 4
    found = principal_directions(spread + 100, 2)
    assert float(found["pca0"] @ axis(5)) == pytest.approx(1.0, abs=1e-2)
    assert float(found["pca1"] @ axis(2)) == pytest.approx(1.0, abs=1e-2)
