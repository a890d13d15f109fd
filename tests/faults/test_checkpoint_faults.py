"""Bad checkpoint directories, each with its exact refusal."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guards.errors import CheckpointError, ModelError, StairlockError
from guards.manifest import scan_checkpoint, verify_checkpoint
from loop.checkpoint_io import load_model
from loop.models import add_model
from loop.sealed_checkpoints import open_sealed, seal


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def refusal_of(call: Callable[[], object]) -> StairlockError:
    with pytest.raises(StairlockError) as refusal:
        call()
    return refusal.value


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class Canary:
    """A pickle that leaves a mark when something opens it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def pickle_checkpoint(directory: Path) -> None:
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(Canary(directory.parent / "was-opened")))


def truncated(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def trailing(directory: Path) -> None:
    with (directory / "model.safetensors").open("ab") as stream:
        stream.write(b"payload")


def link(directory: Path) -> None:
    (directory / "generation_config.json").unlink()
    (directory / "generation_config.json").symlink_to("/etc/hostname")


def linked_weights(directory: Path) -> None:
    target = directory.parent / "elsewhere.safetensors"
    (directory / "model.safetensors").rename(target)
    (directory / "model.safetensors").symlink_to(target)


def remove(*names: str) -> Callable[[Path], None]:
    return lambda directory: [(directory / name).unlink() for name in names] and None


def add(name: str, data: bytes = b"x") -> Callable[[Path], None]:
    return lambda directory: (directory / name).write_bytes(data) and None


def lone_shard(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")


def missing_shard(directory: Path) -> None:
    lone_shard(directory)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def extra_shard(directory: Path) -> None:
    shutil.copy(directory / "model.safetensors", directory / "model-00001-of-00001.safetensors")


def lying_index(directory: Path) -> None:
    lone_shard(directory)
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


FAULTS: list[tuple[str, Callable[[Path], object], str]] = [
    ("pickle beside the weights", pickle_checkpoint, "manifest.pickle"),
    ("numpy file", add("weights.npy"), "manifest.pickle"),
    ("python file", add("modeling_evil.py"), "manifest.remote-code"),
    ("python file, upper case", add("MODELING.PY"), "manifest.remote-code"),
    ("compiled library", add("kernel.so"), "manifest.remote-code"),
    ("auto_map", lambda d: edit_json(d / "config.json", auto_map={"AutoModel": "m.M"}), "manifest.remote-code"),
    ("auto_map, nested", lambda d: edit_json(d / "config.json", text={"auto_map": {}}), "manifest.remote-code"),
    ("auto_map, tokenizer", lambda d: edit_json(d / "tokenizer_config.json", auto_map={}), "manifest.remote-code"),
    ("own generate", lambda d: edit_json(d / "generation_config.json", custom_generate="a/b"), "manifest.remote-code"),
    ("hub kernel", lambda d: edit_json(d / "config.json", _attn_implementation="a/b"), "manifest.remote-code"),
    ("symlink", link, "manifest.symlink"),
    ("symlinked weights", linked_weights, "manifest.symlink"),
    ("dangling symlink", lambda d: (d / "x").symlink_to("nowhere"), "manifest.symlink"),
    ("truncated weights", truncated, "manifest.half-written"),
    ("empty weights", lambda d: (d / "model.safetensors").write_bytes(b""), "manifest.half-written"),
    ("unfinished download", add("model.safetensors.incomplete"), "manifest.half-written"),
    ("bytes after the weights", trailing, "manifest.bad-safetensors"),
    (
        "weights that are no safetensors",
        lambda d: (d / "model.safetensors").write_bytes(b"x" * 999),
        "manifest.bad-safetensors",
    ),
    ("no tokenizer", remove("tokenizer.json"), "manifest.no-tokenizer"),
    ("no config", remove("config.json"), "manifest.no-config"),
    ("no weights", remove("model.safetensors"), "manifest.no-weights"),
    ("adapter", add("adapter_config.json", b"{}"), "manifest.adapter"),
    ("shard without index", lone_shard, "manifest.missing-shard"),
    ("shard missing", missing_shard, "manifest.missing-shard"),
    ("extra shard", extra_shard, "manifest.unknown-file"),
    ("index names other tensors", lying_index, "manifest.bad-safetensors"),
    ("unknown file", add("notes.txt"), "manifest.unknown-file"),
    ("hidden file", add(".hidden"), "manifest.unknown-file"),
    ("subdirectory", lambda d: (d / "onnx").mkdir(), "manifest.unknown-file"),
    ("directory with an allowed name", lambda d: (d / "vocab.json").mkdir(), "manifest.unknown-file"),
    ("named pipe", lambda d: os.mkfifo(d / "merges.txt"), "manifest.unknown-file"),
    ("config cut short", lambda d: (d / "config.json").write_text('{"model_type": "lla'), "manifest.bad-json"),
    ("config with a repeated key", lambda d: (d / "config.json").write_text('{"a": 1, "a": 2}'), "manifest.bad-json"),
    ("config nested without end", lambda d: (d / "config.json").write_text("[" * 10**5), "manifest.bad-json"),
    ("config that is a list", lambda d: (d / "config.json").write_text("[1]"), "manifest.bad-json"),
    ("config without a model type", lambda d: (d / "config.json").write_text("{}"), "manifest.bad-config"),
    ("config with odd architectures", lambda d: edit_json(d / "config.json", architectures="X"), "manifest.bad-config"),
    (
        "two chat templates",
        lambda d: edit_json(d / "tokenizer_config.json", chat_template="x"),
        "manifest.two-chat-templates",
    ),
]


@pytest.mark.parametrize(("spoil", "rule"), [pytest.param(f, r, id=name) for name, f, r in FAULTS])
def test_scan_and_load_and_add_all_refuse(
    checkpoint: Path, tmp_path: Path, spoil: Callable[[Path], object], rule: str
) -> None:
    spoil(checkpoint)
    home = tmp_path / "home"
    for call in (
        lambda: scan_checkpoint(checkpoint),
        lambda: load_model(checkpoint, "cpu", "float32"),
        lambda: add_model(str(checkpoint), home),
    ):
        assert refusal_of(call).rule == rule
    assert not list(home.rglob("*.safetensors"))
    assert not (checkpoint.parent / "was-opened").exists()


def test_every_refusal_says_what_to_do_or_what_was_found(checkpoint: Path) -> None:
    (checkpoint / "a.bin").touch()
    error = refusal_of(lambda: scan_checkpoint(checkpoint))
    assert error.fix == "save as safetensors"
    assert error.got == "'a.bin'"


def test_hostile_file_names_are_escaped(checkpoint: Path) -> None:
    (checkpoint / "x\x1b[31m\n.txt").touch()
    assert "\x1b" not in str(refusal_of(lambda: scan_checkpoint(checkpoint)))


def test_nothing_is_opened_before_all_names_are_judged(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkpoint / "a.bin").touch()
    (checkpoint / "config.json").write_text("not JSON")

    def opened(*_: object, **__: object) -> int:
        raise AssertionError("a file was opened")

    monkeypatch.setattr(os, "open", opened)
    assert refusal_of(lambda: scan_checkpoint(checkpoint)).rule == "manifest.pickle"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert refusal_of(lambda: scan_checkpoint(tmp_path / "none")).rule == "manifest.not-a-directory"
    assert refusal_of(lambda: add_model(str(tmp_path / "none"), tmp_path)).rule == "model.unknown-name"


@pytest.mark.parametrize(
    ("name", "rule"),
    [("notes.txt", "manifest.unknown-file"), ("special_tokens_map.json", "manifest.digest-mismatch")],
)
def test_a_file_added_to_a_sealed_checkpoint(checkpoint: Path, tmp_path: Path, name: str, rule: str) -> None:
    home = tmp_path / "home"
    directory, manifest = seal(checkpoint, home)
    (directory / name).write_text("{}")
    for call in (
        lambda: verify_checkpoint(directory, manifest.digest),
        lambda: open_sealed(home, manifest.digest),
        lambda: load_model(directory, "cpu", "float32", expected_digest=manifest.digest),
        lambda: seal(checkpoint, home),
    ):
        error = refusal_of(call)
        assert error.rule == rule
        assert name in str(error)


def test_one_bit_of_a_sealed_weight(checkpoint: Path, tmp_path: Path) -> None:
    directory, manifest = seal(checkpoint, tmp_path / "home")
    data = bytearray((directory / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (directory / "model.safetensors").write_bytes(bytes(data))
    error = refusal_of(lambda: open_sealed(tmp_path / "home", manifest.digest))
    assert error.rule == "manifest.digest-mismatch"
    assert "changed: 'model.safetensors'" in error.message


def test_wrong_digest(checkpoint: Path) -> None:
    wrong = "sha256:" + "1" * 64
    assert refusal_of(lambda: verify_checkpoint(checkpoint, wrong)).rule == "manifest.digest-mismatch"
    assert refusal_of(lambda: load_model(checkpoint, "cpu", expected_digest=wrong)).rule == "manifest.digest-mismatch"


def test_a_checkpoint_whose_sealing_was_cut_off_is_not_opened(checkpoint: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    directory, manifest = seal(checkpoint, home)
    (home / "checkpoints" / f"{directory.name}.manifest.json").unlink()
    assert refusal_of(lambda: open_sealed(home, manifest.digest)).rule == "manifest.no-manifest"
    seal(checkpoint, home)
    assert open_sealed(home, manifest.digest) == (directory, manifest)


def test_the_adapter_refusal_tells_how_to_merge(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "adapter_config.json").write_text("{}")
    error = refusal_of(lambda: add_model(str(checkpoint), tmp_path / "home"))
    assert isinstance(error, CheckpointError)
    assert f"--adapter {checkpoint}" in error.fix


def test_a_model_with_a_weight_missing_is_not_filled_with_random_numbers(checkpoint: Path) -> None:
    from safetensors.torch import load_file

    from loop.checkpoint_io import write_safetensors

    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    write_safetensors(checkpoint / "model.safetensors", tensors)
    error = refusal_of(lambda: load_model(checkpoint, "cpu", "float32"))
    assert error.rule == "model.weights-differ"
    assert "model.layers.1.mlp.up_proj.weight" in error.got


def test_a_weight_that_the_architecture_does_not_know(checkpoint: Path) -> None:
    from safetensors.torch import load_file

    from loop.checkpoint_io import write_safetensors

    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.secret.weight"] = tensors["model.norm.weight"].clone()
    write_safetensors(checkpoint / "model.safetensors", tensors)
    assert refusal_of(lambda: load_model(checkpoint, "cpu", "float32")).rule == "model.weights-differ"


def test_an_architecture_that_the_library_does_not_know(checkpoint: Path) -> None:
    edit_json(checkpoint / "config.json", model_type="not-a-model")
    error = refusal_of(lambda: load_model(checkpoint, "cpu", "float32"))
    assert isinstance(error, ModelError)
    assert error.rule == "model.load-failed"


def test_a_tokenizer_with_more_ids_than_the_model_has(checkpoint: Path) -> None:
    document = json.loads((checkpoint / "tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    n_tokens = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    document["added_tokens"].append({"id": n_tokens, "content": "<|new|>", **flags})
    (checkpoint / "tokenizer.json").write_text(json.dumps(document))
    assert refusal_of(lambda: load_model(checkpoint, "cpu", "float32")).rule == "model.tokenizer-too-large"
