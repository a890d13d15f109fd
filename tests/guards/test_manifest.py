"""The manifest names exactly the files; the facts name what the integrity gate compares."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guards.canonical import digest_of, sha256_file
from guards.checkpoint_files import ALLOWED_FILES, is_allowed_name
from guards.errors import CheckpointError
from guards.manifest import (
    CheckpointFacts,
    CheckpointManifest,
    describe_checkpoint,
    manifest_path_for,
    read_manifest,
    scan_checkpoint,
    verify_checkpoint,
    write_manifest,
)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def edit_json(path: Path, **changes: Any) -> None:
    document = json.loads(path.read_text())
    document.update(changes)
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def changed_facts(before: CheckpointFacts, after: CheckpointFacts) -> set[str]:
    return {key for key, value in before.model_dump().items() if after.model_dump()[key] != value}


def test_the_digest_is_the_one_that_the_definition_gives(checkpoint: Path) -> None:
    files = [
        {"path": path.name, "size_bytes": path.stat().st_size, "sha256": sha256_file(path)}
        for path in sorted(checkpoint.iterdir(), key=lambda item: item.name)
    ]
    assert scan_checkpoint(checkpoint).digest == digest_of({"schema": "stairlock/checkpoint/v1", "files": files})


def test_the_digest_depends_on_every_byte_of_every_file(checkpoint: Path) -> None:
    digests = {scan_checkpoint(checkpoint).digest}
    paths = sorted(checkpoint.iterdir())
    for path in paths:
        whole = path.read_bytes()
        # The last byte of the weights is data; JSON takes a trailing space; a template takes anything.
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if path.suffix == ".safetensors" else whole + b" ")
        digests.add(scan_checkpoint(checkpoint).digest)
        path.write_bytes(whole)
    assert len(digests) == len(paths) + 1


def test_the_digest_does_not_depend_on_place_or_time(checkpoint: Path, tmp_path: Path) -> None:
    other = shutil.copytree(checkpoint, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert scan_checkpoint(other) == scan_checkpoint(checkpoint)


def test_a_manifest_survives_writing_and_reading(checkpoint: Path) -> None:
    manifest = scan_checkpoint(checkpoint)
    path = manifest_path_for(checkpoint)
    write_manifest(path, manifest)
    assert read_manifest(path) == manifest
    assert path.parent == checkpoint.parent


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["files"].reverse(),
        lambda body: body["files"].append(body["files"][-1]),
        lambda body: body["files"].clear(),
        lambda body: body["files"][0].update(path="../config.json"),
        lambda body: body["files"][0].update(path="pytorch_model.bin"),
        lambda body: body["files"][0].update(sha256="sha256:abc"),
        lambda body: body["files"][0].update(size_bytes=0),
        lambda body: body["files"][0].update(owner="me"),
        lambda body: body.update(schema="stairlock/checkpoint/v2"),
        lambda body: body.update(note="x"),
    ],
)
def test_a_manifest_that_is_not_one_is_refused(checkpoint: Path, change: Any) -> None:
    body = scan_checkpoint(checkpoint).to_json()
    change(body)
    path = checkpoint.parent / "bad.json"
    path.write_text(json.dumps(body))
    with pytest.raises(CheckpointError) as refusal:
        read_manifest(path)
    assert refusal.value.rule == "manifest.bad-manifest"


@given(st.binary(max_size=80))
def test_noise_is_no_manifest(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "m.json"
    path.write_bytes(noise)
    with pytest.raises(CheckpointError) as refusal:
        read_manifest(path)
    assert refusal.value.rule == "manifest.bad-manifest"


def test_no_manifest_is_a_rule_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refusal:
        read_manifest(tmp_path / "none.json")
    assert refusal.value.rule == "manifest.no-manifest"


@given(st.text(max_size=40))
def test_names_that_are_not_listed_are_not_allowed(name: str) -> None:
    assert is_allowed_name(name) == (name in ALLOWED_FILES)


@given(st.integers(0, 99_999), st.integers(0, 99_999))
def test_numbered_shards_are_allowed(index: int, n_shards: int) -> None:
    assert is_allowed_name(f"model-{index:05d}-of-{n_shards:05d}.safetensors")


@pytest.mark.parametrize(
    "name",
    [
        "Config.json",
        "config.json ",
        "config.json\n",
        "model-1-of-2.safetensors",
        "x/config.json",
        "model-٠٠٠٠١-of-٠٠٠٠٢.safetensors",
    ],
)
def test_near_misses_are_not_allowed(name: str) -> None:
    assert not is_allowed_name(name)


def test_verify_accepts_the_digest_and_no_other(checkpoint: Path) -> None:
    manifest = scan_checkpoint(checkpoint)
    assert verify_checkpoint(checkpoint, manifest.digest) == manifest
    with pytest.raises(CheckpointError) as refusal:
        verify_checkpoint(checkpoint, "sha256:" + "0" * 64)
    assert refusal.value.rule == "manifest.digest-mismatch"
    assert (refusal.value.got, refusal.value.expected) == (manifest.digest, "sha256:" + "0" * 64)


def test_verify_names_the_files_that_differ(checkpoint: Path) -> None:
    manifest = scan_checkpoint(checkpoint)
    write_manifest(manifest_path_for(checkpoint), manifest)
    (checkpoint / "special_tokens_map.json").write_text("{}")
    (checkpoint / "generation_config.json").unlink()
    edit_json(checkpoint / "config.json", rope_theta=1.0)
    with pytest.raises(CheckpointError) as refusal:
        verify_checkpoint(checkpoint, manifest.digest)
    for part in ("added: 'special_tokens_map.json'", "removed: 'generation_config.json'", "changed: 'config.json'"):
        assert part in refusal.value.message


def test_facts_of_the_tiny_checkpoint(checkpoint: Path) -> None:
    facts = describe_checkpoint(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    assert (facts.model_type, facts.architectures, facts.dtype) == ("llama", ("LlamaForCausalLM",), "bfloat16")
    assert facts.vocab_size == config["vocab_size"]
    assert facts.n_parameters * 2 < (checkpoint / "model.safetensors").stat().st_size


def test_other_weights_change_no_fact(checkpoint: Path, tiny_candidate: Path) -> None:
    assert describe_checkpoint(checkpoint) == describe_checkpoint(tiny_candidate)
    assert scan_checkpoint(checkpoint).digest != scan_checkpoint(tiny_candidate).digest


@pytest.mark.parametrize(
    ("file", "changes", "expected"),
    [
        ("config.json", {"rope_scaling": {"factor": 2.0}}, {"architecture_digest"}),
        ("config.json", {"eos_token_id": 0}, {"architecture_digest"}),
        ("config.json", {"transformers_version": "9.9", "_name_or_path": "/x", "use_cache": False}, set()),
        ("tokenizer_config.json", {"model_max_length": 10**30}, {"tokenizer_digest"}),
        ("tokenizer_config.json", {"padding_side": "left"}, {"tokenizer_digest"}),
        ("tokenizer_config.json", {"name_or_path": "/x", "is_local": True}, set()),
        ("tokenizer.json", {"truncation": {"max_length": 3}}, {"tokenizer_digest"}),
        ("generation_config.json", {"temperature": 0.7}, {"generation_config_digest"}),
        ("generation_config.json", {"transformers_version": "9.9"}, set()),
    ],
)
def test_each_edit_changes_the_fact_it_belongs_to(
    checkpoint: Path, file: str, changes: dict[str, Any], expected: set[str]
) -> None:
    before = describe_checkpoint(checkpoint)
    edit_json(checkpoint / file, **changes)
    assert changed_facts(before, describe_checkpoint(checkpoint)) == expected


def test_a_special_tokens_file_that_appears_changes_the_tokenizer(checkpoint: Path) -> None:
    before = describe_checkpoint(checkpoint)
    (checkpoint / "special_tokens_map.json").write_text("{}")
    assert changed_facts(before, describe_checkpoint(checkpoint)) == {"tokenizer_digest"}


def test_the_chat_template_counts_wherever_it_is_kept(checkpoint: Path) -> None:
    before = describe_checkpoint(checkpoint)
    template = (checkpoint / "chat_template.jinja").read_text()
    (checkpoint / "chat_template.jinja").unlink()
    assert changed_facts(before, describe_checkpoint(checkpoint)) == {"chat_template_digest"}
    edit_json(checkpoint / "tokenizer_config.json", chat_template=template)
    assert describe_checkpoint(checkpoint) == before
    edit_json(checkpoint / "tokenizer_config.json", chat_template=template + " ")
    assert changed_facts(before, describe_checkpoint(checkpoint)) == {"chat_template_digest"}


def test_another_dtype_shows(checkpoint: Path) -> None:
    from safetensors.torch import load_file

    from loop.checkpoint_io import write_safetensors

    before = describe_checkpoint(checkpoint)
    tensors = {name: tensor.float() for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    write_safetensors(checkpoint / "model.safetensors", tensors)
    after = describe_checkpoint(checkpoint)
    assert changed_facts(before, after) == {"dtype"}
    assert after.dtype == "float32"


def test_another_shape_shows(checkpoint: Path) -> None:
    from safetensors.torch import load_file

    from loop.checkpoint_io import write_safetensors

    before = describe_checkpoint(checkpoint)
    tensors = load_file(checkpoint / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].T.contiguous()
    write_safetensors(checkpoint / "model.safetensors", tensors)
    assert changed_facts(before, describe_checkpoint(checkpoint)) == {"tensors_digest"}


def test_shards_with_their_index_are_accepted(checkpoint: Path) -> None:
    split(checkpoint)
    manifest = scan_checkpoint(checkpoint)
    assert {"model-00001-of-00002.safetensors", "model.safetensors.index.json"} <= {e.path for e in manifest.files}


def split(checkpoint: Path) -> None:
    """Rewrite one weight file as two shards with their index."""
    from safetensors.torch import load_file

    from loop.checkpoint_io import write_safetensors

    tensors = load_file(checkpoint / "model.safetensors")
    weight_map: dict[str, str] = {}
    for index, part in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), 1):
        shard = f"model-{index:05d}-of-00002.safetensors"
        write_safetensors(checkpoint / shard, {name: tensors[name] for name in part})
        weight_map.update(dict.fromkeys(part, shard))
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (checkpoint / "model.safetensors").unlink()


def test_the_same_weights_in_shards_change_no_fact(checkpoint: Path) -> None:
    before = describe_checkpoint(checkpoint)
    split(checkpoint)
    assert describe_checkpoint(checkpoint) == before


def test_facts_and_manifest_are_frozen(checkpoint: Path) -> None:
    manifest = scan_checkpoint(checkpoint)
    with pytest.raises(ValueError, match="frozen"):
        manifest.files = ()  # type: ignore[misc]
    assert isinstance(manifest, CheckpointManifest)
