"""Train a dictionary on stored activations: BatchTopK (Bussmann et al. 2024, arXiv:2412.06410), with sae-lens.

BatchTopK keeps the ``k`` largest features per token on average over a batch. What is exported is JumpReLU
with the threshold that training converged to, because BatchTopK itself makes a token's features depend on
the other tokens of its batch.

What makes features die, and what the recipe does about it:

- A residual stream has a mean that is many times its spread. sae-lens starts its decoder bias at zero, and Adam
  moves it by about one learning rate a step: a short training never gets there, and features are spent on
  the mean. Here the bias starts at the mean, and the scale is that of the centred activations.
- The auxiliary loss (Gao et al. 2024, arXiv:2406.04093), which teaches dead features the residual, acts on features
  that have not fired for ``dead_window_tokens``. sae-lens counts 1000 batches, which a short training never sees.
- sae-lens' constant 3e-4 is for hundreds of thousands of steps. Here: a higher rate, warmed up, falling to ``lr_end``.
- Decoder rows start at unit norm, not at 0.1, so that the first steps are not spent on growing them.

A diff-dictionary (Aranguri et al. 2025) is the same training on a store of differences; see
:func:`probes.activation_store.append_differences`.

Not covered: equal seeds give equal dictionaries on one machine with one version of torch and sae-lens; elsewhere
they agree within a tolerance only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, model_validator

from guards.canonical import digest_of
from guards.errors import ProbeError
from guards.evidence import Frozen
from probes.activation_store import ActivationStore
from probes.dictionaries import Dictionary
from probes.sae_conversion import convert_sae, require_sae_lens
from probes.training_checkpoint import restore_training, save_training

if TYPE_CHECKING:
    from sae_lens import SAE, SAETrainer


class DictionaryRecipe(Frozen):
    """How a dictionary is trained. Defaults are for the residual stream of a small model and 1 to 4 million tokens.

    ``k`` features are on per token, on average. ``n_training_tokens`` may exceed the store: it is read again, in
    another order. ``threshold_lr`` is the step of the moving average that the exported threshold is.
    """

    d_sae: int = Field(default=2304, ge=2)
    k: float = Field(default=32.0, gt=0)
    n_training_tokens: int = Field(default=2_000_000, ge=1)
    batch_tokens: int = Field(default=2048, ge=1)
    lr: float = Field(default=3e-3, gt=0)
    lr_end: float = Field(default=3e-4, gt=0)
    warmup_tokens: int = Field(default=100_000, ge=0)
    aux_loss_coefficient: float = Field(default=1.0, ge=0)
    dead_window_tokens: int = Field(default=50_000, ge=1)
    decoder_init_norm: float = Field(default=1.0, gt=0)
    threshold_lr: float = Field(default=0.01, gt=0, le=1)
    norm_estimate_tokens: int = Field(default=65_536, ge=2)
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> DictionaryRecipe:
        if self.k >= self.d_sae:
            raise ValueError("k must be smaller than d_sae")
        if self.lr_end > self.lr:
            raise ValueError("lr_end must not exceed lr")
        if self.n_steps < 1:
            raise ValueError("n_training_tokens is less than one batch")
        if self.n_warmup_steps >= self.n_steps:
            raise ValueError("warmup_tokens must be less than n_training_tokens")
        return self

    @property
    def n_steps(self) -> int:
        return self.n_training_tokens // self.batch_tokens

    @property
    def n_warmup_steps(self) -> int:
        n_steps = self.warmup_tokens // self.batch_tokens
        return n_steps if n_steps >= 2 else 0  # torch's linear warm-up cannot be of one step

    @property
    def n_dead_window_steps(self) -> int:
        return max(1, self.dead_window_tokens // self.batch_tokens)


@dataclass(frozen=True)
class TrainingProgress:
    """One step, on its own batch: fraction of variance unexplained, mean features on, and the share of features
    that have not fired within the recipe's window."""

    step: int
    n_steps: int
    fvu: float
    l0: float
    share_dead: float
    lr: float


def train_dictionary(
    store: ActivationStore,
    recipe: DictionaryRecipe,
    *,
    name: str,
    checkpoint_dir: Path | None = None,
    checkpoint_every_steps: int = 200,
    progress: Callable[[TrainingProgress], None] | None = None,
    device: str = "cpu",
) -> Dictionary:
    """A dictionary of the store's layer and parent, rounded as its file will keep it.

    With ``checkpoint_dir``, the state is written every ``checkpoint_every_steps`` steps, and a training that was
    interrupted or killed goes on from there when it is called again, to the same result.

    Raises:
        ProbeError: any rule of :func:`train_sae` or :func:`probes.sae_conversion.convert_sae`.
    """
    identity = store.manifest.identity
    sae, scale = train_sae(
        store,
        recipe,
        checkpoint_dir=checkpoint_dir,
        checkpoint_every_steps=checkpoint_every_steps,
        progress=progress,
        device=device,
    )
    summary: dict[str, str | int | float | bool | None] = {
        "method": "batchtopk",
        "sae_lens_version": require_sae_lens().__version__,
        "store_digest": store.manifest.data_digest,
        "store_tokens": store.n_tokens,
        "candidate_digest": identity.candidate_digest,
        **{f"recipe_{key}": value for key, value in recipe.model_dump(mode="json").items()},
    }
    dictionary = convert_sae(
        sae,
        name=name,
        parent_digest=identity.parent_digest,
        layer=identity.layer,
        seed=recipe.seed,
        scale=scale,
        kind=identity.kind,
        summary=summary,
    )
    return dictionary.as_stored()


