"""Bad dictionaries, activation stores and training states, each with its exact refusal."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guards.errors import ProbeError, StairlockError
from probes.activation_store import ActivationStore, ActivationStoreWriter
from probes.dictionaries import Dictionary, load_dictionary, save_dictionary
from probes.dictionary_training import DictionaryRecipe, train_dictionary
from probes.pretrained_dictionaries import dictionary_from_directory, dictionary_from_release
from probes.sae_conversion import convert_sae
from probes.tensor_file import read_tensor_file, write_tensor_file
from probes.training_checkpoint import CHECKPOINT_FILE
from tests.probes.planted import (
    CANDIDATE,
    DIM,
    LAYER,
    PARENT,
    identity,
    planted_activations,
    planted_directions,
    small_dictionary,
    write_store,
)


def rule_of(call: Callable[[], object]) -> str:
    with pytest.raises(StairlockError) as refusal:
        call()
    return refusal.value.rule


class Canary:
    """A pickle that leaves a mark when something opens it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "d.safetensors"
    save_dictionary(small_dictionary(), path)
    return path


def load(path: Path, **expected: Any) -> Dictionary:
    return load_dictionary(path, **{"parent_digest": PARENT, "layer": LAYER, "d_in": DIM, **expected})


# Files


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Canary(path.parent / "was-opened")))


def saved_by_torch(path: Path) -> None:
    torch.save({"w": Canary(path.parent / "was-opened")}, path)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Canary(path.parent / "was-opened")))


def rewrite(
    path: Path,
    *,
    header: dict[str, Any] | None = None,
    metadata: dict[str, str] | None = None,
    tensors: dict[str, torch.Tensor] | None = None,
    without: str = "",
) -> None:
    """The dictionary's file with some of it changed."""
    file = read_tensor_file(path)
    document = {**json.loads(file.metadata["dictionary"]), **(header or {})}
    kept = {name: tensor for name, tensor in {**file.tensors, **(tensors or {})}.items() if name != without}
    kept_document = {key: value for key, value in document.items() if value is not None}
    write_tensor_file(path, kept, {"dictionary": json.dumps(kept_document), **(metadata or {})})


def with_nan(path: Path) -> None:
    """Bytes that write_tensor_file would refuse to write: a NaN in the last tensor of the file."""
    data = bytearray(path.read_bytes())
    data[-4:] = struct.pack("<f", float("nan"))
    path.write_bytes(data)


def tail(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"payload")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


FAULTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("a pickle", pickled, "tensors.may-hold-code"),
    ("a file of torch.save", saved_by_torch, "tensors.may-hold-code"),
    ("a zip archive", zipped, "tensors.may-hold-code"),
    ("an old pickle without a magic", lambda p: p.write_bytes(pickle.dumps([1], protocol=0)), "tensors.bad-file"),
    ("Python source", lambda p: p.write_text("import os\nos.abort()\n" * 9), "tensors.bad-file"),
    ("nothing", lambda p: p.write_bytes(b""), "tensors.half-written"),
    ("cut off", cut, "tensors.half-written"),
    ("bytes after the last tensor", tail, "tensors.bad-file"),
    ("no such file", lambda p: p.unlink(), "tensors.no-file"),
    ("an unknown metadata entry", lambda p: rewrite(p, metadata={"code": "x"}), "dictionary.bad-file"),
    ("an unknown header key", lambda p: rewrite(p, header={"post_load": "x"}), "dictionary.bad-file"),
    ("a missing header key", lambda p: rewrite(p, header={"layer": None}), "dictionary.bad-file"),
    ("another schema", lambda p: rewrite(p, header={"schema": "stairlock/dictionary/v2"}), "dictionary.bad-file"),
    ("a layer that is text", lambda p: rewrite(p, header={"layer": "3"}), "dictionary.bad-file"),
    ("a header that is no JSON", lambda p: rewrite(p, metadata={"dictionary": "{"}), "dictionary.bad-file"),
    ("a key twice", lambda p: rewrite(p, metadata={"dictionary": '{"layer": 3, "layer": 4}'}), "dictionary.bad-file"),
    ("a scale of zero", lambda p: rewrite(p, header={"scale": 0.0}), "dictionary.bad-file"),
    ("an unknown tensor", lambda p: rewrite(p, tensors={"extra": torch.ones(2)}), "dictionary.bad-file"),
    ("a missing tensor", lambda p: rewrite(p, without="b_dec_dim"), "dictionary.bad-file"),
    ("a wider dtype", lambda p: rewrite(p, tensors={"w_enc_dim_feat": torch.ones(DIM, 40)}), "dictionary.bad-file"),
    ("a width other than the header's", lambda p: rewrite(p, header={"d_sae": 41}), "dictionary.bad-shape"),
    ("a short bias", lambda p: rewrite(p, tensors={"b_enc_feat": torch.zeros(39)}), "dictionary.bad-shape"),
    ("a bias of two axes", lambda p: rewrite(p, tensors={"b_enc_feat": torch.zeros(40, 1)}), "dictionary.bad-shape"),
    ("NaN", with_nan, "dictionary.not-finite"),
    (
        "a threshold below zero",
        lambda p: rewrite(p, tensors={"threshold_feat": torch.full((40,), -0.1)}),
        "dictionary.bad-threshold",
    ),
    (
        "decoder rows that are not of unit norm",
        lambda p: rewrite(p, tensors={"w_dec_feat_dim": torch.ones(40, DIM).bfloat16()}),
        "dictionary.not-unit-norm",
    ),
]


