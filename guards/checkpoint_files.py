"""Which files a checkpoint directory may hold, and whether each is sound: the allow-list itself.

Names are judged before any file is opened; then every file is opened once, without following
links, checked and hashed through the same handle.

Not covered: the values of the weights (NaN, a planted fault: that is what gates are for); a
machine on which another process rewrites files while they are read; flaws of the libraries that
later parse an allowed file.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from pydantic import Field

from guards.canonical import parse_json_strict
from guards.errors import CheckpointError, StairlockError
from guards.evidence import Digest, Frozen
from guards.safetensors_header import TensorHeader, read_header

CONFIG_FILE = "config.json"
GENERATION_CONFIG_FILE = "generation_config.json"
WEIGHTS_FILE = "model.safetensors"
WEIGHTS_INDEX_FILE = "model.safetensors.index.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
TOKENIZER_FILES = frozenset(
    {
        "tokenizer.json",
        TOKENIZER_CONFIG_FILE,
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
    }
)
ALLOWED_FILES = TOKENIZER_FILES | {
    CONFIG_FILE,
    GENERATION_CONFIG_FILE,
    WEIGHTS_FILE,
    WEIGHTS_INDEX_FILE,
    CHAT_TEMPLATE_FILE,
}
_SHARD = re.compile(r"model-[0-9]{5}-of-[0-9]{5}\.safetensors")
_ADAPTER_FILES = frozenset({"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"})
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".dill"})
_CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyd", ".so", ".dylib", ".dll", ".sh", ".ipynb", ".whl", ".egg"})
_PARTIAL_SUFFIXES = frozenset({".partial", ".incomplete", ".part", ".tmp", ".lock"})

# Keys through which the libraries that load a checkpoint would fetch and run code of its author's.
_CODE_KEYS = frozenset({"auto_map", "trust_remote_code", "custom_generate", "custom_pipelines", "custom_pipeline"})
# An attention or expert kernel whose name holds a "/" is a hub repository with compiled code.
_KERNEL_KEYS = frozenset({"attn_implementation", "experts_implementation"})

_MAX_JSON_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 20


class FileEntry(Frozen):
    """One file of a checkpoint; ``path`` is a plain name on the allow-list."""

    path: str
    size_bytes: int = Field(gt=0)
    sha256: Digest


@dataclass
class ReadDirectory:
    """One pass over a checkpoint directory.

    ``documents`` are the parsed JSON files by name; ``tensors`` the headers by weight file.
    """

    entries: list[FileEntry] = field(default_factory=list[FileEntry])
    documents: dict[str, dict[str, object]] = field(default_factory=dict[str, dict[str, object]])
    chat_template: str | None = None
    tensors: dict[str, tuple[TensorHeader, ...]] = field(default_factory=dict[str, tuple[TensorHeader, ...]])


def is_allowed_name(name: str) -> bool:
    """True for a file name that a checkpoint may hold."""
    return name in ALLOWED_FILES or _SHARD.fullmatch(name) is not None


def read_directory(directory: Path) -> ReadDirectory:
    """Check a checkpoint directory and hash every file in it; entries are sorted by path.

    Raises:
        CheckpointError: by rule. Before anything is opened: ``manifest.not-a-directory``,
            ``manifest.symlink``, ``manifest.adapter``, ``manifest.pickle``,
            ``manifest.remote-code`` (a code file), ``manifest.half-written`` (a partial or empty
            file), ``manifest.unknown-file``, ``manifest.no-config``, ``manifest.no-weights``,
            ``manifest.no-tokenizer``. Then: ``manifest.half-written`` (truncated weights),
            ``manifest.bad-safetensors``, ``manifest.missing-shard``, ``manifest.bad-json``,
            ``manifest.bad-config``, ``manifest.remote-code`` (a key that loads code),
            ``manifest.two-chat-templates``.
    """
    names = _judge_names(directory)
    scan = ReadDirectory()
    for name in names:
        _open_and_check(directory / name, scan)
    _check_config(directory, scan.documents[CONFIG_FILE])
    for name, document in scan.documents.items():
        if name in (CONFIG_FILE, GENERATION_CONFIG_FILE, TOKENIZER_CONFIG_FILE):
            _refuse_code_keys(f"{directory / name}", document)
    _check_weights(directory, scan)
    inline = scan.documents.get(TOKENIZER_CONFIG_FILE, {}).get("chat_template")
    if scan.chat_template is not None and inline is not None and inline != scan.chat_template:
        raise CheckpointError(
            "manifest.two-chat-templates",
            f"{directory}: {CHAT_TEMPLATE_FILE} and {TOKENIZER_CONFIG_FILE} hold different chat templates",
            fix="keep one of them; which one a library would use depends on its version",
        )
    return scan


def _judge_names(directory: Path) -> list[str]:
    """File names of the directory, sorted, all allowed; nothing has been opened."""
    if not directory.is_dir():
        raise CheckpointError(
            "manifest.not-a-directory", f"{directory} is not a directory", fix="give a checkpoint directory"
        )
    with os.scandir(directory) as listing:
        entries = sorted(listing, key=lambda item: item.name)
    names = [entry.name for entry in entries]
    links = [entry.name for entry in entries if entry.is_symlink()]
    _refuse(directory, "manifest.symlink", links, "symbolic links", "copy the files themselves (cp -rL SOURCE TARGET)")
    adapter = [name for name in names if name in _ADAPTER_FILES]
    if adapter:
        raise CheckpointError(
            "manifest.adapter",
            f"{directory} holds an adapter, which is no checkpoint by itself",
            got=listed(adapter),
            expected="a whole model",
            fix="merge it into its base first: stairlock model add BASE --adapter PATH",
        )
    suffixes = {name: Path(name).suffix.lower() for name in names}
    pickles = [name for name in names if suffixes[name] in _PICKLE_SUFFIXES]
    _refuse(
        directory,
        "manifest.pickle",
        pickles,
        "pickle files, which run code when they are opened",
        "save as safetensors",
    )
    code = [name for name in names if suffixes[name] in _CODE_SUFFIXES or name == "__pycache__"]
    _refuse(
        directory,
        "manifest.remote-code",
        code,
        "program code",
        "only models that need no code of their own are accepted",
    )
    partial = [name for name in names if suffixes[name] in _PARTIAL_SUFFIXES]
    partial += [e.name for e in entries if is_allowed_name(e.name) and e.is_file() and e.stat().st_size == 0]
    _refuse(
        directory, "manifest.half-written", partial, "files that were not finished", "copy or save the checkpoint again"
    )
    unknown = [e.name for e in entries if not is_allowed_name(e.name) or not e.is_file(follow_symlinks=False)]
    _refuse(
        directory,
        "manifest.unknown-file",
        unknown,
        "files that the allow-list does not know",
        "move them out of the directory; allowed are " + ", ".join(sorted(ALLOWED_FILES)) + " and numbered shards",
    )
    _require_files(directory, names)
    return names


def _require_files(directory: Path, names: list[str]) -> None:
    if CONFIG_FILE not in names:
        raise CheckpointError(
            "manifest.no-config", f"{directory} has no {CONFIG_FILE}", fix="save it with save_pretrained"
        )
    if WEIGHTS_INDEX_FILE not in names and not any(name.endswith(".safetensors") for name in names):
        raise CheckpointError(
            "manifest.no-weights",
            f"{directory} has no weights",
            expected=f"{WEIGHTS_FILE}, or shards with {WEIGHTS_INDEX_FILE}",
            fix="save the model as safetensors",
        )
    has_tokenizer = (
        "tokenizer.json" in names or "tokenizer.model" in names or {"vocab.json", "merges.txt"} <= set(names)
    )
    if not has_tokenizer:
        raise CheckpointError(
            "manifest.no-tokenizer",
            f"{directory} has no tokenizer",
            expected="tokenizer.json, or tokenizer.model, or vocab.json with merges.txt",
            fix="save the tokenizer into the same directory (tokenizer.save_pretrained)",
        )


def _open_and_check(path: Path, scan: ReadDirectory) -> None:
    """Open once, without following links; parse what must be parsed and hash through one handle."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise CheckpointError("manifest.unknown-file", f"{path} is not a regular file")
        size_bytes = os.fstat(handle).st_size
        if path.name.endswith(".safetensors"):
            scan.tensors[path.name] = read_header(stream, source=str(path))
        elif path.name.endswith(".json"):
            scan.documents[path.name] = _parse_object(path, size_bytes, stream.read(_MAX_JSON_BYTES + 1))
        elif path.name == CHAT_TEMPLATE_FILE:
            scan.chat_template = _decode(path, stream.read(_MAX_JSON_BYTES + 1))
        stream.seek(0)
        hasher = hashlib.sha256()
        n_hashed = 0
        while chunk := stream.read(_CHUNK_BYTES):
            hasher.update(chunk)
            n_hashed += len(chunk)
    if n_hashed != size_bytes:
        raise CheckpointError(
            "manifest.half-written", f"{path} changed while it was read", fix="try again when it is still"
        )
    scan.entries.append(FileEntry(path=path.name, size_bytes=size_bytes, sha256="sha256:" + hasher.hexdigest()))


