"""The dictionary's inference, its file, and what can be converted into one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guards.errors import ProbeError
from probes.dictionaries import Dictionary, load_dictionary, read_dictionary, save_dictionary
from probes.pretrained_dictionaries import dictionary_from_directory, dictionary_from_release
from probes.sae_conversion import convert_sae
from probes.tensor_file import read_tensor_file
from tests.probes.planted import DIM, LAYER, PARENT, small_dictionary


def rule_of(call: Any) -> str:
    with pytest.raises(ProbeError) as refusal:
        call()
    return refusal.value.rule


def by_hand(dictionary: Dictionary, act_dim: torch.Tensor) -> list[float]:
    """JumpReLU feature by feature, in Python's floats."""
    values = []
    centred = (act_dim - dictionary.b_dec_dim).tolist()
    for feature in range(dictionary.d_sae):
        column = dictionary.w_enc_dim_feat[:, feature].tolist()
        pre = sum(c * w for c, w in zip(centred, column, strict=True)) + float(dictionary.b_enc_feat[feature])
        values.append(pre if pre > float(dictionary.threshold_feat[feature]) and pre > 0 else 0.0)
    return values


def test_encoding_is_jumprelu_of_the_centred_activation():
    dictionary = small_dictionary()
    act_dim = 2 * torch.randn(DIM, generator=torch.Generator().manual_seed(0))
    expected = by_hand(dictionary, act_dim)
    assert 0 < sum(value > 0 for value in expected) < dictionary.d_sae
    assert dictionary.encode(act_dim).tolist() == pytest.approx(expected, abs=1e-5)


def test_decoding_adds_the_rows_of_the_features_that_are_on():
    dictionary = small_dictionary()
    features = torch.zeros(dictionary.d_sae)
    features[3], features[7] = 2.0, 0.5
    expected = dictionary.b_dec_dim + 2 * dictionary.w_dec_feat_dim[3] + 0.5 * dictionary.w_dec_feat_dim[7]
    torch.testing.assert_close(dictionary.decode(features), expected)


@pytest.mark.parametrize("chunk_rows", [1, 7, 4096])
def test_chunks_and_axes_change_nothing(chunk_rows: int):
    dictionary = small_dictionary()
    acts_row_tok_dim = torch.randn((3, 5, DIM), generator=torch.Generator().manual_seed(0))
    features = dictionary.encode(acts_row_tok_dim, chunk_rows=chunk_rows)
    assert features.shape == (3, 5, dictionary.d_sae)
    torch.testing.assert_close(features[2, 4], dictionary.encode(acts_row_tok_dim[2, 4]))


def test_a_nan_activation_is_never_a_zero_feature():
    dictionary = small_dictionary()
    acts = torch.zeros((2, DIM))
    acts[1, 0] = torch.nan
    features = dictionary.encode(acts)
    assert torch.isfinite(features[0]).all()
    assert torch.isnan(features[1]).all()


def test_bfloat16_products_stay_close_although_the_mean_is_large():
    """Centring comes before rounding: a mean of 500 would leave bfloat16 no digit of the rest."""
    dictionary = small_dictionary()
    shifted = replace(dictionary, b_dec_dim=dictionary.b_dec_dim + 500)
    noise = torch.randn((64, DIM), generator=torch.Generator().manual_seed(0))
    exact = shifted.encode(shifted.b_dec_dim + noise)
    rounded = shifted.to("cpu", torch.bfloat16).encode(shifted.b_dec_dim + noise)
    assert rounded.dtype == torch.float32
    both_on = (exact > 0) & (rounded > 0)
    assert both_on.sum() > 0.9 * (exact > 0).sum()
    assert float((exact - rounded)[both_on].abs().max()) < 0.05


def test_a_file_gives_back_the_same_dictionary(tmp_path: Path):
    dictionary, path = small_dictionary(), tmp_path / "d.safetensors"
    digest = save_dictionary(dictionary, path)
    again = load_dictionary(path, parent_digest=PARENT, layer=LAYER, d_in=DIM)
    assert again.header() == dictionary.header()
    for field in ("w_enc_dim_feat", "b_enc_feat", "w_dec_feat_dim", "b_dec_dim", "threshold_feat"):
        assert torch.equal(getattr(again, field), getattr(dictionary, field)), field
    assert save_dictionary(again, tmp_path / "again.safetensors") == digest


def test_the_safetensors_library_reads_the_file_too(tmp_path: Path):
    from safetensors import safe_open

    dictionary, path = small_dictionary(), tmp_path / "d.safetensors"
    save_dictionary(dictionary, path)
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["dictionary"])["layer"] == LAYER
        torch.testing.assert_close(file.get_tensor("w_dec_feat_dim").float(), dictionary.w_dec_feat_dim)


