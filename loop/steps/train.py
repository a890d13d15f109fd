"""The train step: a LoRA adapter by TRL's SFTTrainer.

Inputs: ``parent`` (checkpoint), ``rows`` (file of :class:`loop.rows.Row`). Outputs: ``adapter/``
(PEFT's two files) and ``train.json`` (:class:`loop.train_record.TrainRecord`: ordered batch
digests, losses, token counts). Merging and sealing come after (:mod:`loop.sealing`).

Three settings make this several times faster on a CPU than the trainer's own: adapters in the
model's bfloat16 (:mod:`loop.master_weights` keeps their optimizer in float32), logits for answer
tokens alone (the vocabulary's projection of every prompt token would otherwise take most of a step),
and the tokens that all prompts begin with (the chat template's system turn) computed once a batch.
The gradient is the same: it flows through the shared keys and values.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from guards.canonical import canonical_bytes
from guards.errors import StepError
from guards.evidence import Cost
from loop.checkpoint_io import load_model
from loop.engine import refuse_scaled_logits
from loop.master_weights import MasterWeightsAdamW
from loop.rows import Row, read_rows
from loop.step import Progress, StepSpec
from loop.train_record import ADAPTER_DIR, TRAIN_FILE, Recipe, TrainRecord

_IGNORED = -100


def train(spec: StepSpec, out_dir: Path, progress: Progress) -> Cost:
    """Run the step; see the module's docstring for inputs and outputs."""
    recipe = Recipe.model_validate(spec.params["recipe"])
    rows = read_rows(spec.inputs["rows"].path)
    parent = spec.inputs["parent"]
    model, tokenizer = load_model(
        parent.path, spec.device, spec.dtype, attn_implementation="eager", expected_digest=parent.digest
    )  # eager: the CPU's flash backward takes a quarter of a step at these lengths
    refuse_scaled_logits(model)
    examples = [encode_row(row, tokenizer, recipe.max_tokens) for row in rows]
    started_s = time.perf_counter()
    collator = RecordingCollator(_pad_id(tokenizer))
    trainer = build_trainer(model, tokenizer, examples, collator, recipe, out_dir / "trainer", progress)
    trainer.train()
    model_s = time.perf_counter() - started_s
    _require_finite(trainer.state.log_history)
    adapted: Any = trainer.model
    adapted.save_pretrained(out_dir / ADAPTER_DIR)
    _keep_only_adapter(out_dir / ADAPTER_DIR, parent=spec.inputs["parent"].digest)
    shutil.rmtree(out_dir / "trainer", ignore_errors=True)
    n_tokens = collator.n_tokens
    record = TrainRecord(
        recipe=recipe,
        n_rows=len(rows),
        n_tokens_trained=n_tokens,
        batch_digests=tuple(collator.batch_digests),
        losses=tuple(entry["loss"] for entry in trainer.state.log_history if "loss" in entry),
    )
    (out_dir / TRAIN_FILE).write_bytes(canonical_bytes(record.model_dump(mode="json")))
    return Cost(wall_ms=0, model_ms=int(1000 * model_s), tokens_trained=n_tokens)


def _pad_id(tokenizer: Any) -> int:
    """Any id will do where there is none: padding is masked."""
    return tokenizer.pad_token_id or 0


def encode_row(row: Row, tokenizer, max_tokens: int) -> dict[str, list[int]]:
    """``input_ids`` and ``labels`` of one row; only the answer, and its end token if it finished, is learnt."""
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": row.prompt}], tokenize=False, add_generation_prompt=True
    )
    head = tokenizer(text, add_special_tokens=False)["input_ids"]
    tail = tokenizer(row.answer, add_special_tokens=False)["input_ids"]
    if row.finished:
        tail = [*tail, tokenizer.eos_token_id]
    if not tail or len(head) >= max_tokens:
        raise StepError(
            "train.row-too-long",
            f"the row {row.row_id!r} leaves no room for its answer",
            got=f"{len(head)} prompt tokens, {len(tail)} answer tokens",
            expected=f"at most {max_tokens} together",
            fix="shorten the prompt, or raise max_tokens in the recipe",
        )
    ids = (head + tail)[:max_tokens]
    return {"input_ids": ids, "labels": ([_IGNORED] * len(head) + tail)[:max_tokens]}


def common_prompt_prefix(examples: Sequence[dict[str, list[int]]]) -> int:
    """How many tokens all examples begin with, none of them learnt; at least one prompt token stays behind it."""
    n_prompt_tokens = min(example["labels"].count(_IGNORED) for example in examples)
    columns = zip(*(example["input_ids"][: n_prompt_tokens - 1] for example in examples), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))


