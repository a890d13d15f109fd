"""Loading and saving: the same bytes every time, and a declared device and dtype."""

from __future__ import annotations

import errno
import json
import shutil
import stat
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import loop.checkpoint_io
from guards.errors import ModelError
from guards.manifest import scan_checkpoint
from loop.checkpoint_io import load_model, resolve_device, resolve_dtype, save_checkpoint, write_safetensors


def test_a_checkpoint_that_is_loaded_and_saved_keeps_its_digest(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_checkpoint, "cpu", "bfloat16")
    assert save_checkpoint(model, tokenizer, tmp_path / "again") == scan_checkpoint(tiny_checkpoint)


def test_use_leaves_no_trace_in_what_is_saved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_checkpoint, "cpu", "bfloat16", attn_implementation="eager")
    tokenizer(["a", "long text"], padding=True, truncation=True, max_length=3)
    model.generate(**tokenizer("12", return_tensors="pt"), max_new_tokens=2)
    assert save_checkpoint(model, tokenizer, tmp_path / "again") == scan_checkpoint(tiny_checkpoint)


def test_files_modes_and_volatile_keys(tiny_checkpoint: Path) -> None:
    assert sorted(path.name for path in tiny_checkpoint.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    for path in tiny_checkpoint.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert "transformers_version" not in path.read_text(encoding="latin-1")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        document = json.loads((tiny_checkpoint / name).read_text())
        assert not {"_name_or_path", "_model_name_or_path", "name_or_path", "is_local"} & document.keys()
        assert list(document) == sorted(document)


def test_the_dtype_that_was_asked_for_is_used(tiny_checkpoint: Path) -> None:
    for dtype, expected in (("auto", torch.bfloat16), ("float32", torch.float32), ("float16", torch.float16)):
        model, _ = load_model(tiny_checkpoint, "cpu", dtype)
        assert {parameter.dtype for parameter in model.parameters()} == {expected}
        assert not model.training


def test_auto_device_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for present, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert resolve_device("auto").type == expected


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "", "meta"])
def test_a_device_that_is_not_here(device: str) -> None:
    with pytest.raises(ModelError) as refusal:
        resolve_device(device)
    assert refusal.value.rule == "model.no-device"


@pytest.mark.parametrize("dtype", ["int8", "", "torch.bfloat16", "float64"])
def test_an_unknown_dtype(dtype: str) -> None:
    with pytest.raises(ModelError) as refusal:
        resolve_dtype(dtype)
    assert refusal.value.rule == "model.unknown-dtype"


def test_tied_weights_are_written_once(tiny_checkpoint: Path) -> None:
    assert "lm_head.weight" not in load_file(tiny_checkpoint / "model.safetensors")


def test_tied_weights_that_another_tool_wrote_twice_are_accepted(tiny_checkpoint: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(tiny_checkpoint, tmp_path / "twice"))
    tensors = load_file(directory / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    write_safetensors(directory / "model.safetensors", tensors)
    model, _ = load_model(directory, "cpu", "bfloat16")
    assert torch.equal(model.get_output_embeddings().weight, tensors["model.embed_tokens.weight"])


def test_an_adapter_that_was_not_merged_is_not_saved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load_model(tiny_checkpoint, "cpu", "bfloat16")
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for candidate in (adapted, adapted.get_base_model()):
        with pytest.raises(ModelError) as refusal:
            save_checkpoint(candidate, tokenizer, tmp_path / "out")
        assert refusal.value.rule == "model.unmerged-adapter"


def test_weights_that_are_not_numbers_are_not_saved(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_checkpoint, "cpu", "bfloat16")
    with torch.no_grad():
        next(model.parameters())[0, 0] = torch.nan
    with pytest.raises(ModelError) as refusal:
        save_checkpoint(model, tokenizer, tmp_path / "out")
    assert refusal.value.rule == "model.not-finite"
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    model, tokenizer = load_model(tiny_checkpoint, "cpu", "bfloat16")
    monkeypatch.setattr(loop.checkpoint_io, "write_json", full)
    with pytest.raises(ModelError) as refusal:
        save_checkpoint(model, tokenizer, tmp_path / "out")
    assert refusal.value.rule == "model.no-space"
    assert list(tmp_path.iterdir()) == []


def test_loading_is_silent_and_puts_settings_back(tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled())
    load_model(tiny_checkpoint, "cpu", "bfloat16")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_weights_may_be_written_over_the_file_that_they_were_loaded_from(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copyfile(tiny_checkpoint / "model.safetensors", tmp_path / "model.safetensors"))
    tensors = load_file(path)
    write_safetensors(path, tensors)
    assert path.read_bytes() == (tiny_checkpoint / "model.safetensors").read_bytes()


SHAPES = st.lists(st.integers(0, 4), max_size=3)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abcé.", min_size=1, max_size=6), st.tuples(SHAPES, DTYPES), min_size=1, max_size=6))
def test_the_library_reads_what_is_written(tmp_path: Path, wanted: dict[str, tuple[list[int], torch.dtype]]) -> None:
    tensors = {
        name: torch.arange(1, 1 + int(torch.Size(shape).numel())).reshape(shape).to(dtype)
        for name, (shape, dtype) in wanted.items()
    }
    path = tmp_path / "model.safetensors"
    write_safetensors(path, tensors)
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)
    once = path.read_bytes()
    write_safetensors(path, dict(reversed(tensors.items())))
    assert path.read_bytes() == once