@pytest.mark.parametrize(("damage", "rule"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_a_bad_file_is_refused_and_nothing_in_it_is_run(path: Path, damage: Callable[[Path], object], rule: str):
    load(path)
    damage(path)
    assert rule_of(lambda: load(path)) == rule
    assert not (path.parent / "was-opened").exists()


def test_the_canary_works(tmp_path: Path):
    """Else the test above proves nothing."""
    pickle.loads(pickle.dumps(Canary(tmp_path / "was-opened")))
    assert (tmp_path / "was-opened").exists()


@pytest.mark.parametrize(
    ("expected", "rule"),
    [
        ({"parent_digest": CANDIDATE}, "dictionary.other-parent"),
        ({"layer": LAYER + 1}, "dictionary.other-layer"),
        ({"d_in": DIM + 1}, "dictionary.other-width"),
        ({"kind": "differences"}, "dictionary.other-kind"),
    ],
)
def test_a_dictionary_of_something_else_is_refused(path: Path, expected: dict[str, Any], rule: str):
    assert rule_of(lambda: load(path, **expected)) == rule


def test_nothing_that_could_not_be_read_is_written(tmp_path: Path):
    dictionary = small_dictionary()
    for change, rule in (
        ({"parent_digest": "sha256:short"}, "dictionary.bad-file"),
        ({"name": ""}, "dictionary.bad-file"),
        ({"scale": float("nan")}, "dictionary.bad-file"),
    ):
        broken = replace(dictionary, **change)
        assert rule_of(lambda broken=broken: save_dictionary(broken, tmp_path / "x")) == rule
    assert list(tmp_path.iterdir()) == []


def test_a_dictionary_of_nan_or_another_width_cannot_be_made_or_used():
    dictionary = small_dictionary()
    broken = dictionary.w_enc_dim_feat.clone()
    broken[0, 0] = torch.nan
    assert rule_of(lambda: replace(dictionary, w_enc_dim_feat=broken)) == "dictionary.not-finite"
    assert rule_of(lambda: dictionary.encode(torch.zeros((2, DIM + 1)))) == "dictionary.other-width"
    assert rule_of(lambda: dictionary.decode(torch.zeros((2, 41)))) == "dictionary.other-width"


# Stores


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        (torch.tensor([[0.0, torch.nan]]), "activations.not-finite"),
        (torch.tensor([[0.0, -torch.inf]]), "activations.not-finite"),
        (torch.zeros((2, 3)), "activations.other-width"),
        (torch.zeros((1, 2, 2)), "activations.other-width"),
    ],
)
def test_bad_rows_are_not_written(tmp_path: Path, rows: torch.Tensor, rule: str):
    with ActivationStoreWriter(tmp_path / "s", identity(dim=2)) as writer:
        assert rule_of(lambda: writer.append(rows, cursor=1)) == rule
        assert writer.n_tokens == 0


def test_a_value_beyond_float16_is_not_written_as_infinity(tmp_path: Path):
    with ActivationStoreWriter(tmp_path / "s", identity(kind="differences", dim=2)) as writer:
        assert rule_of(lambda: writer.append(torch.tensor([[1.0, 70_000.0]]), cursor=1)) == "activations.not-finite"


