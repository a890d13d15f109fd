"""A merge is W + scale * B A, rounded once, and the same bits on every machine."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import loop.merge
from guards.errors import CheckpointError, ModelError
from guards.manifest import describe_checkpoint, scan_checkpoint
from loop.checkpoint_io import load_model, write_safetensors
from loop.merge import merge_adapter, merge_weight

TARGETS = ["q_proj", "down_proj"]


def peft_adapter(base: Path, directory: Path, **settings: Any) -> Path:
    """An adapter as PEFT itself writes it, with a B that is not zero; float32."""
    from peft import LoraConfig, get_peft_model

    model, _ = load_model(base, "cpu", "float32")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        config = LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS, task_type="CAUSAL_LM", **settings)
        adapted = get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if ".lora_B." in name:
                    parameter.normal_(std=0.05)
    adapted.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def adapter(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peft_adapter(tiny_checkpoint, tmp_path_factory.mktemp("adapter") / "lora")


@pytest.fixture
def own_adapter(adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "lora"))


def edit_config(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(adapter: Path, change: Any) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    change(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")


def rule_of(base: Path, adapter: Path, out: Path) -> str:
    with pytest.raises((ModelError, CheckpointError)) as refusal:
        merge_adapter(base, adapter, out)
    assert not out.exists()
    assert not list(out.parent.glob(".*partial"))
    return refusal.value.rule


@pytest.mark.parametrize("rslora", [False, True])
def test_it_agrees_with_peft(tiny_checkpoint: Path, tmp_path: Path, rslora: bool) -> None:
    from peft import PeftModel

    lora = peft_adapter(tiny_checkpoint, tmp_path / "lora", use_rslora=rslora)
    merge_adapter(tiny_checkpoint, lora, tmp_path / "out")
    base, _ = load_model(tiny_checkpoint, "cpu", "float32")
    reference = PeftModel.from_pretrained(base.double(), str(lora)).merge_and_unload().state_dict()
    merged = load_file(tmp_path / "out" / "model.safetensors")
    before = load_file(tiny_checkpoint / "model.safetensors")
    for name, tensor in merged.items():
        if any(f".{target}." in name for target in TARGETS):
            assert reference[name].dtype == torch.float64
            assert torch.equal(tensor, reference[name].bfloat16()), name
            assert not torch.equal(tensor, before[name]), name
        else:
            assert torch.equal(tensor, before[name]), name


def test_everything_but_the_adapted_weights_is_the_base(tiny_checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    manifest = merge_adapter(tiny_checkpoint, adapter, tmp_path / "out")
    assert manifest == scan_checkpoint(tmp_path / "out")
    before, after = scan_checkpoint(tiny_checkpoint), manifest
    changed = {a.path for a, b in zip(before.files, after.files, strict=True) if a != b}
    assert changed == {"model.safetensors"}
    assert describe_checkpoint(tiny_checkpoint) == describe_checkpoint(tmp_path / "out")


def test_the_digest_does_not_depend_on_threads_or_repetition(
    tiny_checkpoint: Path, adapter: Path, tmp_path: Path
) -> None:
    n_threads = torch.get_num_threads()
    digests: set[str] = set()
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            digests.add(merge_adapter(tiny_checkpoint, adapter, tmp_path / f"out{n}").digest)
    finally:
        torch.set_num_threads(n_threads)
    assert len(digests) == 1


def test_the_bits_are_those_of_exact_arithmetic_rounded_once() -> None:
    """Also pins the bits, so that another machine or torch version that differs is noticed."""
    weight = ((torch.arange(35, dtype=torch.float64) * 37 % 101 - 50) / 64).reshape(7, 5).bfloat16()
    a = ((torch.arange(15, dtype=torch.float64) * 53 % 97 - 48) / 7).reshape(3, 5).float()
    b = ((torch.arange(21, dtype=torch.float64) * 29 % 89 - 44) / 11).reshape(7, 3).float()
    merged = merge_weight(weight, a, b, 0.625, name="w")
    for i in range(7):
        for j in range(5):
            delta = sum(Fraction(float(b[i, r])) * Fraction(float(a[r, j])) for r in range(3))
            exact = Fraction(float(weight[i, j])) + Fraction(0.625) * delta
            assert_nearest_bfloat16(exact, merged[i, j])
    data = bytes(memoryview(merged.reshape(-1).view(torch.uint8).numpy()))
    assert hashlib.sha256(data).hexdigest() == "fe84ed51aaec152cf75675046431a4e7d5ab5304f412ca99a96fad7c84218ec8"


def assert_nearest_bfloat16(exact: Fraction, got: torch.Tensor) -> None:
    bits = int(got.view(torch.int16))
    neighbours = [torch.tensor(bits + step, dtype=torch.int16).view(torch.bfloat16) for step in (-1, 1)]
    error = abs(Fraction(float(got)) - exact)
    for neighbour in neighbours:
        if math.isfinite(float(neighbour)):
            other = abs(Fraction(float(neighbour)) - exact)
            assert error < other or (error == other and bits % 2 == 0)


@given(st.floats(min_value=2.0**-100, max_value=2.0**100) | st.floats(min_value=-(2.0**100), max_value=-(2.0**-100)))
def test_rounding_to_bfloat16_is_to_nearest(value: float) -> None:
    rounded = loop.merge._round_once(torch.tensor([value], dtype=torch.float64), torch.bfloat16, name="w")
    assert_nearest_bfloat16(Fraction(value), rounded[0])


def test_rounding_twice_would_differ_here() -> None:
    """Just above the middle of two bfloat16 values; through float32 it becomes the middle, and goes down."""
    value = torch.tensor([1 + 2**-8 + 2**-40], dtype=torch.float64)
    assert value.to(torch.bfloat16).item() == 1.0
    assert loop.merge._round_once(value, torch.bfloat16, name="w").item() == 1 + 2**-7


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_other_base_dtypes_are_kept(tiny_checkpoint: Path, adapter: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    write_safetensors(base / "model.safetensors", {name: tensor.to(dtype) for name, tensor in tensors.items()})
    merge_adapter(base, adapter, tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj.weight"
    merged = load_file(tmp_path / "out" / "model.safetensors")[name]
    lora = load_file(adapter / "adapter_model.safetensors")
    a, b = (lora[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight"].double() for side in "AB")
    expected = tensors[name].double() + 1.5 * (b @ a)
    assert merged.dtype == dtype
    assert torch.allclose(merged.double(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_a_sharded_base_keeps_its_shards(tiny_checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_checkpoint, tmp_path / "base"))
    tensors = load_file(base / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for shard, part in parts.items():
        write_safetensors(base / shard, {name: tensors[name] for name in part})
    weight_map = {name: shard for shard, part in parts.items() for name in part}
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (base / "model.safetensors").unlink()
    merge_adapter(base, adapter, tmp_path / "out")
    merge_adapter(tiny_checkpoint, adapter, tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    for shard, part in parts.items():
        merged = load_file(tmp_path / "out" / shard)
        assert sorted(merged) == part
        assert all(torch.equal(merged[name], whole[name]) for name in part)


def test_the_merged_model_loads(tiny_checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    manifest = merge_adapter(tiny_checkpoint, adapter, tmp_path / "out")
    model, tokenizer = load_model(tmp_path / "out", "cpu", "bfloat16", expected_digest=manifest.digest)
    ids = tokenizer("12 + 3", return_tensors="pt").input_ids
    assert bool(torch.isfinite(model(ids).logits).all())


def test_progress_counts_the_adapted_weights(tiny_checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    merge_adapter(
        tiny_checkpoint, adapter, tmp_path / "out", progress=lambda _, done, total: seen.append((done, total))
    )
    assert seen == [(n, 4) for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"init_lora_weights": 1}, "init_lora_weights"),
        ({"use_rslora": "yes"}, "use_rslora"),
        ({"a_setting_of_next_year": {"x": 1}}, "a_setting_of_next_year"),
        ({"peft_type": "IA3"}, "IA3"),
    ],
)
def test_settings_that_are_not_handled(
    tiny_checkpoint: Path, own_adapter: Path, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    edit_config(own_adapter, **changes)
    with pytest.raises(ModelError) as refusal:
        merge_adapter(tiny_checkpoint, own_adapter, tmp_path / "out")
    assert refusal.value.rule == "merge.unsupported"
    assert word in refusal.value.got


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 0},
        {"r": True},
        {"r": 8},
        {"lora_alpha": 0},
        {"lora_alpha": "6"},
        {"target_modules": ["q_proj"]},
        {"target_modules": [*TARGETS, "up_proj"]},
    ],
)
def test_a_config_that_does_not_fit_its_weights(
    tiny_checkpoint: Path, own_adapter: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    edit_config(own_adapter, **changes)
    assert rule_of(tiny_checkpoint, own_adapter, tmp_path / "out") == "merge.bad-adapter"


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda t: t.pop(f"{Q}.lora_B.weight"), "merge.bad-adapter"),
        (lambda t: t.update({f"{Q}.lora_A.weight": torch.ones(4, 31)}), "merge.bad-adapter"),
        (lambda t: t.update({f"{Q}.lora_B.weight": torch.ones(32, 5)}), "merge.bad-adapter"),
        (lambda t: t.update({f"{Q}.lora_B.weight": torch.full((32, 4), math.nan)}), "model.not-finite"),
        (
            lambda t: t.update({f"{Q}.lora_{s}.weight": t[f"{Q}.lora_{s}.weight"] * 1e21 for s in "AB"}),
            "model.not-finite",
        ),
        (lambda t: t.update({"base_model.model.lm_head.weight": torch.ones(4, 4)}), "merge.unsupported"),
        (
            lambda t: t.update({"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 4)}),
            "merge.unsupported",
        ),
        (
            lambda t: t.update(
                {f"base_model.model.other.q_proj.lora_{s}.weight": torch.ones(4, 4) for s in ("A", "B")}
            ),
            "merge.bad-adapter",
        ),
    ],
    ids=["B missing", "A too narrow", "other rank", "NaN", "overflow", "saved module", "embedding", "unknown module"],
)
def test_weights_that_do_not_fit(
    tiny_checkpoint: Path, own_adapter: Path, tmp_path: Path, change: Any, rule: str
) -> None:
    edit_tensors(own_adapter, change)
    assert rule_of(tiny_checkpoint, own_adapter, tmp_path / "out") == rule


def test_an_adapter_directory_holds_two_files_and_a_card_that_is_not_read(
    tiny_checkpoint: Path, own_adapter: Path, tmp_path: Path
) -> None:
    (own_adapter / "README.md").write_bytes(b"\xff")
    merge_adapter(tiny_checkpoint, own_adapter, tmp_path / "out")
    (own_adapter / "training_args.bin").write_bytes(b"x")
    assert rule_of(tiny_checkpoint, own_adapter, tmp_path / "out2") == "merge.unknown-file"
    (own_adapter / "training_args.bin").unlink()
    (own_adapter / "adapter_model.safetensors").rename(tmp_path / "weights")
    (own_adapter / "adapter_model.safetensors").symlink_to(tmp_path / "weights")
    assert rule_of(tiny_checkpoint, own_adapter, tmp_path / "out2") == "merge.unknown-file"
    (own_adapter / "adapter_model.safetensors").unlink()
    assert rule_of(tiny_checkpoint, own_adapter, tmp_path / "out2") == "merge.not-an-adapter"
    (own_adapter / "adapter_model.bin").write_bytes(b"x")
    assert rule_of(tiny_checkpoint, own_adapter, tmp_path / "out2") == "merge.not-an-adapter"


def test_a_truncated_adapter(tiny_checkpoint: Path, own_adapter: Path, tmp_path: Path) -> None:
    path = own_adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert rule_of(tiny_checkpoint, own_adapter, tmp_path / "out") == "manifest.half-written"


def test_another_base_than_expected(tiny_checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refusal:
        merge_adapter(tiny_checkpoint, adapter, tmp_path / "out", expected_base_digest="sha256:" + "0" * 64)
    assert refusal.value.rule == "manifest.digest-mismatch"


def test_an_existing_target_is_not_touched(tiny_checkpoint: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError) as refusal:
        merge_adapter(tiny_checkpoint, adapter, tmp_path / "out")
    assert refusal.value.rule == "model.out-exists"
    assert list((tmp_path / "out").iterdir()) == []


def test_a_full_disk_leaves_nothing(
    tiny_checkpoint: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, tensors: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop.merge, "write_safetensors", full)
    assert rule_of(tiny_checkpoint, adapter, tmp_path / "out") == "model.no-space"
