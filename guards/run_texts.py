"""The free text of a run: prompts and outputs, behind the salted digests of its records.

Only the gates that must see text read it. In a redacted copy it is withheld; those gates are then
inconclusive.
"""

from __future__ import annotations

from pydantic import ValidationError

from guards.canonical import parse_json_strict, sha256_bytes
from guards.errors import EvidenceError
from guards.evidence import TEXTS_FILE, EvidenceRun, Frozen, salted_digest


class RunText(Frozen):
    """One line of texts.jsonl. ``output`` is null for an item that was not answered."""

    item_id: str
    prompt: str
    output: str | None
    salt: str


def read_texts(run: EvidenceRun) -> dict[str, RunText]:
    """Text by item id, checked against the run's manifest and every record's digests.

    The bytes that are parsed are the bytes that are checked, whatever happened to the file since
    the run was read.

    Raises:
        EvidenceError: ``evidence.texts-withheld``, ``evidence.digest-mismatch``,
            ``evidence.bad-text``, or ``evidence.text-mismatch`` where a text is missing or is not
            the one that its record names.
    """
    path = run.directory / TEXTS_FILE
    if run.texts is None and not path.is_file():
        raise EvidenceError(
            "evidence.texts-withheld",
            f"{run.directory} has no {TEXTS_FILE}",
            fix="gate on the full evidence, not on a redacted copy",
        )
    data = path.read_bytes() if run.texts is None else run.texts
    if sha256_bytes(data) != run.manifest.texts_sha256:
        raise EvidenceError(
            "evidence.digest-mismatch",
            f"{path} is not the file that its manifest describes",
            got=sha256_bytes(data),
            expected=run.manifest.texts_sha256,
        )
    texts = [_parse(line, f"{path}:{number}") for number, line in enumerate(data.split(b"\n"), 1) if line]
    text_by_item = {text.item_id: text for text in texts}
    if len(text_by_item) != len(texts) or set(text_by_item) != {record.item_id for record in run.records}:
        raise EvidenceError("evidence.text-mismatch", f"{path} does not have exactly one text for every record")
    for record in run.records:
        text = text_by_item[record.item_id]
        digest = None if text.output is None else salted_digest(text.salt, text.output)
        if digest != record.output_digest or sha256_bytes(text.prompt.encode("utf-8")) != record.prompt_digest:
            raise EvidenceError(
                "evidence.text-mismatch", f"{path}: the text of {record.item_id!r} is not the one that was recorded"
            )
    return text_by_item


def _parse(line: bytes, source: str) -> RunText:
    try:
        text = RunText.model_validate(parse_json_strict(line, source=source))
        bytes.fromhex(text.salt)
    except ValidationError as error:
        raise EvidenceError("evidence.bad-text", f"{source}: {error.errors()[0]['msg']}") from error
    except ValueError as error:
        raise EvidenceError("evidence.bad-text", f"{source}: the salt is not hexadecimal") from error
    return text