def test_an_empty_or_half_written_store_is_not_read(tmp_path: Path):
    with ActivationStoreWriter(tmp_path / "s", identity(dim=2)) as writer:
        assert rule_of(writer.finish) == "activations.empty-store"
    with ActivationStoreWriter(tmp_path / "t", identity(dim=2)) as writer:
        writer.append(torch.zeros((4, 2)), cursor=1)
    for name in ("s", "t", "u"):
        assert rule_of(lambda name=name: ActivationStore.open(tmp_path / name)) == "activations.no-store"


def test_a_store_that_was_changed_is_not_read(tmp_path: Path):
    store = write_store(tmp_path / "s", torch.zeros((10, 2)))
    data = store.directory / "activations.bin"
    whole = data.read_bytes()
    for changed in (whole[:-1], whole + b"x", b"\x01" + whole[1:], b""):
        data.write_bytes(changed)
        assert rule_of(lambda: ActivationStore.open(store.directory)) == "activations.bad-store"
    data.write_bytes(whole)
    ActivationStore.open(store.directory)
    manifest = store.directory / "manifest.json"
    document = json.loads(manifest.read_text())
    for broken in ({**document, "more": 1}, {**document, "n_tokens": "10"}, {"n_tokens": 10}, []):
        manifest.write_text(json.dumps(broken))
        assert rule_of(lambda: ActivationStore.open(store.directory)) == "activations.bad-store"


def test_a_writer_does_not_go_on_in_another_store(tmp_path: Path):
    with ActivationStoreWriter(tmp_path / "s", identity(dim=2)) as writer:
        writer.append(torch.zeros((4, 2)), cursor=1)
    other = identity(dim=2, layer=LAYER + 1)
    assert rule_of(lambda: ActivationStoreWriter(tmp_path / "s", other)) == "activations.other-store"
    (tmp_path / "s" / "activations.bin").write_bytes(b"")
    assert rule_of(lambda: ActivationStoreWriter(tmp_path / "s", identity(dim=2))) == "activations.bad-store"
    write_store(tmp_path / "whole", torch.zeros((10, 2)))
    complete = tmp_path / "whole"
    assert rule_of(lambda: ActivationStoreWriter(complete, identity(dim=2))) == "activations.store-complete"


# Training

RECIPE = DictionaryRecipe(
    d_sae=32, k=2, n_training_tokens=2000, batch_tokens=200, warmup_tokens=0, norm_estimate_tokens=1000
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    return write_store(tmp_path_factory.mktemp("store") / "s", planted_activations(2000, planted_directions()))


def test_too_few_or_constant_activations_are_refused(tmp_path: Path, store: ActivationStore):
    large = RECIPE.model_copy(update={"batch_tokens": 4000, "n_training_tokens": 8000})
    assert rule_of(lambda: train_dictionary(store, large, name="x")) == "activations.too-few"
    constant = write_store(tmp_path / "c", torch.ones((2000, DIM)))
    assert rule_of(lambda: train_dictionary(constant, RECIPE, name="x")) == "dictionary.constant-activations"


def test_the_state_of_another_training_is_refused(tmp_path: Path, store: ActivationStore):
    train_dictionary(store, RECIPE, name="x", checkpoint_dir=tmp_path)
    for change in ({"seed": 1}, {"lr": 5e-4}):
        other = RECIPE.model_copy(update=change)
        refused = rule_of(lambda other=other: train_dictionary(store, other, name="x", checkpoint_dir=tmp_path))
        assert refused == "dictionary.other-training"
    state = tmp_path / CHECKPOINT_FILE
    good = read_tensor_file(state)
    tensors = dict(good.tensors)
    write_tensor_file(state, {name: tensors[name] for name in list(tensors)[1:]}, good.metadata)
    assert rule_of(lambda: train_dictionary(store, RECIPE, name="x", checkpoint_dir=tmp_path)) == (
        "dictionary.bad-checkpoint"
    )
    write_tensor_file(state, tensors, {**good.metadata, "more": "x"})
    assert rule_of(lambda: train_dictionary(store, RECIPE, name="x", checkpoint_dir=tmp_path)) == (
        "dictionary.bad-checkpoint"
    )
    pickled(state)
    assert rule_of(lambda: train_dictionary(store, RECIPE, name="x", checkpoint_dir=tmp_path)) == (
        "tensors.may-hold-code"
    )
    assert not (tmp_path / "was-opened").exists()


# Other people's dictionaries


def sae_of(architecture: str, **config: Any) -> Any:
    from sae_lens.registry import get_sae_class

    sae_class, config_class = get_sae_class(architecture)
    sae = sae_class(config_class(d_in=DIM, d_sae=32, **config))
    sae.cfg.metadata.hook_name = f"blocks.{LAYER}.hook_resid_post"
    return sae


def convert(sae: Any, layer: int | None = LAYER) -> Dictionary:
    return convert_sae(sae, name="x", parent_digest=PARENT, layer=layer)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("topk", {"k": 4}),
        ("standard", {"normalize_activations": "layer_norm"}),
        ("standard", {"normalize_activations": "expected_average_only_in"}),
        ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
        ("jumprelu", {"normalize_activations": "covariance_whitening"}),
    ],
)
def test_what_a_dictionary_cannot_express_is_not_converted(architecture: str, config: dict[str, Any]):
    sae = sae_of(architecture, **config)
    assert rule_of(lambda: convert(sae)) == "dictionary.not-convertible"


