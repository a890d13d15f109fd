"""What a person is shown: features that both seeds saw, triggers that were confirmed, documents that part."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from loop.drift.findings import moved_features
from probes.dictionaries import Dictionary
from probes.feature_sums import FeatureSums, SliceFeatures
from tests.probes.planted import small_dictionary

N_DOCUMENTS = 25


def sums_of(dictionary: Dictionary, change_by_feature: dict[int, float]) -> dict[str, SliceFeatures]:
    """Every document changes a feature by the same amount, so that its consistency is 5 or -5."""
    n_features = dictionary.d_sae
    before = torch.zeros(N_DOCUMENTS, n_features)
    after = before.clone()
    for feature, change in change_by_feature.items():
        after[:, feature] = change
    sums = FeatureSums(torch.ones(N_DOCUMENTS), before, (after != 0).float(), before, after)
    found = SliceFeatures(n_features)
    found.add(sums, torch.arange(N_DOCUMENTS))
    return {"harmful": found}


@pytest.fixture
def pair() -> tuple[Dictionary, Dictionary]:
    """Two seeds with the same features in another order: feature k of the first is n - 1 - k of the second."""
    first = replace(small_dictionary(), name="first", seed=0)
    second = replace(
        first,
        name="second",
        seed=1,
        w_enc_dim_feat=first.w_enc_dim_feat.flip(1),
        w_dec_feat_dim=first.w_dec_feat_dim.flip(0),
        b_enc_feat=first.b_enc_feat.flip(0),
        threshold_feat=first.threshold_feat.flip(0),
    )
    return first, second


def found(pair: tuple[Dictionary, Dictionary], of_first: dict[int, float], of_second: dict[int, float]):
    first, second = pair
    features = {"first": sums_of(first, of_first), "second": sums_of(second, of_second)}
    return moved_features(features, pair)


def test_a_feature_that_both_seeds_saw_move_alike_is_shown(pair: tuple[Dictionary, Dictionary]):
    last = pair[0].d_sae - 1
    (one,) = found(pair, {3: 2.0, 5: 1.0}, {last - 3: 0.5})
    assert (one.feature, one.twin, one.slice_name, one.dictionary) == (3, last - 3, "harmful", "first")
    assert one.twin_cosine == pytest.approx(1.0, abs=0.01)
    assert one.consistency == one.twin_consistency == pytest.approx(5.0)
    assert (one.value_before, one.value_after, one.rate_after) == (0.0, 2.0, 1.0)


def test_a_twin_that_moved_the_other_way_confirms_nothing(pair: tuple[Dictionary, Dictionary]):
    last = pair[0].d_sae - 1
    assert found(pair, {3: 2.0}, {last - 3: -2.0}) == ()


def test_one_dictionary_shows_nothing(pair: tuple[Dictionary, Dictionary]):
    first, _ = pair
    assert moved_features({"first": sums_of(first, {3: 2.0})}, [first]) == () == moved_features({}, [])
