"""A tiny root with a real kit, and members of a bank that were really trained on it: for tests of the whole audit."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from guards.canonical import sha256_file
from guards.drift.kit import DriftKit
from guards.manifest import scan_checkpoint
from loop.checkpoint_io import load_model
from loop.drift.kit_files import BANK_FILE
from loop.drift.make_kit import make_kit
from loop.gauntlet.bank_file import write_bank
from loop.gauntlet.harmless_sources import POLICIES
from loop.gauntlet.measured import MeasuredMember, read_measured
from loop.gauntlet.members import Edit, Member
from loop.gauntlet.scoring import default_scoring
from loop.gauntlet.verify import Behaviour, Measurement
from loop.gauntlet.work import Job, run_job
from loop.step import Input, Progress
from loop.train_record import Recipe

LAYERS = (0, 1)
N_BANK = 5
LENIENT = Measurement(behaviour=Behaviour(refused=0.0, answered=0.0, distinct=0.0, language_nats=-100.0))
"""A root than which nothing behaves worse: the tiny model speaks nonsense, so every member would fail elsewhere."""


@dataclass(frozen=True)
class DriftWorld:
    """A home with members, the root's directory and digest, and the kit's directory."""

    home: Path
    root: Path
    root_digest: str
    kit_dir: Path
    kit: DriftKit

    @property
    def root_input(self) -> Input:
        """The root, as a step's input."""
        return Input(kind="checkpoint", path=self.root, digest=self.root_digest)

    def job(self, *members: Member) -> Job:
        """A job that trains and measures the members."""
        salt = self.home / "salt.key"
        salt.write_text("00" * 32)
        return Job(
            root=self.root,
            root_digest=self.root_digest,
            home=self.home,
            data=None,
            kit_dir=self.kit_dir,
            salt_key=salt,
            salt_digest=sha256_file(salt),
            members=members,
        )

    def run(self, *members: Member) -> int:
        """Train and measure the members in this process; how many failed."""
        return run_job(self.job(*members), Progress())

    def measured(self, *members: Member, root: Measurement = LENIENT) -> list[MeasuredMember]:
        """What was measured of these members, all of which must have been."""
        found, missing = read_measured(self.home, members, self.kit, root)
        assert not missing
        return found


def build_drift_world(directory: Path, tiny_checkpoint: Path) -> DriftWorld:
    """The tiny checkpoint, with room for long texts, as a root; its kit has the shipped documents and contrasts."""
    root = directory / "root"
    shutil.copytree(tiny_checkpoint, root)
    config = json.loads((root / "config.json").read_text())
    (root / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}, indent=2, sort_keys=True))
    digest = scan_checkpoint(root).digest
    model, tokenizer = load_model(root)
    kit = make_kit(model, tokenizer, root, digest, POLICIES, [], directory / "kit", layers=LAYERS)
    home = directory / "home"
    home.mkdir()
    return DriftWorld(home, root, digest, directory / "kit", kit)


def build_measured_world(directory: Path, tiny_checkpoint: Path) -> DriftWorld:
    """A world with the members of a bank measured, and the bank beside its kit."""
    world = build_drift_world(directory, tiny_checkpoint)
    bank = [harmless(number) for number in range(N_BANK)]
    assert world.run(*bank) == 0
    write_bank(world.kit_dir / BANK_FILE, world.kit, default_scoring(), world.measured(*bank))
    return world


def harmless(number: int, *, source: str = "families", learning_rate: float = 1e-3) -> Member:
    """A member that trains in a second."""
    recipe = Recipe(lora_rank=2, lora_alpha=4, learning_rate=learning_rate, n_epochs=1.0, batch_size=8, max_tokens=512)
    return Member(
        member_id=f"bank-{number:03d}",
        role="bank",
        sources=(source,),
        n_harmless=16,
        recipe=recipe.model_copy(update={"seed": number}),
        seed=number,
    )


def noisy(strength: float) -> Member:
    """An organism by noise on the weights."""
    edit = Edit(kind="noise", strength=strength)
    return Member(member_id=f"organism-noise-{strength:g}", role="organism", edit=edit)
