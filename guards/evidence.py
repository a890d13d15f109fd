"""Per-item records: what suites and probes produce, and the only thing gates read.

A *run* is one suite, drawn once, answered by one checkpoint. It is a directory:

``records.jsonl``  one canonical JSON record per item, in item order; same seed, same bytes
``texts.jsonl``    the free text behind each salted digest (withheld in a redacted copy)
``timings.jsonl``  latency per item; kept apart, because it differs between equal runs
``manifest.json``  written last; digests of the three, and what produced them

Not covered: a machine that measures falsely. ``stairlock reproduce`` lets others repeat it.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from guards.canonical import canonical_bytes, parse_json_strict, sha256_bytes, sha256_file
from guards.errors import EvidenceError

RECORDS_FILE = "records.jsonl"
TEXTS_FILE = "texts.jsonl"
TIMINGS_FILE = "timings.jsonl"
MANIFEST_FILE = "manifest.json"

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """Base of every model here: immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Scored(Frozen):
    """An item that was measured. ``scores`` maps a metric's name to a finite value, higher is better."""

    status: Literal["scored"] = "scored"
    scores: dict[str, float] = Field(min_length=1)

    @field_validator("scores")
    @classmethod
    def _finite(cls, scores: dict[str, float]) -> dict[str, float]:
        for metric, value in scores.items():
            if not math.isfinite(value):
                raise ValueError(f"score {metric!r} is {value}, not a finite number")
        return scores


class Unscored(Frozen):
    """An item that was not measured, and why. It counts against the candidate, never as zero."""

    status: Literal["unscored"] = "unscored"
    reason: str = Field(min_length=1)


Outcome = Annotated[Scored | Unscored, Field(discriminator="status")]


class Record(Frozen):
    """One item's evidence."""

    item_id: str = Field(min_length=1)
    cluster: str = Field(min_length=1)
    tags: dict[str, str] = Field(default_factory=dict)
    prompt_digest: Digest
    output_digest: Digest | None
    outcome: Outcome
    n_output_tokens: int = Field(ge=0)
    engine: str
    dtype: str
    batch: str
    seed: int


class Cost(Frozen):
    """What a run or step used. Milliseconds and tokens are integers, so that the ledger can hold them."""

    wall_ms: int = Field(ge=0)
    model_ms: int = Field(ge=0, default=0)
    tokens_in: int = Field(ge=0, default=0)
    tokens_out: int = Field(ge=0, default=0)
    tokens_trained: int = Field(ge=0, default=0)
    peak_rss_mib: int = Field(ge=0, default=0)


class RunManifest(Frozen):
    """What produced a run's records, and the digests that bind them.

    ``code_digest`` is over the sources of the program that drew, answered and scored the items.

    A *partial* run has answered ``n_items`` of the ``n_drawn`` items that were drawn for it, and
    ``unanswered`` says how many of the others are in which cluster. Both are absent from a whole run.
    """

    schema_: Literal["stairlock/evidence-run/v1"] = Field(default="stairlock/evidence-run/v1", alias="schema")
    checkpoint_digest: Digest
    suite_name: str
    suite_digest: Digest
    draw_seed_digest: Digest
    n_items: int = Field(gt=0)
    records_sha256: Digest
    texts_sha256: Digest
    timings_sha256: Digest
    engine: str
    device: str
    dtype: str
    batch_plan: str
    code_digest: Digest
    cost: Cost
    n_drawn: int | None = Field(default=None, gt=0)
    unanswered: dict[str, Annotated[int, Field(gt=0)]] | None = Field(default=None, min_length=1)

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _counts_add_up(self) -> RunManifest:
        if self.n_drawn is not None and self.n_drawn != self.n_items + sum((self.unanswered or {}).values()):
            raise ValueError(f"{self.n_items} items and those unanswered are not the {self.n_drawn} that were drawn")
        if (self.n_drawn is None) != (self.unanswered is None):
            raise ValueError("n_drawn and unanswered belong together")
        return self

    @property
    def evidence_digest(self) -> str:
        """Names what was measured; cost and timings are left out, so that equal runs are equal."""
        body = self.model_dump(by_alias=True, exclude={"cost", "timings_sha256"}, exclude_none=True)
        return sha256_bytes(canonical_bytes(body))

    def to_bytes(self) -> bytes:
        """What stands in manifest.json."""
        return canonical_bytes(self.model_dump(mode="json", by_alias=True, exclude_none=True))


