"""Directions find what was planted, are judged on other pairs, and come back from their file as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from guards.canonical import sha256_bytes
from loop.checkpoint_io import load_model
from probes.activations import harvest
from probes.contrast_activations import contrast_documents, read_contrasts
from probes.contrast_prompts import read_contrast_set
from probes.directions import (
    USABLE_ABOVE,
    Direction,
    DirectionSet,
    fit_direction,
    fit_directions,
    load_directions,
    save_directions,
)
from probes.separation import Separation, auroc, hanley_mcneil_variance, measure_separation, newcombe_interval
from tests.probes.contrast_files import contrast_lines, contrast_pairs, write_contrasts

DIM = 48
PARENT = sha256_bytes(b"parent")
CONTRASTS = {"mood": sha256_bytes(b"mood"), "tone": sha256_bytes(b"tone")}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors here are tiny: on a busy machine several threads only wait for each other."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def planted_pairs(n_pairs: int, *, shift: float = 2.0, loud: float = 1.0, seed: int = 0) -> torch.Tensor:
    """``[pair, side, dim]``: a subject of each pair and noise; the sides differ by ``shift`` along coordinate 0.

    Coordinate 1 carries no signal and varies ``loud`` times as much as the others.
    """
    generator = torch.Generator().manual_seed(seed)
    subject = torch.randn((n_pairs, 1, DIM), generator=generator)
    acts = subject + torch.randn((n_pairs, 2, DIM), generator=generator) + 20.0
    acts[:, :, 1] = 20.0 + loud * torch.randn((n_pairs, 2), generator=generator)
    acts[:, 0, 0] += shift / 2
    acts[:, 1, 0] -= shift / 2
    return acts


def planted(concept: str, layer: int, *, shift: float = 4.0, seed: int = 0) -> Direction:
    return fit_direction(
        concept, layer, planted_pairs(60, shift=shift, seed=seed), planted_pairs(40, shift=shift, seed=seed + 1)
    )


def planted_set() -> DirectionSet:
    return DirectionSet(
        PARENT, CONTRASTS, tuple(planted(concept, layer, seed=layer) for concept in CONTRASTS for layer in (3, 1))
    )


# The intervals


def test_auroc_and_standard_error_of_hanley_and_mcneil() -> None:
    """Their data of 1982: 109 CT images, rated 1 to 5. Published: area 0.893, standard error 0.032."""
    ratings = torch.arange(1.0, 6.0)
    normal = ratings.repeat_interleave(torch.tensor([33, 6, 6, 11, 2]))
    abnormal = ratings.repeat_interleave(torch.tensor([3, 2, 2, 11, 33]))
    area = auroc(abnormal, normal)
    assert area == pytest.approx(0.893, abs=5e-4)
    standard_error = hanley_mcneil_variance(area, 51, 58, mean_sizes=False) ** 0.5
    assert standard_error == pytest.approx(0.032, abs=1e-3)
    assert auroc(normal, abnormal) == pytest.approx(1 - area)


def test_the_interval_solves_newcombes_equation_and_never_shrinks_to_a_point() -> None:
    lower, upper = newcombe_interval(0.8, 30, 50)
    for theta in (lower, upper):
        variance = hanley_mcneil_variance(theta, 30, 50, mean_sizes=True)
        assert abs(theta - 0.8) == pytest.approx(1.959964 * variance**0.5, rel=1e-5)
    assert lower < 0.8 < upper
    perfect = newcombe_interval(1.0, 40, 40)
    assert perfect[1] == 1.0
    assert 0.9 < perfect[0] < 0.96
    assert newcombe_interval(0.0, 40, 40) == pytest.approx((0.0, 1 - perfect[0]))


def test_the_lower_end_covers_at_its_level_on_pairs() -> None:
    """On pairs with a common subject the true area is above the lower end at least 97.5% of the time."""
    generator = torch.Generator().manual_seed(3)
    n_runs, n_pairs, true_area = 1500, 40, 0.7602  # P(N(1, 2) > N(0, 2)) = Phi(1 / sqrt(4 * 0.5))
    subject = 0.5**0.5 * torch.randn((n_runs, n_pairs, 1), generator=generator)
    own = 0.5**0.5 * torch.randn((n_runs, n_pairs, 2), generator=generator)
    scores = subject + own + torch.tensor([1.0, 0.0])
    misses = sum(measure_separation(one).lower > true_area for one in scores)
    assert misses / n_runs <= 0.025 + 0.01


def test_ties_count_half() -> None:
    assert auroc(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])) == 0.75


# The fit


def test_the_planted_coordinate_is_found_and_projections_are_in_standard_deviations() -> None:
    direction = planted("mood", 3)
    assert direction.vector_dim.norm() == pytest.approx(1.0, abs=1e-5)
    assert float(direction.vector_dim[0]) > 0.9
    projected = direction.project(planted_pairs(400, shift=4.0, seed=9))
    assert projected.shape == (400, 2)
    assert float(projected.mean()) == pytest.approx(0.0, abs=0.15)
    assert float(projected.var(dim=0).mean().sqrt()) == pytest.approx(1.0, abs=0.15)
    assert float(projected[:, 0].mean()) > 1.0


def test_a_direction_is_usable_only_where_held_out_pairs_say_so() -> None:
    good = planted("mood", 3)
    assert good.usable
    assert good.facts.held_out.lower > USABLE_ABOVE
    fit = planted_pairs(60, shift=4.0)
    for held_out in (planted_pairs(40, shift=0.0, seed=5), planted_pairs(40, shift=-4.0, seed=5)):
        assert not fit_direction("mood", 3, fit, held_out).usable
    few = fit_direction("mood", 3, fit, planted_pairs(2, shift=40.0, seed=5))
    assert few.facts.held_out.auroc == 1.0
    assert not few.usable, "two pairs prove nothing"


def test_held_out_pairs_change_neither_the_vector_nor_the_choice() -> None:
    fit = planted_pairs(60, shift=1.0, loud=30.0)
    one = fit_direction("mood", 3, fit, planted_pairs(40, shift=1.0, seed=1))
    two = fit_direction("mood", 3, fit, planted_pairs(40, shift=-9.0, seed=2))
    assert torch.equal(one.vector_dim, two.vector_dim)
    assert one.facts.whitened == two.facts.whitened
    assert (one.midpoint, one.scale) == (two.midpoint, two.scale)


def test_whitening_is_taken_where_a_loud_coordinate_drowns_the_signal() -> None:
    fit, held_out = planted_pairs(80, shift=3.0, loud=60.0), planted_pairs(60, shift=3.0, loud=60.0, seed=1)
    chosen = fit_direction("mood", 3, fit, held_out)
    plain = fit_direction("mood", 3, fit, held_out, whiten=False)
    assert chosen.facts.whitened
    assert chosen.facts.fold_auroc_whitened > chosen.facts.fold_auroc_plain
    assert chosen.facts.held_out.auroc > plain.facts.held_out.auroc + 0.1


def test_whitening_divides_by_what_varies_within_the_sides_not_between_them() -> None:
    fit = planted_pairs(60, shift=20.0)
    assert float(fit_direction("mood", 3, fit, fit, whiten=True).vector_dim[0]) > 0.9


def test_whitening_takes_off_what_a_quiet_coordinate_shares_with_a_loud_one() -> None:
    """Coordinate 2 is the signal plus what coordinate 1 has alone: only their difference separates."""
    acts = planted_pairs(200, shift=0.0, loud=3.0)
    acts[:, :, 2] = acts[:, :, 1] + 0.3 * torch.randn((200, 2), generator=torch.Generator().manual_seed(4))
    acts[:, 0, 2] += 3.0
    plain = fit_direction("mood", 3, acts[:120], acts[120:], whiten=False)
    whitened = fit_direction("mood", 3, acts[:120], acts[120:], whiten=True)
    assert float(whitened.vector_dim[1]) < 0 < float(plain.vector_dim[1])
    assert whitened.facts.held_out.auroc > plain.facts.held_out.auroc


def test_whitened_projections_do_not_depend_on_the_unit_of_a_coordinate() -> None:
    acts, unit_dim = planted_pairs(80, shift=1.0), torch.ones(DIM)
    unit_dim[[0, 5]] = torch.tensor([0.2, 10.0])
    one = fit_direction("mood", 3, acts, acts, whiten=True).project(acts)
    other = fit_direction("mood", 3, acts * unit_dim, acts * unit_dim, whiten=True).project(acts * unit_dim)
    assert torch.allclose(one, other, atol=1e-3)


def test_folds_are_scored_on_pairs_that_the_vector_has_not_seen() -> None:
    """Pure noise in more coordinates than pairs: seen pairs would look perfectly separated."""
    noise = torch.randn((24, 2, 400), generator=torch.Generator().manual_seed(8))
    facts = fit_direction("mood", 3, noise, noise).facts
    assert facts.held_out.auroc > 0.95
    assert facts.fold_auroc_plain < 0.75
    assert facts.fold_auroc_whitened < 0.75


def test_equal_folds_keep_the_plain_difference() -> None:
    direction = planted("mood", 3, shift=60.0)
    assert direction.facts.fold_auroc_plain == direction.facts.fold_auroc_whitened == 1.0
    assert not direction.facts.whitened


def test_a_coordinate_that_never_varies_does_not_take_over() -> None:
    fit = planted_pairs(60, shift=4.0)
    fit[:, :, 7] = 20.0
    fit[0, 0, 7] += 1e-3
    assert abs(float(fit_direction("mood", 3, fit, fit, whiten=True).vector_dim[7])) < 0.1


# On a model


@pytest.fixture(scope="module")
def loaded(tiny_checkpoint: Path) -> tuple[Any, Any]:
    return load_model(tiny_checkpoint, "cpu", "float32")


@pytest.mark.parametrize("with_prompt", [True, False])
def test_contrasts_are_read_where_they_should_be(loaded: tuple[Any, Any], with_prompt: bool) -> None:
    model, tokenizer = loaded
    pairs = contrast_pairs(with_prompt=with_prompt)[:3]
    documents = contrast_documents(tokenizer, pairs)
    first = documents[1]  # the negative side of the first pair
    counted = tokenizer.decode(first.token_ids[first.first_counted :])
    if with_prompt:
        assert counted == pairs[0].negative
    else:
        assert len(first.token_ids) - first.first_counted == 1
        assert pairs[0].negative in tokenizer.decode(first.token_ids)
        assert tokenizer.decode(first.token_ids).endswith("<|im_start|>assistant\n")
    pooled = read_contrasts(model, tokenizer, pairs, [1, 0])
    assert {layer: tuple(acts.shape) for layer, acts in pooled.items()} == {1: (3, 2, 32), 0: (3, 2, 32)}
    (alone,) = harvest(model, [first], [1])
    expected = alone.acts_layer_row_tok_feat[1][0, first.first_counted : len(first.token_ids)].mean(dim=0)
    assert torch.allclose(pooled[1][0, 1], expected, atol=1e-5)


def test_directions_of_a_model_come_for_every_concept_and_layer(loaded: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = loaded
    sets = {
        name: read_contrast_set(
            write_contrasts(tmp_path, contrast_lines(concept=name, with_prompt=name == "mood"), concept=name)
        )
        for name in ("tone", "mood")
    }
    directions = fit_directions(model, tokenizer, sets, [1, 0], parent_digest=PARENT)
    assert directions.layers == (0, 1)
    assert directions.contrasts == {name: contrast_set.sha256 for name, contrast_set in sets.items()}
    assert len(directions.directions) == 4
    assert directions.get("tone", 1).facts.held_out.n_pairs == 20


# The file


def test_a_set_comes_back_from_its_file_and_equal_sets_make_equal_bytes(tmp_path: Path) -> None:
    directions = planted_set()
    digest = save_directions(directions, tmp_path / "a.safetensors")
    turned = DirectionSet(PARENT, dict(reversed(CONTRASTS.items())), directions.directions[::-1])
    assert save_directions(turned, tmp_path / "b.safetensors") == digest
    again = load_directions(tmp_path / "a.safetensors", parent_digest=PARENT, d_model=DIM, contrasts=CONTRASTS)
    assert again.layers == (1, 3)
    for one in directions.directions:
        other = again.get(one.concept, one.layer)
        assert torch.equal(one.vector_dim, other.vector_dim)
        assert one.facts == other.facts
    assert {(one.concept, one.layer) for one in again.usable} == {
        (one.concept, one.layer) for one in directions.directions if one.usable
    }


def test_separation_recomputes_its_interval() -> None:
    separation = Separation(auroc=0.9, n_pairs=40)
    assert set(separation.model_dump()) == {"auroc", "n_pairs"}
    assert separation.lower < 0.9 < separation.upper
    assert Separation(auroc=0.9, n_pairs=400).lower > separation.lower
