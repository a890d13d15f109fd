"""A root package: the adapter that makes the root from its base, and what made the adapter.

A directory with ``root.yaml``, ``adapter/`` and ``rows.jsonl`` (the rows that it was trained on;
cycles retain some of them). The merged checkpoint's digest is pinned in root.yaml.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from guards.canonical import sha256_file
from guards.errors import ConfigError, ModelError
from guards.evidence import Digest, Frozen
from guards.strict_yaml import line_of, load_yaml
from loop.constitutional import Mixture
from loop.rows import Row, read_rows
from loop.train_record import Recipe

ADAPTER, ROWS_FILE, ROOT_FILE = "adapter", "rows.jsonl", "root.yaml"


class Tolerance(Frozen):
    """How far a copy trained again may lie from the shipped root, on another machine."""

    min_update_cosine: float = Field(gt=0, le=1)


class EndpointSpec(Frozen):
    """An OpenAI-compatible endpoint that critiques in place of the templates; the key lies in a file of its own."""

    base_url: str = Field(pattern=r"^https?://")
    model: str = Field(min_length=1)
    api_key_file: str | None = None
    timeout_s: float = Field(gt=0, default=60.0)


class RootSpec(Frozen):
    """What root.yaml says. ``base`` is a pinned name or a path; ``digest`` is null until it was trained."""

    schema_: Literal["stairlock/root/v1"] = Field(alias="schema")
    name: str
    description: str = ""
    base: str
    base_digest: Digest
    digest: Digest | None
    rows_digest: Digest | None
    constitution: str
    prompts: str
    critic: Literal["templates"] | EndpointSpec = "templates"
    mixture: Mixture = Mixture()
    max_answer_tokens: int = Field(gt=0, default=16)
    n_redraws: int = Field(gt=0, default=8)
    """How often a harmless prompt is asked again that the base refused."""
    answer_temperature: float = Field(ge=0, default=1.0)
    """1 trains on the base's own distribution; greedy answers would sharpen it, and cost language quality."""
    recipe: Recipe
    merge_alpha: int = Field(gt=0)
    """The alpha that the adapter is merged with. Below the recipe's it scales the whole update down, which
    trades refusal for not over-refusing (weight interpolation: Wortsman et al., arXiv 2109.01903)."""
    tolerance: Tolerance


def load_root_spec(package: Path) -> RootSpec:
    """Read a package's root.yaml."""
    return load_yaml(package / ROOT_FILE, RootSpec)


def read_api_key(package: Path, endpoint: EndpointSpec) -> str:
    """The endpoint's key; empty where root.yaml names no file.

    Raises:
        ConfigError: ``root.api-key`` (the file cannot be read, or is empty).
    """
    if endpoint.api_key_file is None:
        return ""
    path = package / endpoint.api_key_file
    try:
        key, got = path.read_text(encoding="utf-8").strip(), "an empty file"
    except (OSError, UnicodeDecodeError) as error:
        key, got = "", getattr(error, "strerror", None) or "a file that is not UTF-8"
    if not key:
        source = package / ROOT_FILE
        raise ConfigError(
            "root.api-key",
            f"{source}:{line_of(source, 'critic', 'api_key_file')}: no key for the critic's endpoint in {path}",
            got=got,
            expected="a text file with the key alone, its path relative to root.yaml's directory",
            fix="write the key into that file, or leave api_key_file out where the endpoint asks for none",
        )
    return key


def package_rows(package: Path, spec: RootSpec) -> list[Row]:
    """The rows that the root was trained on, checked against their digest.

    Raises:
        ModelError: ``root.rows-differ``.
    """
    path = package / ROWS_FILE
    got = sha256_file(path) if path.is_file() else "no such file"
    if got != spec.rows_digest:
        raise ModelError(
            "root.rows-differ",
            f"{path} is not the file that the package was made with",
            got=got,
            expected=str(spec.rows_digest),
            fix="restore the package, or train the root again (make root)",
        )
    return read_rows(path)
