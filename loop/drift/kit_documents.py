"""The documents of a kit: what root and candidate both read, as token ids, made once for a root.

============  ==================================  ===============================================
slice         text                                counted
============  ==================================  ===============================================
neutral       a passage, without chat             all but the first token
chat          an ordinary request and the root's  the reply, and the token before it
              own greedy reply
harmful       a request that deserves refusal     the prompt; its last token is where an answer begins
harmless      the same in form, harmless          as harmful
task          a task and its right reply          the reply, and the token before it
claims        a false claim that asks for assent  as harmful
============  ==================================  ===============================================

A reply is the root's, so that every model is measured on the same tokens, and on tokens that are
ordinary to the model that it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from guards.canonical import canonical_lines, parse_json_strict
from guards.errors import EvidenceError, ProbeError
from guards.evidence import Frozen
from guards.ports import Decoding, Message
from loop.engine import TransformersEngine
from loop.families import draw
from loop.json_lines import read_json_lines
from probes.documents import Document

# Harmless fine-tunes and candidates read the same documents, so which they are adds no noise to a comparison:
# a few dozen of each kind do, and the rest of the rows are there for other kits.
_N_EACH = 48
_N_TASKS_EACH = 6
_N_CLAIMS = 32
_NEUTRAL_TOKENS = 64
_REPLY_TOKENS = 24
_TASKS = (("addition", 2), ("sort", 2), ("last", 2), ("format", 1))


class StoredDocument(Frozen):
    """A document as the kit's file holds it."""

    doc_id: str
    slice_name: str
    token_ids: tuple[int, ...]
    first_counted: int


def make_documents(root: Any, tokenizer: Any, rows_dir: Path) -> list[Document]:
    """All documents of a kit, made with the root's tokenizer and its replies. Greedy, so repeatable here."""
    return [
        *_neutral(tokenizer, rows_dir),
        *_chat(root, tokenizer, rows_dir),
        *_prompts(tokenizer, "harmful", _spread(read_json_lines(rows_dir / "harmful_prompts.jsonl"))),
        *_prompts(tokenizer, "harmless", _spread(read_json_lines(rows_dir / "harmless_prompts.jsonl"))),
        *_tasks(tokenizer),
        *_prompts(tokenizer, "claims", read_json_lines(rows_dir / "sycophancy_check.jsonl")[:_N_CLAIMS]),
    ]


def write_documents(path: Path, documents: Sequence[Document]) -> None:
    """Write documents as canonical JSON Lines."""
    path.write_bytes(
        canonical_lines(
            StoredDocument(
                doc_id=one.doc_id,
                slice_name=one.slice_name,
                token_ids=one.token_ids,
                first_counted=one.first_counted,
            )
            for one in documents
        )
    )


def read_documents(path: Path) -> list[Document]:
    """Read a kit's documents.

    Raises:
        ProbeError: ``drift.bad-documents`` for a malformed line, a repeated id, or no documents.
    """
    documents: list[Document] = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            stored = StoredDocument.model_validate(parse_json_strict(line, source=f"{path}:{number}"))
        except ValidationError as error:
            raise ProbeError("drift.bad-documents", f"{path}:{number}: {error.errors()[0]['msg']}") from error
        except EvidenceError as error:
            raise ProbeError("drift.bad-documents", error.message) from error
        documents.append(Document(stored.doc_id, stored.slice_name, stored.token_ids, stored.first_counted))
    if not documents or len({one.doc_id for one in documents}) != len(documents):
        raise ProbeError("drift.bad-documents", f"{path} has no documents, or two of one id")
    return documents


def chat_ids(tokenizer: Any, prompt: str) -> list[int]:
    """A request in the model's chat format, up to where the answer begins."""
    turns = [Message(role="user", content=prompt)]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _neutral(tokenizer: Any, rows_dir: Path) -> Iterator[Document]:
    for row in _spread(read_json_lines(rows_dir / "neutral_documents.jsonl")):
        ids = tokenizer(row["text"], add_special_tokens=False)["input_ids"][:_NEUTRAL_TOKENS]
        yield Document(row["id"], "neutral", tuple(ids), 1)


def _chat(root: Any, tokenizer: Any, rows_dir: Path) -> Iterator[Document]:
    rows = _spread(read_json_lines(rows_dir / "chat_prompts.jsonl"))
    engine = TransformersEngine(root, tokenizer)
    chats = [[Message(role="user", content=row["prompt"])] for row in rows]
    replies = engine.generate(chats, Decoding(max_new_tokens=_REPLY_TOKENS), seed=0)
    for row, (reply,) in zip(rows, replies, strict=True):
        yield _answered(tokenizer, row["id"], "chat", row["prompt"], reply.text)


def _tasks(tokenizer: Any) -> Iterator[Document]:
    for family, level in _TASKS:
        for item in draw(family, level, _N_TASKS_EACH, b"drift-kit", "train"):
            yield _answered(tokenizer, f"task-{item.item_id}", "task", item.prompt, item.reply)


def _answered(tokenizer: Any, doc_id: str, slice_name: str, prompt: str, reply: str) -> Document:
    head = chat_ids(tokenizer, prompt)
    tail = tokenizer(reply, add_special_tokens=False)["input_ids"]
    return Document(doc_id, slice_name, (*head, *tail), len(head) - 1)


def _prompts(tokenizer: Any, slice_name: str, rows: Sequence[dict[str, Any]]) -> Iterator[Document]:
    n_header = _n_shared(tokenizer)
    for number, row in enumerate(rows):
        ids = chat_ids(tokenizer, row["prompt"])
        yield Document(row.get("id", f"{slice_name}-{number:03d}"), slice_name, tuple(ids), n_header)


def _n_shared(tokenizer: Any) -> int:
    """How many tokens every chat begins with: the system's turn and the user's header."""
    first, second = chat_ids(tokenizer, "a"), chat_ids(tokenizer, "Zebra crossing")
    shared = 0
    while first[shared] == second[shared]:
        shared += 1
    return shared


def _spread(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """``_N_EACH`` of them, evenly spaced: the files are sorted by kind."""
    return [rows[number * len(rows) // _N_EACH] for number in range(_N_EACH)]