class EvidenceRun(Frozen):
    """A run read back and checked: the manifest and every record.

    ``texts`` are the bytes of texts.jsonl where the run is no directory, as in a policy's cases;
    they are checked against the manifest just as the file is.
    """

    directory: Path
    manifest: RunManifest
    records: tuple[Record, ...]
    texts: bytes | None = None


def salted_digest(salt_hex: str, text: str) -> str:
    """Digest of free text; the salt keeps short texts from being guessed when they are withheld."""
    return sha256_bytes(bytes.fromhex(salt_hex) + text.encode("utf-8"))


def salt_for(salt_key: bytes, checkpoint_digest: str, item_id: str) -> str:
    """32-byte hex salt: HMAC-SHA256 under a key that stays in the home, so equal runs have equal salts."""
    return hmac.new(salt_key, f"{checkpoint_digest}\n{item_id}".encode(), hashlib.sha256).hexdigest()


def parse_record(line: bytes, *, source: str) -> Record:
    """One line of records.jsonl; refuses NaN, unknown keys and malformed lines."""
    value = parse_json_strict(line, source=source)
    try:
        return Record.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise EvidenceError("evidence.bad-record", f"{source}: {where}: {first['msg']}") from error


def read_run(directory: Path, *, expect_checkpoint: str | None = None) -> EvidenceRun:
    """Read a run and check every digest in it.

    Raises:
        EvidenceError: no manifest (half-written), a file that differs from its digest, a record
            that does not parse, a repeated item, fewer items than declared, or evidence of
            another checkpoint than ``expect_checkpoint``.
    """
    manifest = read_manifest(directory)
    if expect_checkpoint is not None and manifest.checkpoint_digest != expect_checkpoint:
        raise EvidenceError(
            "evidence.other-checkpoint",
            f"{directory} is evidence of another checkpoint",
            got=manifest.checkpoint_digest,
            expected=expect_checkpoint,
            fix="evaluate the checkpoint that is being gated",
        )
    for name, expected in ((RECORDS_FILE, manifest.records_sha256), (TIMINGS_FILE, manifest.timings_sha256)):
        _check_file(directory / name, expected)
    if (directory / TEXTS_FILE).exists():
        _check_file(directory / TEXTS_FILE, manifest.texts_sha256)
    lines = (directory / RECORDS_FILE).read_bytes().splitlines()
    records = tuple(parse_record(line, source=f"{directory / RECORDS_FILE}:{i}") for i, line in enumerate(lines, 1))
    _check_records(records, manifest, directory)
    return EvidenceRun(directory=directory, manifest=manifest, records=records)


def read_manifest(directory: Path) -> RunManifest:
    """The manifest of a run; its records are not looked at.

    Raises:
        EvidenceError: ``evidence.no-manifest`` (half-written), ``evidence.bad-manifest``.
    """
    manifest_path = directory / MANIFEST_FILE
    if not manifest_path.is_file():
        raise EvidenceError(
            "evidence.no-manifest",
            f"{directory} has no {MANIFEST_FILE}: the run was not finished",
            fix="run the evaluation again; what is half-written is not believed",
        )
    try:
        return RunManifest.model_validate(parse_json_strict(manifest_path.read_bytes(), source=str(manifest_path)))
    except ValidationError as error:
        raise EvidenceError("evidence.bad-manifest", f"{manifest_path}: {error.errors()[0]['msg']}") from error


def read_checked(path: Path, expected: str) -> bytes:
    """The bytes of a file whose digest is ``expected``: what is checked is what is returned.

    Raises:
        EvidenceError: ``evidence.digest-mismatch``, also where the file is not there.
    """
    data = path.read_bytes() if path.is_file() else None
    got = "no such file" if data is None else sha256_bytes(data)
    if data is None or got != expected:
        raise _mismatch(path, got, expected)
    return data


def _check_file(path: Path, expected: str) -> None:
    got = sha256_file(path) if path.is_file() else "no such file"
    if got != expected:
        raise _mismatch(path, got, expected)


def _mismatch(path: Path, got: str, expected: str) -> EvidenceError:
    return EvidenceError(
        "evidence.digest-mismatch",
        f"{path} is not the file that its manifest describes",
        got=got,
        expected=expected,
    )


def _check_records(records: Iterable[Record], manifest: RunManifest, directory: Path) -> None:
    seen: set[str] = set()
    for record in records:
        if record.item_id in seen:
            raise EvidenceError("evidence.duplicate-item", f"{directory}: item {record.item_id!r} appears twice")
        seen.add(record.item_id)
    if len(seen) != manifest.n_items:
        raise EvidenceError(
            "evidence.item-count",
            f"{directory}: the number of records differs from the manifest",
            got=str(len(seen)),
            expected=str(manifest.n_items),
        )