def test_two_seeds_at_full_size_fit_twelve_megabytes(tmp_path: Path):
    sizes = []
    for seed in (0, 1):
        path = tmp_path / f"{seed}.safetensors"
        save_dictionary(small_dictionary(dim=576, d_sae=2304, seed=seed), path)
        sizes.append(path.stat().st_size)
    assert sum(sizes) <= 12_000_000
    assert sizes[0] > 2 * 2304 * 576 * 2  # both matrices are in it


def test_the_tensor_reader_reads_what_the_library_writes(tmp_path: Path):
    from safetensors.torch import save_file

    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3, dtype=torch.int64), "c": torch.ones(3).half()}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"k": "v"})
    file = read_tensor_file(tmp_path / "x.safetensors")
    assert file.metadata == {"k": "v"}
    assert all(torch.equal(file.tensors[name], tensor) for name, tensor in tensors.items())


# Conversion from sae-lens. What it can express is compared with sae-lens' own encoder and decoder.


def sae_of(architecture: str, **config: Any) -> Any:
    from sae_lens import SAE
    from sae_lens.registry import get_sae_class

    sae_class, config_class = get_sae_class(architecture)
    sae: SAE[Any] = sae_class(config_class(d_in=DIM, d_sae=40, **config))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sorted(sae.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise.abs() if name == "threshold" else noise)
    sae.cfg.metadata.hook_name = f"blocks.{LAYER}.hook_resid_post"
    return sae


@pytest.mark.parametrize("architecture", ["jumprelu", "standard", "gated"])
@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
def test_a_converted_dictionary_gives_what_sae_lens_gives(architecture: str, apply_b_dec_to_input: bool):
    sae = sae_of(architecture, apply_b_dec_to_input=apply_b_dec_to_input)
    dictionary = convert_sae(sae, name="x", parent_digest=PARENT, layer=None)
    assert dictionary.layer == LAYER
    acts = 3 * torch.randn((200, DIM), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        theirs = sae.encode(acts)
        ours = dictionary.encode(acts)
        norms = sae.W_dec.norm(dim=1)
        assert 0.05 < float((theirs > 0).float().mean()) < 0.95
        assert float((theirs * norms - ours).norm() / ours.norm()) < 1e-4
        assert float((sae.decode(theirs) - dictionary.decode(ours)).norm() / dictionary.decode(ours).norm()) < 1e-4


def test_a_negative_threshold_is_the_relu_alone():
    sae = sae_of("jumprelu")
    with torch.no_grad():
        sae.threshold.fill_(-1.0)
    dictionary = convert_sae(sae, name="x", parent_digest=PARENT, layer=None)
    assert float(dictionary.threshold_feat.max()) == 0.0


@pytest.mark.parametrize(
    ("hook_name", "layer"),
    [
        ("blocks.12.hook_resid_post", 12),
        ("blocks.12.hook_out", 12),
        ("model.layers.12", 12),
        ("blocks.12.hook_resid_pre", 11),
    ],
)
def test_the_layer_is_read_from_the_hook_name(hook_name: str, layer: int):
    sae = sae_of("standard")
    sae.cfg.metadata.hook_name = hook_name
    assert convert_sae(sae, name="x", parent_digest=PARENT, layer=None).layer == layer


@pytest.mark.parametrize("architecture", ["jumprelu", "gated"])
def test_a_directory_that_sae_lens_saved(tmp_path: Path, architecture: str):
    sae = sae_of(architecture)
    sae.save_model(tmp_path / "sae")
    dictionary = dictionary_from_directory(tmp_path / "sae", name="x", parent_digest=PARENT, layer=LAYER)
    assert dictionary.summary["architecture"] == architecture
    acts = torch.randn((20, DIM), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        dictionary.encode(acts), convert_sae(sae, name="x", parent_digest=PARENT, layer=LAYER).encode(acts)
    )


def test_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without a network: from_pretrained is replaced, and must be asked for what was asked."""
    import sae_lens

    asked: list[tuple[Any, ...]] = []

    def from_pretrained(release: str, sae_id: str, **options: Any) -> Any:
        asked.append((release, sae_id, options))
        return sae_of("jumprelu")

    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", from_pretrained)
    release, sae_id = "gemma-scope-2-270m-it-res", "layer_12_width_16k_l0_medium"
    dictionary = dictionary_from_release(release, sae_id, name="scope", parent_digest=PARENT)
    assert asked == [(release, sae_id, {"device": "cpu", "dtype": "float32"})]
    assert (dictionary.name, dictionary.layer, dictionary.summary["release"]) == ("scope", LAYER, release)
    save_dictionary(dictionary, tmp_path / "d.safetensors")
    assert read_dictionary(tmp_path / "d.safetensors").header() == dictionary.header()
