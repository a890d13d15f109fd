"""The digest that names a checkpoint, and what the integrity gate may know about it.

The digest is sha256 over the RFC 8785 JSON of
``{"schema", "files": [{"path", "size_bytes", "sha256"}, ...]}`` with the files sorted by path.
What a directory may hold is decided in :mod:`guards.checkpoint_files`.

Not covered: see there; a manifest says what the files are, never that the model is any good.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import ConfigDict, Field, ValidationError, model_validator

from guards.canonical import canonical_bytes, digest_of, parse_json_strict, sha256_bytes
from guards.checkpoint_files import (
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILES,
    FileEntry,
    is_allowed_name,
    listed,
    read_directory,
)
from guards.durable import write_whole
from guards.errors import CheckpointError, StairlockError
from guards.evidence import Digest, Frozen
from guards.safetensors_header import TensorHeader

# Keys that libraries write about themselves; they change nothing that the model computes.
VOLATILE_CONFIG_KEYS = frozenset({"transformers_version", "_name_or_path", "_model_name_or_path", "_commit_hash"})
_NOT_ARCHITECTURE_KEYS = VOLATILE_CONFIG_KEYS | {"dtype", "torch_dtype", "use_cache"}
VOLATILE_TOKENIZER_KEYS = frozenset(
    {"name_or_path", "is_local", "local_files_only", "backend", "transformers_version", "_commit_hash"}
)
VOLATILE_GENERATION_KEYS = VOLATILE_CONFIG_KEYS | {"_from_model_config"}

_MAX_EXACT_INTEGER = 2**53

_DTYPE_NAMES = {
    "BF16": "bfloat16",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
}


class CheckpointManifest(Frozen):
    """Every file of a checkpoint, sorted by path."""

    schema_: Literal["stairlock/checkpoint/v1"] = Field(default="stairlock/checkpoint/v1", alias="schema")
    files: Annotated[tuple[FileEntry, ...], Field(min_length=1)]

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _sorted_and_allowed(self) -> CheckpointManifest:
        paths = [entry.path for entry in self.files]
        if paths != sorted(set(paths)):
            raise ValueError("files are not sorted by path, or one is listed twice")
        unknown = [path for path in paths if not is_allowed_name(path)]
        if unknown:
            raise ValueError(f"names that no checkpoint may hold: {unknown}")
        return self

    def to_json(self) -> dict[str, Any]:
        """The object that is hashed and stored; holds no floats."""
        return self.model_dump(mode="json", by_alias=True)

    @property
    def digest(self) -> str:
        """The checkpoint's name everywhere: sha256 over the canonical JSON of this manifest."""
        return digest_of(self.to_json())

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(entry.size_bytes for entry in self.files)


class CheckpointFacts(Frozen):
    """What the integrity gate compares; two checkpoints with equal facts differ in weights at most.

    ``architecture_digest`` is over config.json without the keys that libraries write about
    themselves, without dtype and without ``use_cache``. ``tensors_digest`` is over the names and
    shapes of all tensors. ``tokenizer_digest`` is over every tokenizer file, byte for byte, except
    that tokenizer_config.json counts by its content, without the chat template and without what
    libraries write about themselves. ``chat_template_digest`` and ``generation_config_digest`` are
    those of JSON ``null`` where there is none. ``dtype`` names the weights' dtype; several are
    joined by ``+``. The key ``tie_word_embeddings`` and special-token ids in config.json count as
    architecture.
    """

    model_type: str
    architectures: tuple[str, ...]
    vocab_size: int | None
    n_parameters: int
    architecture_digest: Digest
    tensors_digest: Digest
    tokenizer_digest: Digest
    chat_template_digest: Digest
    generation_config_digest: Digest
    dtype: str


def scan_checkpoint(directory: Path) -> CheckpointManifest:
    """Check a checkpoint directory and hash every file in it.

    Raises:
        CheckpointError: the rules are listed at :func:`guards.checkpoint_files.read_directory`.
    """
    return CheckpointManifest(files=tuple(read_directory(directory).entries))


def verify_checkpoint(directory: Path, expected_digest: str) -> CheckpointManifest:
    """:func:`scan_checkpoint`, and the digest must be ``expected_digest``.

    Where the sealed manifest lies beside the directory, the message names the files that differ.

    Raises:
        CheckpointError: as for the scan, and ``manifest.digest-mismatch``.
    """
    manifest = scan_checkpoint(directory)
    if manifest.digest != expected_digest:
        raise CheckpointError(
            "manifest.digest-mismatch",
            f"{directory} is not the checkpoint that was sealed{_what_differs(directory, manifest, expected_digest)}",
            got=manifest.digest,
            expected=expected_digest,
            fix="restore the sealed files, or seal this directory as another checkpoint (stairlock model add PATH)",
        )
    return manifest