def _parse_object(path: Path, size_bytes: int, data: bytes) -> dict[str, object]:
    if size_bytes > _MAX_JSON_BYTES:
        raise CheckpointError(
            "manifest.bad-json", f"{path} is larger than {_MAX_JSON_BYTES} bytes", got=str(size_bytes)
        )
    try:
        value: object = parse_json_strict(data, source=str(path))
    except (StairlockError, ValueError, RecursionError) as error:
        raise CheckpointError(
            "manifest.bad-json",
            f"{path} is not strict JSON",
            got=error.message if isinstance(error, StairlockError) else type(error).__name__,
            fix="save the file again; a file cut short looks like this too",
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError("manifest.bad-json", f"{path} is not a JSON object")
    return cast(dict[str, object], value)


def _decode(path: Path, data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError("manifest.bad-json", f"{path} is not UTF-8 text") from error


def _check_config(directory: Path, config: dict[str, object]) -> None:
    model_type = config.get("model_type")
    architectures = config.get("architectures")
    names = cast(list[object], architectures) if isinstance(architectures, list) else []
    named = bool(names) and all(isinstance(name, str) and name for name in names)
    if not isinstance(model_type, str) or not model_type or not named:
        raise CheckpointError(
            "manifest.bad-config",
            f"{directory / CONFIG_FILE} does not say which model this is",
            got=f"model_type {model_type!r}, architectures {architectures!r}",
            expected="model_type, and architectures as a list of names",
            fix="save the model with save_pretrained",
        )


def _refuse_code_keys(source: str, value: object) -> None:
    """Refuse, at any depth, keys that make a library run the author's code."""
    if isinstance(value, list):
        for item in cast(list[object], value):
            _refuse_code_keys(source, item)
        return
    if not isinstance(value, dict):
        return
    for key, item in cast(dict[str, object], value).items():
        kernel = key.lstrip("_").removesuffix("_internal") in _KERNEL_KEYS and "/" in str(item)
        if key in _CODE_KEYS or kernel:
            raise CheckpointError(
                "manifest.remote-code",
                f"{source}: the key {key!r} asks for code from outside to be run",
                fix="only models that the installed transformers knows are accepted; remove the key if yours is one",
            )
        _refuse_code_keys(source, item)


def _check_weights(directory: Path, scan: ReadDirectory) -> None:
    shards = set(scan.tensors)
    index = scan.documents.get(WEIGHTS_INDEX_FILE)
    if index is None:
        stray = sorted(shards - {WEIGHTS_FILE})
        if stray and WEIGHTS_FILE in shards:
            _refuse(
                directory, "manifest.unknown-file", stray, f"shards beside {WEIGHTS_FILE}", "keep one set of weights"
            )
        if stray:
            raise CheckpointError(
                "manifest.missing-shard",
                f"{directory}: shards without {WEIGHTS_INDEX_FILE}",
                got=listed(stray),
                fix="copy the index too; without it nobody knows whether a shard is missing",
            )
        return
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("manifest.bad-json", f"{directory / WEIGHTS_INDEX_FILE} has no weight_map")
    placed = {name: str(shard) for name, shard in cast(dict[str, object], weight_map).items()}
    missing = sorted(set(placed.values()) - shards)
    if missing:
        raise CheckpointError(
            "manifest.missing-shard",
            f"{directory}: the index names shards that are not there",
            got=listed(missing),
            fix="copy the missing shards; a model with holes is not believed",
        )
    stray = sorted(shards - set(placed.values()))
    _refuse(directory, "manifest.unknown-file", stray, "shards that the index does not name", "move them out")
    for shard, tensors in scan.tensors.items():
        if {t.name for t in tensors} != {name for name, place in placed.items() if place == shard}:
            raise CheckpointError(
                "manifest.bad-safetensors",
                f"{directory / shard} holds other tensors than {WEIGHTS_INDEX_FILE} says",
                fix="save the model again",
            )


def _refuse(directory: Path, rule: str, names: Iterable[str], what: str, fix: str) -> None:
    found = sorted(set(names))
    if found:
        raise CheckpointError(rule, f"{directory} holds {what}", got=listed(found), fix=fix)


def listed(names: Iterable[str]) -> str:
    """At most ten names, escaped: a file name is not trusted text."""
    shown = list(names)
    return ", ".join(repr(name) for name in shown[:10]) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "")
