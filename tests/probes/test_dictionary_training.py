"""Training finds planted features, can be interrupted, and exports what sae-lens would export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from guards.errors import ProbeError
from probes.activation_store import ActivationStore
from probes.dictionaries import Dictionary
from probes.dictionary_quality import measure_quality
from probes.dictionary_training import DictionaryRecipe, TrainingProgress, train_dictionary, train_sae
from probes.sae_conversion import convert_sae
from probes.training_checkpoint import CHECKPOINT_FILE
from tests.probes.planted import (
    DIM,
    LAYER,
    PARENT,
    planted_activations,
    planted_directions,
    write_store,
)

RECIPE = DictionaryRecipe(
    d_sae=40,
    k=2,
    n_training_tokens=60_000,
    batch_tokens=200,
    lr=1e-2,
    lr_end=1e-3,
    warmup_tokens=2_000,
    dead_window_tokens=4_000,
    threshold_lr=0.05,
    norm_estimate_tokens=2_000,
)
SHORT = RECIPE.model_copy(update={"n_training_tokens": 6_000, "warmup_tokens": 600})
N_TOKENS = 6_000


@pytest.fixture(scope="module")
def directions() -> torch.Tensor:
    return planted_directions()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, directions: torch.Tensor) -> ActivationStore:
    return write_store(tmp_path_factory.mktemp("store") / "s", planted_activations(N_TOKENS, directions))


@pytest.fixture(scope="module")
def trained(store: ActivationStore) -> Dictionary:
    return train_dictionary(store, RECIPE, name="planted")


def share_recovered(directions_feat_dim: torch.Tensor, dictionary: Dictionary, *, least_cosine: float = 0.9) -> float:
    best = (directions_feat_dim @ dictionary.w_dec_feat_dim.T).max(dim=1).values
    return float((best > least_cosine).float().mean())


def test_planted_features_are_found_and_few_features_are_dead(
    trained: Dictionary, store: ActivationStore, directions: torch.Tensor
):
    measured = measure_quality(trained, store.batches_in_order(1000))
    assert share_recovered(directions, trained) >= 0.8
    assert measured.quality.fvu < 0.15
    assert measured.quality.l0 == pytest.approx(RECIPE.k, rel=0.35)
    assert measured.quality.share_dead < 0.3
    assert (trained.layer, trained.parent_digest, trained.kind) == (LAYER, PARENT, "activations")
    assert trained.summary["store_digest"] == store.manifest.data_digest


def test_the_same_seed_makes_the_same_dictionary_and_another_seed_another(store: ActivationStore):
    one, again = (train_dictionary(store, SHORT, name="x") for _ in range(2))
    other = train_dictionary(store, SHORT.model_copy(update={"seed": 1}), name="x")
    assert torch.equal(one.w_dec_feat_dim, again.w_dec_feat_dim)
    assert torch.equal(one.threshold_feat, again.threshold_feat)
    assert not torch.equal(one.w_dec_feat_dim, other.w_dec_feat_dim)


def test_the_dictionary_reproduces_the_export_of_sae_lens(store: ActivationStore):
    """sae-lens' own JumpReLU inference, on raw activations: the scale must be folded into weights and threshold."""
    sae, scale = train_sae(store, SHORT)
    assert type(sae).__name__ == "JumpReLUSAE"
    assert scale != pytest.approx(1.0, rel=0.1)
    dictionary = convert_sae(sae, name="x", parent_digest=PARENT, layer=LAYER, scale=scale)
    acts = store.rows(0, 500)
    with torch.no_grad():
        theirs, ours = sae.encode(acts), dictionary.encode(acts)
        their_acts, our_acts = sae.decode(theirs), dictionary.decode(ours)
        norms = sae.W_dec.norm(dim=1)
    assert float((theirs > 0).float().sum(dim=1).mean()) > 0.5
    assert float((theirs * norms - ours).norm() / ours.norm()) < 1e-4
    assert float((their_acts - our_acts).norm() / our_acts.norm()) < 1e-4
    stored = dictionary.as_stored().encode(acts)
    assert float((stored - ours).norm() / ours.norm()) < 0.05


def test_training_starts_at_the_mean(store: ActivationStore):
    """A bias that starts at zero would be one learning rate a step away from a mean of 30."""
    one_step = RECIPE.model_copy(update={"n_training_tokens": 200, "warmup_tokens": 0})
    dictionary = train_dictionary(store, one_step, name="x")
    mean_dim = store.rows(0, store.n_tokens).mean(dim=0)
    assert float((dictionary.b_dec_dim - mean_dim).abs().max()) < 0.1


def test_the_auxiliary_loss_sees_features_that_have_not_fired_for_a_window(store: ActivationStore):
    steps: list[TrainingProgress] = []
    recipe = SHORT.model_copy(update={"k": 0.1, "dead_window_tokens": 1000, "aux_loss_coefficient": 0.0})
    train_dictionary(store, recipe, name="x", progress=steps.append)
    assert {step.share_dead for step in steps[:5]} == {0.0}
    assert steps[5].share_dead > 0.1