def train_sae(
    store: ActivationStore,
    recipe: DictionaryRecipe,
    *,
    checkpoint_dir: Path | None = None,
    checkpoint_every_steps: int = 200,
    progress: Callable[[TrainingProgress], None] | None = None,
    device: str = "cpu",
) -> tuple[SAE[Any], float]:
    """The trained autoencoder as sae-lens' own JumpReLU export, on raw activations, and the scale folded into it.

    An interruption (Ctrl-C) is let through; what counts is the last checkpoint, because a step that was cut
    off may have moved half of the weights.

    Raises:
        ProbeError: ``dictionary.no-sae-lens``, ``dictionary.diverged`` (a loss that is not finite),
            ``dictionary.constant-activations``, ``activations.too-few``, ``dictionary.other-training``,
            ``dictionary.bad-checkpoint``.
    """
    sae_lens = require_sae_lens()
    mean_dim, scale = _mean_and_scale(store, recipe)
    trainer = _trainer(store, recipe, mean_dim, scale, device)
    training_digest = digest_of(
        {
            "recipe": recipe.model_dump(mode="json"),
            "data": store.manifest.data_digest,
            "identity": store.manifest.identity.model_dump(mode="json"),
            "sae_lens": sae_lens.__version__,
            "torch": torch.__version__,
        }
    )
    done = 0 if checkpoint_dir is None else restore_training(checkpoint_dir, trainer, training_digest)
    batches = store.shuffled_batches(recipe.batch_tokens, seed=recipe.seed, first_batch=done)
    for step in range(done, recipe.n_steps):
        output = trainer.step(next(batches))
        trainer.n_training_steps += 1
        if not bool(torch.isfinite(output.loss)):
            raise ProbeError(
                "dictionary.diverged",
                f"the loss is not finite at step {step + 1} of {recipe.n_steps}",
                got=str(float(output.loss)),
                fix="lower lr, or raise warmup_tokens",
            )
        last = step + 1 == recipe.n_steps
        if checkpoint_dir is not None and (last or (step + 1) % checkpoint_every_steps == 0):
            save_training(checkpoint_dir, trainer, training_digest)
        if progress is not None:
            progress(_progress(trainer, output, recipe))
    sae: Any = trainer.sae
    sae.fold_activation_norm_scaling_factor(scale)
    with tempfile.TemporaryDirectory() as directory:
        sae.save_inference_model(directory)
        return sae_lens.SAE.load_from_disk(directory, device="cpu"), scale


def _mean_and_scale(store: ActivationStore, recipe: DictionaryRecipe) -> tuple[torch.Tensor, float]:
    """Mean [dim] of a sample of the store, and what brings the centred tokens to a mean norm of sqrt(dim)."""
    n_tokens = min(recipe.norm_estimate_tokens, store.n_tokens)
    sample_tok_dim = next(store.shuffled_batches(n_tokens, seed=recipe.seed))
    mean_dim = sample_tok_dim.mean(dim=0)
    mean_norm = float((sample_tok_dim - mean_dim).norm(dim=1).mean())
    if not mean_norm > 0:
        raise ProbeError("dictionary.constant-activations", f"{store.directory}: every token is the same")
    return mean_dim, store.dim**0.5 / mean_norm


def _trainer(
    store: ActivationStore, recipe: DictionaryRecipe, mean_dim: torch.Tensor, scale: float, device: str
) -> SAETrainer[Any, Any]:
    from sae_lens import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, SAETrainer
    from sae_lens.config import SAETrainerConfig

    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        sae = BatchTopKTrainingSAE(
            BatchTopKTrainingSAEConfig(
                d_in=store.dim,
                d_sae=recipe.d_sae,
                k=recipe.k,
                device=device,
                normalize_activations="expected_average_only_in",
                aux_loss_coefficient=recipe.aux_loss_coefficient,
                topk_threshold_lr=recipe.threshold_lr,
                decoder_init_norm=recipe.decoder_init_norm,
            )
        )
    with torch.no_grad():
        sae.b_dec.copy_(mean_dim * scale)
    trainer = SAETrainer(
        SAETrainerConfig(
            total_training_samples=recipe.n_steps * recipe.batch_tokens,
            train_batch_size_samples=recipe.batch_tokens,
            lr=recipe.lr,
            lr_end=recipe.lr_end,  # mandatory in sae-lens, whatever the schedule
            lr_scheduler_name="cosineannealing",
            lr_warm_up_steps=recipe.n_warmup_steps,
            dead_feature_window=recipe.n_dead_window_steps,
            device=device,
        ),
        sae,
        iter(()),  # batches are handed to step() one by one, so that their order can be taken up again
    )
    trainer.activation_scaler.scaling_factor = scale
    return trainer


@torch.no_grad()
def _progress(trainer: SAETrainer[Any, Any], output: Any, recipe: DictionaryRecipe) -> TrainingProgress:
    acts, reconstruction = output.sae_in, output.sae_out
    unexplained = (acts - reconstruction).pow(2).sum() / (acts - acts.mean(dim=0)).pow(2).sum()
    return TrainingProgress(
        step=trainer.n_training_steps,
        n_steps=recipe.n_steps,
        fvu=float(unexplained),
        l0=float((output.feature_acts > 0).float().sum(dim=-1).mean()),
        share_dead=float(trainer.dead_neurons.float().mean()),
        lr=float(trainer.optimizer.param_groups[0]["lr"]),
    )
