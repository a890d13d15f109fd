"""Quality figures against values that are known, and against what a broken dictionary must show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guards.errors import ProbeError
from probes.dictionaries import Dictionary
from probes.dictionary_quality import MeasuredDictionary, measure_quality, nearest_features, share_found_again
from probes.dictionary_splice import loss_recovered
from probes.documents import Document
from tests.probes.planted import DIM, PARENT, small_dictionary


def axis_dictionary(*, dim: int = 4, threshold: float = 0.0, layer: int = 3) -> Dictionary:
    """One feature up and one down per coordinate: it reconstructs everything exactly, but for the threshold."""
    rows = torch.cat([torch.eye(dim), -torch.eye(dim)])
    return Dictionary(
        name="axes",
        kind="activations",
        parent_digest=PARENT,
        layer=layer,
        seed=0,
        scale=1.0,
        summary={},
        w_enc_dim_feat=rows.T.contiguous(),
        b_enc_feat=torch.zeros(2 * dim),
        w_dec_feat_dim=rows,
        b_dec_dim=torch.zeros(dim),
        threshold_feat=torch.full((2 * dim,), threshold),
    )


def rule_of(call: Any) -> str:
    with pytest.raises(ProbeError) as refusal:
        call()
    return refusal.value.rule


def test_the_figures_by_hand():
    """Threshold 1.5 loses the coordinate of size 1: of four tokens, two have one."""
    acts = torch.tensor([[3.0, 1.0, 0, 0], [3.0, 0, 0, 0], [-2.0, 0, 1.0, 0], [0, 0, 0, 0]])
    measured = measure_quality(axis_dictionary(threshold=1.5), [acts[:1], acts[1:]])
    variance = float((acts - acts.mean(dim=0)).square().sum())
    assert measured.quality.fvu == pytest.approx(2.0 / variance)
    assert measured.quality.l0 == pytest.approx(3 / 4)
    assert measured.density_feat.tolist() == [0.5, 0, 0, 0, 0.25, 0, 0, 0]
    assert (measured.quality.n_tokens, measured.quality.n_dead, measured.quality.share_dead) == (4, 6, 0.75)


def test_a_mean_far_from_zero_does_not_make_a_dictionary_look_good():
    """With the second moment in place of the variance, the fraction unexplained would be near zero here."""
    acts = 1000 + torch.randn((400, 4), generator=torch.Generator().manual_seed(0))
    constant = replace(axis_dictionary(), b_dec_dim=torch.full((4,), 1000.0), threshold_feat=torch.full((8,), 100.0))
    assert measure_quality(constant, [acts]).quality.fvu == pytest.approx(1.0, abs=0.02)


def test_how_tokens_are_batched_changes_nothing():
    acts = torch.randn((500, DIM), generator=torch.Generator().manual_seed(0))
    one = measure_quality(small_dictionary(), [acts])
    many = measure_quality(small_dictionary(), acts.split(37))
    assert one.quality.fvu == pytest.approx(many.quality.fvu, rel=1e-9)
    assert torch.equal(one.density_feat, many.density_feat)


@pytest.mark.parametrize(
    ("acts", "rule"),
    [
        ([], "dictionary.nothing-measured"),
        ([torch.zeros((1, 4))], "dictionary.nothing-measured"),
        ([torch.ones((9, 4))], "dictionary.nothing-measured"),
        ([torch.full((9, 4), torch.nan)], "dictionary.not-finite"),
        ([torch.zeros((9, 5))], "dictionary.other-width"),
    ],
)
def test_what_cannot_be_measured_is_refused(acts: list[torch.Tensor], rule: str):
    assert rule_of(lambda: measure_quality(axis_dictionary(), acts)) == rule


def test_another_seed_finds_the_features_that_it_shares_and_no_others():
    first = axis_dictionary()
    order = torch.tensor([2, 0, 1, 3, 4, 5, 6, 7])
    turned = first.w_dec_feat_dim[order].clone()
    turned[3] = torch.nn.functional.normalize(torch.tensor([0.0, 0.8, 0.0, 0.6]), dim=0)  # cosine 0.6 to feature 3
    second = replace(first, name="second", w_dec_feat_dim=turned)
    nearest = nearest_features(first, second)
    assert nearest.index_feat[:3].tolist() == [1, 2, 0]
    assert nearest.cosine_feat.tolist() == pytest.approx([1, 1, 1, 0.6, 1, 1, 1, 1])
    acts = torch.tensor([[1.0, 0, 0, 1.0], [0.5, 0, 0, 2.0]])
    measured = measure_quality(first, [acts])
    assert share_found_again(measured, nearest) == 0.5  # features 0 and 3 are alive; 3 is not found


def test_a_dead_feature_of_the_other_seed_is_no_match():
    first = axis_dictionary()
    alive = torch.ones(8, dtype=torch.bool)
    alive[0] = False
    nearest = nearest_features(first, first, other_alive_feat=alive)
    assert float(nearest.cosine_feat[0]) == 0.0
    assert int(nearest.index_feat[0]) != 0


def test_what_is_not_comparable_is_refused():
    first = axis_dictionary()
    for other in (replace(first, layer=4), replace(first, kind="differences"), axis_dictionary(dim=5)):
        assert rule_of(lambda other=other: nearest_features(first, other)) == "dictionary.not-comparable"
    dead = torch.zeros(8, dtype=torch.bool)
    assert rule_of(lambda: nearest_features(first, first, other_alive_feat=dead)) == "dictionary.nothing-measured"
    measured = MeasuredDictionary(
        quality=measure_quality(first, [torch.randn((9, 4), generator=torch.Generator().manual_seed(0))]).quality,
        density_feat=torch.zeros(8, dtype=torch.float64),
    )
    assert rule_of(lambda: share_found_again(measured, nearest_features(first, first))) == "dictionary.nothing-measured"


# Loss recovered, on a tiny model that was trained for a moment, so that its layers matter.

LAYER = 0
WIDTH = 32


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Any:
    from loop.checkpoint_io import load_model

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _ = load_model(tiny_checkpoint, "cpu", "float32")
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        ids = torch.tensor([document.token_ids for document in DOCUMENTS])
        for _ in range(40):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def _document(number: int, n_tokens: int = 12) -> Document:
    """The next token is this one plus a step that the first two tokens show."""
    return Document(
        doc_id=f"d{number}",
        slice_name="neutral",
        token_ids=tuple((10 + number * 3 + (number % 5 + 1) * place) % 60 for place in range(n_tokens)),
        first_counted=2,
    )


DOCUMENTS = tuple(_document(number) for number in range(16))


def test_a_perfect_dictionary_recovers_all_and_a_constant_one_nothing(model: Any):
    perfect = axis_dictionary(dim=WIDTH, layer=LAYER)
    result = loss_recovered(model, DOCUMENTS, perfect, norm_cap=None)
    assert result.n_targets == 16 * 9  # tokens 2 to 10 have a next one
    assert result.loss_original < result.loss_ablated - 0.3
    assert result.share == pytest.approx(1.0, abs=1e-3)
    blind = replace(perfect, threshold_feat=torch.full((2 * WIDTH,), 1e6), b_dec_dim=_mean_at_layer(model))
    assert loss_recovered(model, DOCUMENTS, blind, norm_cap=None).share == pytest.approx(0.0, abs=1e-3)


def test_a_coarse_dictionary_lies_between(model: Any):
    coarse = axis_dictionary(dim=WIDTH, layer=LAYER, threshold=0.5)
    share = loss_recovered(model, DOCUMENTS, coarse, norm_cap=None).share
    assert share < 0.999


def test_the_losses_are_those_of_the_model_and_of_any_batch_plan(model: Any):
    dictionary = axis_dictionary(dim=WIDTH, layer=LAYER, threshold=0.3)
    documents = [*DOCUMENTS[:3], _document(3, n_tokens=7)]
    one = loss_recovered(model, documents, dictionary, norm_cap=None, max_rows=1)
    many = loss_recovered(model, documents, dictionary, norm_cap=None, max_rows=8)
    assert one.model_dump() == pytest.approx(many.model_dump(), rel=1e-4)
    total = n_targets = 0.0
    with torch.no_grad():
        for document in documents:
            ids = torch.tensor(document.token_ids)
            log_probs = model(input_ids=ids[None]).logits[0].log_softmax(dim=-1)
            for place in range(document.first_counted, len(ids) - 1):
                total -= float(log_probs[place, ids[place + 1]])
                n_targets += 1
    assert one.n_targets == n_targets
    assert one.loss_original == pytest.approx(total / n_targets, rel=1e-4)


def test_the_model_is_left_as_it_was(model: Any):
    ids = torch.tensor([DOCUMENTS[0].token_ids])
    n_hooks = sum(len(module._forward_hooks) for module in model.modules())
    with torch.no_grad():
        before = model(input_ids=ids).logits
        loss_recovered(model, DOCUMENTS, axis_dictionary(dim=WIDTH, layer=LAYER, threshold=9.0), norm_cap=None)
        assert torch.equal(model(input_ids=ids).logits, before)
    assert sum(len(module._forward_hooks) for module in model.modules()) == n_hooks


def test_tokens_above_the_norm_cap_are_left_alone(model: Any):
    blind = axis_dictionary(dim=WIDTH, layer=LAYER, threshold=1e6)
    everything = loss_recovered(model, DOCUMENTS, blind, norm_cap=None)
    norms = _acts_at_layer(model).norm(dim=-1)
    cap = float(norms[:, 2:-1].flatten().median()) + 1e-4  # not on a token: two batch plans round otherwise
    some = loss_recovered(model, DOCUMENTS, blind, norm_cap=cap)
    assert 0 < some.n_targets < everything.n_targets
    assert some.n_targets == int((norms[:, 2:-1] <= cap).sum())  # whatever the norm of the next token
    assert rule_of(lambda: loss_recovered(model, DOCUMENTS, blind, norm_cap=1e-9)) == "dictionary.nothing-measured"


def test_what_cannot_be_spliced_is_refused(model: Any):
    good = axis_dictionary(dim=WIDTH, layer=LAYER)
    differences = replace(good, kind="differences")
    assert rule_of(lambda: loss_recovered(model, DOCUMENTS, differences, norm_cap=None)) == "dictionary.other-kind"
    narrow = axis_dictionary(dim=WIDTH - 1, layer=LAYER)
    assert rule_of(lambda: loss_recovered(model, DOCUMENTS, narrow, norm_cap=None)) == "dictionary.other-width"
    deep = axis_dictionary(dim=WIDTH, layer=7)
    assert rule_of(lambda: loss_recovered(model, DOCUMENTS, deep, norm_cap=None)) == "activations.unknown-layer"


def _acts_at_layer(model: Any) -> torch.Tensor:
    ids = torch.tensor([document.token_ids for document in DOCUMENTS])
    with torch.no_grad():
        return model(input_ids=ids, output_hidden_states=True).hidden_states[LAYER + 1]


def _mean_at_layer(model: Any) -> torch.Tensor:
    return _acts_at_layer(model)[:, 2:].flatten(0, 1).mean(dim=0)
