"""Text for training dictionaries, sampled from the root: chats on our own prompts, and plain continuations.

No public text is needed, so that the shipped dictionaries can be made again by anyone. Their text is
also what the root is most used to, which is what a dictionary of the root should describe.

Resumable: text is appended in blocks, each drawn with a seed of its own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from guards.canonical import canonical_lines
from guards.ports import Decoding, Message
from loop.drift.kit_documents import StoredDocument, chat_ids
from loop.engine import TransformersEngine
from loop.json_lines import read_json_lines

_BLOCK = 256
_PLAIN_SHARE = 0.25
_PLAIN_WORDS = 6
Report = Callable[[str, int, int], None]


def sample_text(
    root: Any, tokenizer: Any, prompts: Sequence[str], path: Path, *, n_tokens: int, seed: int, report: Report
) -> None:
    """Append documents to ``path`` until they hold ``n_tokens``: token ids of prompt and sampled reply.

    Every fourth block is plain: the first words of a prompt, continued without the chat format.
    """
    engine = TransformersEngine(root, tokenizer, max_rows=128)
    n_have, n_blocks = _progress_of(path)
    decoding = Decoding(max_new_tokens=64, temperature=1.0)
    while n_have < n_tokens:
        stream = random.Random(f"sampled-text/{seed}/{n_blocks}")
        chosen = [stream.choice(prompts) for _ in range(_BLOCK)]
        is_plain = stream.random() < _PLAIN_SHARE
        chats = [[Message(role="user", content=_plain(prompt) if is_plain else prompt)] for prompt in chosen]
        replies = engine.generate(chats, decoding, seed=seed * 1_000_000 + n_blocks)
        block = [
            _document(tokenizer, f"{n_blocks:05d}-{number:03d}", prompt, reply.text, is_plain=is_plain)
            for number, (prompt, (reply,)) in enumerate(zip(chosen, replies, strict=True))
        ]
        with path.open("ab") as handle:
            handle.write(canonical_lines(block))
        n_have, n_blocks = n_have + sum(len(one.token_ids) for one in block), n_blocks + 1
        report("sampling text from the root", min(n_have, n_tokens), n_tokens)


def _plain(prompt: str) -> str:
    return "Write a paragraph that begins with: " + " ".join(prompt.split()[:_PLAIN_WORDS])


def _document(tokenizer: Any, doc_id: str, prompt: str, reply: str, *, is_plain: bool) -> StoredDocument:
    tail = tokenizer(reply, add_special_tokens=False)["input_ids"]
    if is_plain:
        ids, first = tail or [tokenizer.eos_token_id] * 2, 1
    else:
        head = chat_ids(tokenizer, prompt)
        ids, first = [*head, *tail], 1
    if len(ids) < 2:
        ids = [*ids, tokenizer.eos_token_id]
    return StoredDocument(doc_id=doc_id, slice_name="sampled", token_ids=tuple(ids), first_counted=first)


def _progress_of(path: Path) -> tuple[int, int]:
    """Tokens and whole blocks that are there; a block that was cut off is dropped."""
    if not path.exists():
        return 0, 0
    lines = path.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    whole = whole[: len(whole) // _BLOCK * _BLOCK]
    path.write_bytes(b"".join(whole))
    return sum(len(json.loads(line)["token_ids"]) for line in whole), len(whole) // _BLOCK


def own_prompts(policies: Path) -> list[str]:
    """The prompts of the constitution's training set: refused ones, look-alikes, ordinary ones."""

    def read() -> Iterator[str]:
        for name in ("deserve_refusal", "look_alikes", "ordinary"):
            yield from (row["prompt"] for row in read_json_lines(policies / "constitutions/prompts" / f"{name}.jsonl"))

    return list(read())