def test_an_autoencoder_of_another_place_is_not_converted():
    sae = sae_of("standard")
    assert rule_of(lambda: convert(sae, LAYER + 1)) == "dictionary.other-layer"
    for hook_name in ("blocks.3.hook_mlp_out", "blocks.3.attn.hook_z", "blocks.0.hook_resid_pre", "blocks.x"):
        sae.cfg.metadata.hook_name = hook_name
        assert rule_of(lambda: convert(sae, None)) == "dictionary.other-hook"
    sae.cfg.metadata.hook_name = None
    assert rule_of(lambda: convert(sae, None)) == "dictionary.other-hook"


def test_a_feature_without_a_direction_is_refused():
    sae = sae_of("standard")
    with torch.no_grad():
        sae.W_dec[4] = 0
    assert rule_of(lambda: convert(sae)) == "dictionary.zero-decoder-row"


def test_an_autoencoder_that_does_more_than_its_name_says_is_refused():
    sae = sae_of("standard")
    sae.activation_fn = torch.nn.Sigmoid()
    assert rule_of(lambda: convert(sae)) == "dictionary.conversion-differs"


def test_a_release_of_pickles_is_not_fetched(monkeypatch: pytest.MonkeyPatch):
    import sae_lens

    def fetch(*_arguments: Any, **_options: Any) -> None:
        raise AssertionError("it was fetched")

    monkeypatch.setattr(sae_lens.SAE, "from_pretrained", fetch)
    pickled_release = "goodfire-llama-3.1-8b-instruct"
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    assert pickled_release in get_pretrained_saes_directory()
    call = lambda: dictionary_from_release(pickled_release, "layer_19", name="x", parent_digest=PARENT)  # noqa: E731
    assert rule_of(call) == "dictionary.pickled-release"


def test_a_release_that_is_not_there_is_refused():
    call = lambda: dictionary_from_release("no-such-release", "x", name="x", parent_digest=PARENT)  # noqa: E731
    assert rule_of(call) == "dictionary.load-failed"


def test_a_directory_with_anything_else_in_it_is_not_loaded(tmp_path: Path):
    directory = tmp_path / "sae"
    call = lambda: dictionary_from_directory(directory, name="x", parent_digest=PARENT)  # noqa: E731
    assert rule_of(call) == "dictionary.unknown-file"
    sae_of("standard").save_model(directory)
    call()
    (directory / "weights.pt").write_bytes(b"x")
    assert rule_of(call) == "dictionary.unknown-file"
    (directory / "weights.pt").unlink()
    weights = (directory / "sae_weights.safetensors").read_bytes()
    pickled(directory / "sae_weights.safetensors")
    assert rule_of(call) == "tensors.may-hold-code"
    assert not (directory / "was-opened").exists()
    (directory / "sae_weights.safetensors").write_bytes(weights)
    (directory / "cfg.json").write_text("{}")
    assert rule_of(call) == "dictionary.load-failed"


def test_a_training_checkpoint_of_batchtopk_says_that_it_must_be_exported(tmp_path: Path):
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig

    BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(d_in=DIM, d_sae=32, k=2)).save_model(tmp_path / "sae")
    with pytest.raises(ProbeError, match="exported first") as refusal:
        dictionary_from_directory(tmp_path / "sae", name="x", parent_digest=PARENT, layer=LAYER)
    assert refusal.value.rule == "dictionary.load-failed"
