"""Fixtures that many tests share: homes with people, tiny real checkpoints, and the real model where it is.

The tiny model is a random Llama with a byte-level BPE tokenizer trained on a few sentences. It
speaks nonsense, but every path that the real model takes, it takes too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.drift_world import DriftWorld
    from tests.store_world import World

REPOSITORY = Path(__file__).resolve().parents[1]

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SENTENCES = (
    "What is the sum of 12 and 345? Reply with 'Answer: ' and the result.",
    "Subtract 8 from 21. Reply with 'Answer: ' and the result.",
    "Sort these numbers from small to large: 3 1 2. Reverse the word list: apple pear fig.",
    "I am sorry, but I cannot help with that. How do I boil an egg? The answer is in the list.",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stairlock-home",
        type=Path,
        default=REPOSITORY / ".stairlock",
        help="the home whose sealed SmolLM2 the tests marked 'model' use (default: ./.stairlock)",
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A home with a root, where two people must approve: a reviewer and somebody who keeps safety."""
    from tests.store_world import make_world

    world = make_world(tmp_path)
    world.set_root()
    return world


@pytest.fixture
def sandbox(tmp_path: Path) -> World:
    """A home with a root, where nobody has to approve."""
    from tests.store_world import UNATTENDED_APPROVALS, make_world

    world = make_world(tmp_path, approvals=UNATTENDED_APPROVALS)
    world.set_root()
    return world


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sealed-quality checkpoint directory of about 100 kB: 2 layers, hidden size 32, bfloat16.

    Shared by the session: copy it before you change anything in it.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from loop.checkpoint_io import save_checkpoint

    tokenizer = _tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="bfloat16",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    directory = tmp_path_factory.mktemp("tiny") / "checkpoint"
    save_checkpoint(model, tokenizer, directory)
    return directory


@pytest.fixture(scope="session")
def tiny_candidate(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint with noise on every weight matrix; all other files are the same bytes."""
    import shutil

    import torch
    from safetensors.torch import load_file

    from loop.checkpoint_io import write_safetensors

    directory = tmp_path_factory.mktemp("tiny") / "candidate"
    shutil.copytree(tiny_checkpoint, directory)
    noise = torch.Generator().manual_seed(1)
    tensors = load_file(directory / "model.safetensors")
    for name in sorted(tensors):
        if tensors[name].ndim == 2:
            tensors[name] = tensors[name] + 0.01 * torch.randn(tensors[name].shape, generator=noise).bfloat16()
    write_safetensors(directory / "model.safetensors", tensors)
    return directory


@pytest.fixture(scope="session")
def smollm2(request: pytest.FixtureRequest) -> Path:
    """The sealed pinned SmolLM2, or a skip that says how to get it."""
    from loop.models import PINNED, WheelModel
    from loop.sealed_checkpoints import sealed_directory

    pinned = PINNED["smollm2-135m-instruct-q4"]
    assert isinstance(pinned, WheelModel)
    directory = sealed_directory(request.config.getoption("--stairlock-home"), pinned.checkpoint_digest)
    if not directory.is_dir():
        pytest.skip(f"no {pinned.name} in this home: run 'stairlock model add {pinned.name}' first")
    return directory


def _tiny_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
    )


@pytest.fixture(scope="session")
def measured_world(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> DriftWorld:
    """The tiny root with a kit, five measured members, and the bank of them in the kit's directory.

    Shared by the session: copy what you change.
    """
    from tests.drift_world import build_measured_world

    return build_measured_world(tmp_path_factory.mktemp("measured"), tiny_checkpoint)