class Interruption(KeyboardInterrupt):
    pass


def test_an_interrupted_training_goes_on_to_the_same_result(store: ActivationStore, tmp_path: Path):
    whole = train_dictionary(store, SHORT, name="x")

    def interrupt(progress: TrainingProgress) -> None:
        if progress.step == 17:
            raise Interruption

    with pytest.raises(Interruption):
        train_dictionary(store, SHORT, name="x", checkpoint_dir=tmp_path, checkpoint_every_steps=5, progress=interrupt)
    steps: list[TrainingProgress] = []
    resumed = train_dictionary(
        store, SHORT, name="x", checkpoint_dir=tmp_path, checkpoint_every_steps=5, progress=steps.append
    )
    assert steps[0].step == 16  # fifteen were saved
    assert torch.equal(resumed.w_enc_dim_feat, whole.w_enc_dim_feat)
    assert torch.equal(resumed.w_dec_feat_dim, whole.w_dec_feat_dim)
    assert torch.equal(resumed.threshold_feat, whole.threshold_feat)
    assert resumed.header() == whole.header()
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT_FILE]


def test_a_finished_training_is_not_run_again(store: ActivationStore, tmp_path: Path):
    one = train_dictionary(store, SHORT, name="x", checkpoint_dir=tmp_path)
    steps: list[TrainingProgress] = []
    again = train_dictionary(store, SHORT, name="x", checkpoint_dir=tmp_path, progress=steps.append)
    assert steps == []
    assert torch.equal(one.w_enc_dim_feat, again.w_enc_dim_feat)


def test_progress_tells_of_every_step(store: ActivationStore):
    steps: list[TrainingProgress] = []
    train_dictionary(store, SHORT, name="x", progress=steps.append)
    assert [step.step for step in steps] == list(range(1, SHORT.n_steps + 1))
    assert steps[-1].fvu < 0.9 * steps[0].fvu
    assert max(step.lr for step in steps) == pytest.approx(SHORT.lr, rel=0.05)
    assert steps[-1].lr < 0.2 * SHORT.lr
    assert all(step.l0 <= SHORT.k for step in steps)


def test_a_diff_dictionary_finds_what_the_candidate_adds(tmp_path: Path):
    """The candidate adds one direction on three tokens in ten, and the noise of another rounding everywhere."""
    generator = torch.Generator().manual_seed(8)
    planted = planted_directions(1, seed=9)[0]
    on = torch.rand(4000, generator=generator) < 0.3
    differences = 0.05 * torch.randn((4000, DIM), generator=generator)
    differences += (on * (0.5 + torch.rand(4000, generator=generator)))[:, None] * planted
    store = write_store(tmp_path / "d", differences, kind="differences")
    recipe = RECIPE.model_copy(update={"d_sae": 8, "k": 1, "n_training_tokens": 30_000})
    dictionary = train_dictionary(store, recipe, name="diff")
    assert dictionary.kind == "differences"
    assert dictionary.summary["candidate_digest"] == store.manifest.identity.candidate_digest
    cosines = dictionary.w_dec_feat_dim @ planted
    best = int(cosines.argmax())
    assert float(cosines[best]) > 0.95
    size_tok = differences @ planted
    values = torch.stack([dictionary.encode(differences)[:, best], size_tok])
    assert float(torch.corrcoef(values)[0, 1]) > 0.95
    assert float(values[0, on].mean()) > 10 * float(values[0, ~on].mean())


@pytest.mark.parametrize(
    "change",
    [
        {"k": 40},
        {"lr_end": 1.0},
        {"n_training_tokens": 100},
        {"warmup_tokens": 60_000},
        {"lr": 0.0},
        {"learning_rate": 1e-3},
        {"seed": -1},
    ],
)
def test_a_recipe_that_does_not_fit_together_is_refused(change: dict[str, Any]):
    with pytest.raises(ValidationError):
        DictionaryRecipe(**{**RECIPE.model_dump(), **change})


def test_an_audit_with_dictionaries_does_not_load_sae_lens():
    code = (
        "import sys, probes.dictionaries, probes.dictionary_quality, probes.dictionary_training\n"
        "import probes.pretrained_dictionaries, probes.dictionary_splice\n"
        "sys.exit('sae_lens' in sys.modules or 'transformer_lens' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == 0


def test_without_sae_lens_training_is_refused(store: ActivationStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sae_lens", None)
    with pytest.raises(ProbeError) as refusal:
        train_dictionary(store, SHORT, name="x")
    assert refusal.value.rule == "dictionary.no-sae-lens"
    assert "stairlock[probes]" in str(refusal.value)
