"""Causal language models of random weights that are built in milliseconds, and documents for them."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, OPTConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from probes.documents import Document

N_VOCABULARY = 97
WIDTH = 32
CONTEXT_TOKENS = 64


def tiny_llama(
    n_layers: int = 4,
    *,
    width: int = WIDTH,
    n_vocabulary: int = N_VOCABULARY,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> PreTrainedModel:
    """In evaluation mode, as :func:`loop.checkpoint_io.load_model` would return it."""
    config = LlamaConfig(
        vocab_size=n_vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=n_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
    )
    return _seeded(config, dtype, seed)


def tiny_model(architecture: str, n_layers: int = 3) -> PreTrainedModel:
    """One of 'llama', 'gpt2', 'gpt_neox' and 'opt', in float32."""
    width, heads = WIDTH, 4
    configs: dict[str, Any] = {
        "gpt2": GPT2Config(
            vocab_size=N_VOCABULARY, n_embd=width, n_layer=n_layers, n_head=heads, n_positions=CONTEXT_TOKENS
        ),
        "gpt_neox": GPTNeoXConfig(
            vocab_size=N_VOCABULARY,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=n_layers,
            num_attention_heads=heads,
            max_position_embeddings=CONTEXT_TOKENS,
        ),
        "opt": OPTConfig(
            vocab_size=N_VOCABULARY,
            hidden_size=width,
            word_embed_proj_dim=width,
            ffn_dim=2 * width,
            num_hidden_layers=n_layers,
            num_attention_heads=heads,
            max_position_embeddings=CONTEXT_TOKENS,
        ),
    }
    return tiny_llama(n_layers) if architecture == "llama" else _seeded(configs[architecture], torch.float32, 0)


def random_documents(n: int, *, n_vocabulary: int = N_VOCABULARY, first_counted: int = 1) -> list[Document]:
    """``n`` documents of 4 to 40 random tokens; the same ones every time."""
    rng = random.Random(0)
    return [
        Document(f"d{index}", "neutral", tuple(rng.choices(range(n_vocabulary), k=rng.randint(4, 40))), first_counted)
        for index in range(n)
    ]


def _seeded(config: Any, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