def describe_checkpoint(directory: Path) -> CheckpointFacts:
    """Facts for the integrity gate. Scans (and hashes) the directory; raises what the scan raises."""
    scan = read_directory(directory)
    config = scan.documents[CONFIG_FILE]
    tensors = sorted((t for shard in scan.tensors.values() for t in shard), key=lambda item: item.name)
    tokenizer_config = scan.documents.get(TOKENIZER_CONFIG_FILE, {})
    tokenizer: dict[str, object] = {e.path: e.sha256 for e in scan.entries if e.path in TOKENIZER_FILES}
    if TOKENIZER_CONFIG_FILE in tokenizer:
        tokenizer[TOKENIZER_CONFIG_FILE] = _without(tokenizer_config, VOLATILE_TOKENIZER_KEYS | {"chat_template"})
    template = scan.chat_template if scan.chat_template is not None else tokenizer_config.get("chat_template")
    generation = scan.documents.get(GENERATION_CONFIG_FILE)
    vocab_size = config.get("vocab_size")
    return CheckpointFacts(
        model_type=cast(str, config["model_type"]),
        architectures=tuple(cast(list[str], config["architectures"])),
        vocab_size=vocab_size if isinstance(vocab_size, int) else None,
        n_parameters=sum(_n_elements(tensor) for tensor in tensors),
        architecture_digest=_digest_of_document(_without(config, _NOT_ARCHITECTURE_KEYS)),
        tensors_digest=digest_of([[tensor.name, list(tensor.shape)] for tensor in tensors]),
        tokenizer_digest=_digest_of_document(tokenizer),
        chat_template_digest=_digest_of_document(template),
        generation_config_digest=_digest_of_document(
            None if generation is None else _without(generation, VOLATILE_GENERATION_KEYS)
        ),
        dtype="+".join(sorted({_DTYPE_NAMES.get(tensor.dtype, tensor.dtype.lower()) for tensor in tensors})),
    )


def manifest_path_for(directory: Path) -> Path:
    """Where a sealed directory's manifest lies: beside it, so that it is not part of what it names."""
    return directory.parent / f"{directory.name}.manifest.json"


def write_manifest(path: Path, manifest: CheckpointManifest) -> None:
    """Write the manifest's canonical JSON, whole or not at all."""
    write_whole(path, canonical_bytes(manifest.to_json()))


def read_manifest(path: Path) -> CheckpointManifest:
    """Inverse of :func:`write_manifest`.

    Raises:
        CheckpointError: ``manifest.no-manifest``, ``manifest.bad-manifest``.
    """
    if not path.is_file():
        raise CheckpointError(
            "manifest.no-manifest",
            f"{path}: there is no manifest, so the checkpoint was not sealed to its end",
            fix="seal it again (stairlock model add PATH)",
        )
    try:
        return CheckpointManifest.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))
    except ValidationError as error:
        raise CheckpointError("manifest.bad-manifest", f"{path}: {error.errors()[0]['msg']}") from error
    except (StairlockError, ValueError, RecursionError) as error:
        raise CheckpointError("manifest.bad-manifest", f"{path}: not a manifest ({error})") from error


def _what_differs(directory: Path, manifest: CheckpointManifest, expected_digest: str) -> str:
    path = manifest_path_for(directory)
    try:
        sealed = read_manifest(path)
    except CheckpointError:
        return ""
    if sealed.digest != expected_digest:
        return ""
    then = {entry.path: entry for entry in sealed.files}
    now = {entry.path: entry for entry in manifest.files}
    parts = [
        f"{word} {listed(names)}"
        for word, names in (
            ("added:", sorted(now.keys() - then.keys())),
            ("removed:", sorted(then.keys() - now.keys())),
            ("changed:", sorted(name for name in now.keys() & then.keys() if now[name] != then[name])),
        )
        if names
    ]
    return f" ({'; '.join(parts)})"


def _n_elements(tensor: TensorHeader) -> int:
    n = 1
    for size in tensor.shape:
        n *= size
    return n


def _without(document: dict[str, object], keys: Iterable[str]) -> dict[str, object]:
    dropped = set(keys)
    return {key: value for key, value in document.items() if key not in dropped}


def _digest_of_document(value: object) -> str:
    """Digest of someone else's JSON; whole numbers that RFC 8785 cannot hold are hashed as text.

    tokenizer_config.json really holds one (a ``model_max_length`` of 10**30).
    """
    try:
        return digest_of(_representable(value))
    except StairlockError:
        return sha256_bytes(repr(_representable(value)).encode("utf-8", "backslashreplace"))


def _representable(value: object) -> object:
    if isinstance(value, dict):
        return {key: _representable(item) for key, item in cast(dict[str, object], value).items()}
    if isinstance(value, list):
        return [_representable(item) for item in cast(list[object], value)]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _MAX_EXACT_INTEGER:
        return {"integer": str(value)}
    return value
