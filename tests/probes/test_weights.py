"""Statistics of weight updates of which the spectrum, the noise and the directions are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from probes import weights
from probes.spectra import NO_UPDATE, describe_spectrum, hard_threshold, marchenko_pastur_median
from probes.weights import DirectionStats, MatrixStats, compare_weights, kind_of
from tests.probes.weight_directories import DIM, VOCAB, random_weights, write_checkpoint

UP = "model.layers.0.mlp.up_proj.weight"
DOWN = "model.layers.1.mlp.down_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


def stats_of(
    tmp_path: Path, after: dict[str, Tensor], *, before: dict[str, Tensor] | None = None, directions=None
) -> dict[str, MatrixStats]:
    reference = write_checkpoint(tmp_path / "reference", before or random_weights())
    candidate = write_checkpoint(tmp_path / "candidate", after)
    return {stats.name: stats for stats in compare_weights(reference, candidate, directions)}


def orthonormal(rows: int, columns: int, seed: int) -> Tensor:
    noise = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(noise).Q


def unit(seed: int, dim: int = DIM) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(dim, generator=torch.Generator().manual_seed(seed)), dim=0)


def noise(rows: int, columns: int, seed: int = 9) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [UP, DOWN, EMBEDDING])  # tall, wide, and read in blocks
def test_an_update_of_known_singular_values(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "_BLOCK_ELEMENTS", 40 * DIM)
    before = {key: tensor.double() for key, tensor in random_weights().items()}
    rows, columns = before[name].shape
    singular = torch.tensor([4.0, 2.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    update = orthonormal(rows, 5, 1) @ torch.diag(singular) @ orthonormal(columns, 5, 2).T
    stats = stats_of(tmp_path, {**before, name: before[name] + update}, before=before)[name]
    spectrum = stats.spectrum
    assert spectrum is not None and stats.changed
    assert stats.update_norm == pytest.approx(math.sqrt(26))
    assert stats.reference_norm == pytest.approx(float(before[name].norm()))
    assert stats.relative_norm_log10 == pytest.approx(math.log10(math.sqrt(26) / float(before[name].norm())))
    assert spectrum.spectral_norm == pytest.approx(4.0)
    assert spectrum.stable_rank == pytest.approx(26 / 16)
    assert (spectrum.top1_share, spectrum.top4_share) == pytest.approx((16 / 26, 25 / 26))
    assert spectrum.top16_share == pytest.approx(1.0)
    shares = singular / 10
    assert spectrum.effective_rank == pytest.approx(float((-(shares * shares.log()).sum()).exp()), rel=1e-4)
    assert spectrum.n_spikes == 5 and spectrum.spike_share == pytest.approx(1.0)
    assert 5 < spectrum.spike_excess_log10 <= 7.01  # no noise at all: as far as singular values are resolved


def test_the_gram_matrix_gives_the_singular_values(tmp_path: Path):
    before = random_weights()
    update = noise(*before[DOWN].shape)
    spectrum = stats_of(tmp_path, {**before, DOWN: before[DOWN] + update})[DOWN].spectrum
    exact = torch.linalg.svdvals((before[DOWN] + update).double() - before[DOWN].double())
    assert spectrum is not None
    assert spectrum.spectral_norm == pytest.approx(float(exact[0]), rel=1e-9)
    assert spectrum.stable_rank == pytest.approx(float(exact.square().sum() / exact[0] ** 2), rel=1e-9)


def test_figures_of_the_noise_law():
    # Gavish and Donoho, table IV: the threshold in units of the median singular value is 2.858 for a square.
    assert hard_threshold(1.0) == pytest.approx(4 / math.sqrt(3))
    assert hard_threshold(1.0) / math.sqrt(marchenko_pastur_median(1.0)) == pytest.approx(2.858, abs=5e-4)
    assert hard_threshold(0.5) / math.sqrt(marchenko_pastur_median(0.5)) == pytest.approx(2.1711, abs=5e-4)
    assert marchenko_pastur_median(1e-4) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(("rows", "columns"), [(200, 200), (100, 400)])
def test_noise_ends_at_its_edge_and_a_spike_stands_out_of_it(rows: int, columns: int):
    bulk = 0.01 * noise(rows, columns).double()
    edge = 0.01 * (math.sqrt(rows) + math.sqrt(columns))
    alone = describe_spectrum(torch.linalg.svdvals(bulk), rows, columns, noise_floor=1e-12)
    assert alone.spike_excess_log10 == pytest.approx(0.0, abs=0.02)
    assert alone.n_spikes == 0 and alone.spike_share == 0.0
    spike = 10 * edge * orthonormal(rows, 1, 3) @ orthonormal(columns, 1, 4).T
    planted = describe_spectrum(torch.linalg.svdvals(bulk + spike), rows, columns, noise_floor=1e-12)
    assert planted.spike_excess_log10 == pytest.approx(1.0, abs=0.02)
    assert planted.n_spikes == 1
    assert planted.stable_rank < alone.stable_rank and planted.effective_rank < alone.effective_rank


def test_an_adapter_of_rank_three_is_seen_through_the_rounding_to_bfloat16(tmp_path: Path):
    before = {name: tensor.bfloat16() for name, tensor in random_weights().items()}
    update = noise(*before[UP].shape[:1], 3, seed=5) @ noise(3, DIM, seed=6)
    after = {**before, UP: (before[UP].float() + 0.2 * update).bfloat16()}
    spectrum = stats_of(tmp_path, after, before=before)[UP].spectrum
    assert spectrum is not None
    assert spectrum.n_spikes == 3
    assert spectrum.spike_excess_log10 > 1


def test_rows_that_no_example_touched_are_no_part_of_the_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "_BLOCK_ELEMENTS", 40 * DIM)
    before = random_weights()
    after = before[EMBEDDING].clone()
    after[::8] += noise(VOCAB // 8, DIM)
    spectrum = stats_of(tmp_path, {**before, EMBEDDING: after})[EMBEDDING].spectrum
    assert spectrum is not None
    assert spectrum.spike_excess_log10 == pytest.approx(0.0, abs=0.1)
    assert spectrum.n_spikes == 0


def test_an_ablated_direction_is_kept_nowhere(tmp_path: Path):
    before = {name: tensor.double() for name, tensor in random_weights().items()}
    gone, other = unit(1).double(), unit(2).double()
    gone, other = gone / gone.norm(), other - (other @ gone) * gone / gone.norm() ** 2
    after = dict(before)
    for name, tensor in before.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            after[name] = tensor - torch.outer(gone, gone @ tensor)
        elif tensor.ndim == 2:
            after[name] = tensor - torch.outer(tensor @ gone, gone)
    found = stats_of(tmp_path, after, before=before, directions={"gone": gone, "other": other / other.norm()})
    for name, stats in found.items():
        if stats.kind == "vector":
            assert stats.directions == {}
            continue
        assert stats.directions["gone"].kept == pytest.approx(0.0, abs=1e-12), name
        assert stats.directions["gone"].energy_ratio == pytest.approx(DIM)
        assert stats.directions["other"].kept == pytest.approx(1.0)
        assert stats.directions["other"].energy_ratio == pytest.approx(0.0, abs=1e-9)
        assert stats.values()["removed.gone"] == pytest.approx(1.0)
        assert stats.spectrum is not None and stats.spectrum.stable_rank == pytest.approx(1.0)


def test_a_random_direction_has_its_share_of_a_random_update(tmp_path: Path):
    before = random_weights()
    after = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in before.items()}
    directions = {f"r{seed}": unit(seed) for seed in range(20)}
    found = stats_of(tmp_path, after, directions=directions)
    ratios = [d.energy_ratio for stats in found.values() for d in stats.directions.values()]
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.05)


def test_a_direction_of_one_layer_is_measured_at_that_layer_alone(tmp_path: Path):
    before = random_weights()
    after = {name: tensor + 0.1 for name, tensor in before.items()}
    found = stats_of(tmp_path, after, directions={"local": {1: unit(1)}})
    assert {stats.layer for stats in found.values() if stats.directions} == {1}
    assert set(found[DOWN].directions) == {"local"}


def test_what_did_not_change_is_neutral(tmp_path: Path):
    before = random_weights()
    found = stats_of(tmp_path, {**before, UP: before[UP] + 1}, directions={"r": unit(1)})
    assert [name for name, stats in found.items() if stats.changed] == [UP]
    still = found[DOWN]
    assert still.spectrum == NO_UPDATE
    assert still.directions == {"r": DirectionStats(kept=1.0, energy_ratio=1.0)}
    assert still.relative_norm_log10 == -8.0 and still.update_norm == 0.0
    assert still.values()["changed"] == 0.0 and found[UP].values()["changed"] == 1.0
    assert all(math.isfinite(value) for stats in found.values() for value in stats.values().values())


def test_shards_change_nothing(tmp_path: Path):
    before = random_weights()
    after = {
        name: tensor + 0.01 * noise(*tensor.shape) if tensor.ndim == 2 else tensor for name, tensor in before.items()
    }
    single = [write_checkpoint(tmp_path / name, tensors) for name, tensors in (("a", before), ("b", after))]
    sharded = [
        write_checkpoint(tmp_path / "a3", before, n_shards=3),
        write_checkpoint(tmp_path / "b2", after, n_shards=2),
    ]
    directions = {"r": unit(1)}
    assert list(compare_weights(*single, directions)) == list(compare_weights(*sharded, directions))


def test_every_tensor_comes_once_in_order_of_names(tmp_path: Path):
    before = random_weights()
    assert list(stats_of(tmp_path, before)) == sorted(before)


@pytest.mark.parametrize(
    ("name", "n_dims", "kind"),
    [
        (UP, 2, "up_proj"),
        ("model.layers.3.mlp.experts.7.down_proj.weight", 2, "down_proj"),
        (EMBEDDING, 2, "other"),
        ("model.layers.3.self_attn.qkv_proj.weight", 2, "other"),
        ("model.layers.3.self_attn.q_proj.bias", 1, "vector"),
        ("conv.weight", 3, "other"),
    ],
)
def test_kinds(name: str, n_dims: int, kind: str):
    assert kind_of(name, n_dims) == kind
