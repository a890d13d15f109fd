"""Building members: each is one step, ``fine-tune``, that leaves an adapter; merging it makes the model.

Only adapters are kept (megabytes). A member that is built already is not built again, whatever
changed in code that does not train (:func:`loop.code_digest.code_digest`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guards.canonical import canonical_lines
from guards.durable import write_whole
from loop.drift.kit_documents import chat_ids
from loop.gauntlet.member_rows import Fits, rows_of
from loop.gauntlet.members import Member
from loop.step import Input, StepSpec

ROWS_FILE, STEP_DIR = "rows.jsonl", "fine-tune"
_MIN_ANSWER_TOKENS = 8


def member_dir(home: Path, member: Member) -> Path:
    """Where a member's rows and adapter lie, or would lie: by its digest, so that its name may change."""
    return home / "members" / member.digest.removeprefix("sha256:")[:16]


def prompts_that_fit(tokenizer: Any, max_tokens: int) -> Fits:
    """Prompts that leave room for eight answer tokens at least, in the model's chat format."""

    def fits(prompt: str) -> bool:
        return len(chat_ids(tokenizer, prompt)) + _MIN_ANSWER_TOKENS <= max_tokens

    return fits


def fine_tune_spec(member: Member, root: Input, tokenizer: Any, home: Path, data: Path | None) -> tuple[StepSpec, Path]:
    """The step that trains a member, and its output directory. Writes the member's rows.

    Raises:
        ModelError: as :func:`loop.gauntlet.member_rows.rows_of`.
    """
    assert member.recipe is not None
    directory = member_dir(home, member)
    directory.mkdir(parents=True, exist_ok=True)
    rows = directory / ROWS_FILE
    write_whole(rows, canonical_lines(rows_of(member, data, prompts_that_fit(tokenizer, member.recipe.max_tokens))))
    spec = StepSpec(
        kind="fine-tune",
        inputs={"parent": root, "rows": Input.of_file(rows)},
        params={"recipe": member.recipe.model_dump(mode="json")},
    )
    return spec, directory / STEP_DIR