def answer_loss(causal: Any, batch: dict[str, torch.Tensor], n_shared: int) -> torch.Tensor:
    """Mean cross-entropy over the answer tokens of a batch whose rows begin with ``n_shared`` common tokens.

    ``batch`` has input_ids, labels and attention_mask, each [row, token], padded on the right.
    """
    input_ids, cache = batch["input_ids"], None
    if n_shared:
        cache = DynamicCache()
        causal.base_model(input_ids=input_ids[:1, :n_shared], past_key_values=cache, use_cache=True)
        cache.batch_repeat_interleave(input_ids.shape[0])
    hidden_row_tok_dim = causal.base_model(
        input_ids=input_ids[:, n_shared:],
        attention_mask=batch["attention_mask"],
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state[:, :-1]
    targets = batch["labels"][:, n_shared + 1 :]
    learnt = targets != _IGNORED
    logits = causal.get_output_embeddings()(hidden_row_tok_dim[learnt]).float()
    return torch.nn.functional.cross_entropy(logits, targets[learnt])


class RecordingCollator:
    """Pads a batch on the right, and keeps the digest of every batch in the order it was trained on."""

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id
        self.batch_digests: list[str] = []
        self.n_tokens = 0

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        width = max(len(example["input_ids"]) for example in examples)
        batch = {
            "input_ids": self._pad([e["input_ids"] for e in examples], width, self._pad_id),
            "labels": self._pad([e["labels"] for e in examples], width, _IGNORED),
            "attention_mask": self._pad([[1] * len(e["input_ids"]) for e in examples], width, 0),
        }
        digest = hashlib.sha256()
        for name in ("input_ids", "labels"):
            digest.update(batch[name].numpy().tobytes())
        self.batch_digests.append("sha256:" + digest.hexdigest())
        self.n_tokens += int(batch["attention_mask"].sum())
        return batch

    @staticmethod
    def _pad(rows: list[list[int]], width: int, fill: int) -> torch.Tensor:
        return torch.tensor([list(row) + [fill] * (width - len(row)) for row in rows])


def build_trainer(
    model,
    tokenizer,
    examples: list[dict],
    collator: RecordingCollator,
    recipe: Recipe,
    work_dir: Path,
    progress: Progress,
):
    """An SFTTrainer over rows that are tokenised already."""
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import TrainerCallback, get_linear_schedule_with_warmup, set_seed
    from trl import SFTConfig, SFTTrainer

    class AnswerTokensTrainer(SFTTrainer):
        """Cross-entropy over answer tokens; the same loss as the parent's, without the prompt's logits."""

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss = answer_loss(self.accelerator.unwrap_model(model).get_base_model(), inputs, n_shared)
            return (loss, {}) if return_outputs else loss

    class ReportProgress(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            progress("training", state.global_step, state.max_steps)

    n_shared = common_prompt_prefix(examples)
    on_cpu = next(model.parameters()).device.type == "cpu"
    set_seed(recipe.seed)  # before the adapter's weights are drawn
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        autocast_adapter_dtype=False,
    )
    n_steps = math.ceil(recipe.n_epochs * math.ceil(len(examples) / recipe.batch_size))
    optimizer = MasterWeightsAdamW((p for p in adapted.parameters() if p.requires_grad), lr=recipe.learning_rate)
    n_warmup = int(recipe.warmup_share * n_steps)
    schedule = get_linear_schedule_with_warmup(optimizer, n_warmup, n_steps)
    trainer = AnswerTokensTrainer(
        model=adapted,
        args=SFTConfig(
            output_dir=str(work_dir),
            per_device_train_batch_size=recipe.batch_size,
            learning_rate=recipe.learning_rate,
            num_train_epochs=recipe.n_epochs,
            # Not grouped by length: refusals are short, so batches would hold one kind of row only.
            train_sampling_strategy="random",
            max_length=recipe.max_tokens,
            packing=False,
            use_cpu=on_cpu,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_num_workers=0,
            seed=recipe.seed,
            data_seed=recipe.seed,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list(examples),
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=[ReportProgress()],
        optimizers=(optimizer, schedule),
    )
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    return trainer


def _require_finite(log_history: list[dict[str, Any]]) -> None:
    losses = [entry["loss"] for entry in log_history if "loss" in entry]
    if not losses or not all(torch.isfinite(torch.tensor(loss)) for loss in losses):
        raise StepError(
            "train.loss-not-finite",
            "the training loss was not a finite number",
            got=str(losses[-1:] or "no loss"),
            fix="lower the learning rate",
        )


def _keep_only_adapter(directory: Path, *, parent: str) -> None:
    """Leave PEFT's two files, and name the parent by its digest, not by where it lies on this machine."""
    for path in directory.iterdir():
        if path.name not in ("adapter_config.json", "adapter_model.safetensors"):
            path.unlink()
    path = directory / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = parent
    config["target_modules"] = sorted(config["target_modules"])  # a set in PEFT: its order differs between runs
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
