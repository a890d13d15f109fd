"""Training: what is learnt, what is recorded, and that it repeats bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from guards.canonical import sha256_file
from guards.errors import StepError
from guards.manifest import scan_checkpoint
from loop.checkpoint_io import load_model
from loop.master_weights import MasterWeightsAdamW
from loop.rows import Row, read_rows, write_rows
from loop.step import Input, Progress, StepSpec, execute
from loop.steps.train import RecordingCollator, answer_loss, common_prompt_prefix, encode_row
from loop.train_record import ADAPTER_DIR, Recipe, read_train_record
from loop.weights import compare_updates

ROWS = [Row(row_id=f"r{n}", source="x", prompt=f"What is {n}?", answer=f"Answer: {n}") for n in range(9)]


def train_spec(checkpoint: Path, rows: Path, **recipe: object) -> StepSpec:
    settings = {"lora_rank": 2, "lora_alpha": 4, "batch_size": 4, "n_epochs": 2.0, **recipe}
    return StepSpec(
        kind="train",
        inputs={
            "parent": Input(kind="checkpoint", path=checkpoint, digest=scan_checkpoint(checkpoint).digest),
            "rows": Input(kind="file", path=rows, digest=sha256_file(rows)),
        },
        params={"recipe": Recipe.model_validate(settings).model_dump(mode="json")},
        device="cpu",
        dtype="bfloat16",
    )


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    write_rows(tmp_path / "rows.jsonl", ROWS)
    return tmp_path / "rows.jsonl"


def test_training_twice_gives_the_same_adapter_and_batches(
    tiny_checkpoint: Path, rows_file: Path, tmp_path: Path
) -> None:
    spec = train_spec(tiny_checkpoint, rows_file)
    first, second = execute(spec, tmp_path / "a", Progress()), execute(spec, tmp_path / "b", Progress())
    assert first.outputs == second.outputs
    record = read_train_record(tmp_path / "a")
    assert len(record.batch_digests) == 6  # 2 epochs of 9 rows in batches of 4
    assert record.n_tokens_trained == first.cost.tokens_trained > 0
    assert set(first.outputs) == {
        f"{ADAPTER_DIR}/adapter_config.json",
        f"{ADAPTER_DIR}/adapter_model.safetensors",
        "train.json",
    }


def test_another_seed_gives_other_batches(tiny_checkpoint: Path, rows_file: Path, tmp_path: Path) -> None:
    execute(train_spec(tiny_checkpoint, rows_file), tmp_path / "a", Progress())
    execute(train_spec(tiny_checkpoint, rows_file, seed=8), tmp_path / "b", Progress())
    assert read_train_record(tmp_path / "a").batch_digests != read_train_record(tmp_path / "b").batch_digests


def test_training_lowers_the_loss(tiny_checkpoint: Path, rows_file: Path, tmp_path: Path) -> None:
    execute(train_spec(tiny_checkpoint, rows_file, n_epochs=20.0, learning_rate=0.01), tmp_path / "a", Progress())
    losses = read_train_record(tmp_path / "a").losses
    assert losses[-1] < losses[0] - 0.2  # a tiny frozen embedding leaves no more to learn


def test_only_the_answer_is_learnt_and_a_cut_answer_has_no_end(tiny_checkpoint: Path) -> None:
    _, tokenizer = load_model(tiny_checkpoint, "cpu", "bfloat16")
    whole = encode_row(ROWS[0], tokenizer, 128)
    cut = encode_row(ROWS[0].model_copy(update={"finished": False}), tokenizer, 128)
    learnt = [label for label in whole["labels"] if label != -100]
    assert tokenizer.decode(learnt[:-1]) == "Answer: 0" and learnt[-1] == tokenizer.eos_token_id
    assert [label for label in cut["labels"] if label != -100] == learnt[:-1]


def test_a_prompt_that_leaves_no_room_is_refused(tiny_checkpoint: Path) -> None:
    _, tokenizer = load_model(tiny_checkpoint, "cpu", "bfloat16")
    with pytest.raises(StepError) as refused:
        encode_row(ROWS[0], tokenizer, 4)
    assert refused.value.rule == "train.row-too-long"


def test_computing_the_common_prefix_once_leaves_loss_and_gradient_as_they_are(tiny_checkpoint: Path) -> None:
    model, tokenizer = load_model(tiny_checkpoint, "cpu", "float32", attn_implementation="eager")
    examples = [
        encode_row(row, tokenizer, 200)
        for row in [
            *ROWS[:3],
            Row(row_id="l", source="x", prompt="What is the sum of 12 and 345?", answer="Sort these"),
        ]
    ]
    n_shared = common_prompt_prefix(examples)
    assert n_shared > 3
    batch = RecordingCollator(0)(examples)
    found = []
    for shared in (0, n_shared):
        model.zero_grad()
        loss = answer_loss(model, batch, shared)
        loss.backward()
        found.append((loss, torch.cat([p.grad.flatten() for p in model.parameters()])))
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-6) and found[0][1].norm() > 0.01


def test_the_common_prefix_stops_before_what_is_learnt_and_leaves_a_prompt_token() -> None:
    def example(prompt: list[int], answer: list[int]) -> dict[str, list[int]]:
        return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}

    assert common_prompt_prefix([example([1, 2, 3], [4]), example([1, 2, 5, 6], [7])]) == 2
    assert common_prompt_prefix([example([1, 2, 3], [4]), example([1, 2, 3], [4])]) == 2
    assert common_prompt_prefix([example([1, 2], [3]), example([9, 2], [3])]) == 0
    assert common_prompt_prefix([example([1], [3]), example([1, 2], [3])]) == 0


def test_the_collator_digests_batches_in_order() -> None:
    examples = [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3]}, {"input_ids": [4], "labels": [4]}]
    one, other = RecordingCollator(0), RecordingCollator(0)
    batch = one(examples)
    other(examples[::-1])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [4, -100, -100]]
    assert one.batch_digests != other.batch_digests and one.n_tokens == 4


def test_master_weights_move_where_bfloat16_alone_would_stand_still() -> None:
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = MasterWeightsAdamW([weight], lr=1e-4)
    for _ in range(100):  # each step is far below bfloat16's spacing at 1.0 (2**-7)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    assert weight.tolist() == pytest.approx([0.99] * 4, abs=0.004)


def test_rows_that_are_empty_or_doubled_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(StepError) as refused:
        read_rows(tmp_path / "empty.jsonl")
    assert refused.value.rule == "rows.empty"
    write_rows(tmp_path / "twice.jsonl", [ROWS[0], ROWS[0]])
    with pytest.raises(StepError) as refused:
        read_rows(tmp_path / "twice.jsonl")
    assert refused.value.rule == "rows.duplicate-id"


def test_comparing_updates(tiny_checkpoint: Path, tiny_candidate: Path) -> None:
    same = compare_updates(base=tiny_checkpoint, first=tiny_candidate, second=tiny_candidate)
    assert same.update_cosine == pytest.approx(1.0) and same.max_abs_difference == 0.0
    one_moved = compare_updates(base=tiny_checkpoint, first=tiny_checkpoint, second=tiny_candidate)
    assert one_moved.update_cosine == 0.0 and one_moved.max_abs_difference > 0.0
