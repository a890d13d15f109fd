"""The control of equal compute: a run's candidate, trained again on unverified answers in the right form.

``python -m benchmarks.equal_compute_control --home DIR --config FILE --proposal ID --out DIR``

From the same samples of the same champion, as many rows per family and level as the verified
candidate had, the same retained rows, the same recipe and seeds; only the verifier is missing. What
the candidate does better than this, verification brought, and not form, copying or more training.
The merged checkpoint is written to ``--out``.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

from guards.canonical import canonical_lines
from guards.entries import Sealed
from guards.history import History
from loop.families import TaskItem
from loop.home import Home
from loop.merge import merge_adapter
from loop.rejection import draw_problems, retained_rows, select_rows, with_demonstrations
from loop.root_package import load_root_spec, package_rows
from loop.rows import Row
from loop.run_config import Proposal, load_run_config, seed_bytes, seed_int
from loop.sealed_checkpoints import sealed_directory
from loop.step import Input, Progress, StepSpec, execute
from loop.steps.prompts import SAMPLES_FILE, Sample, read_samples
from loop.train_record import ADAPTER_DIR


def control_rows(problems: list[TaskItem], samples: list[Sample], proposal: Proposal) -> tuple[list[Row], list[Row]]:
    """(verified, control): per family and level as many control rows as verified ones, in a repeatable order."""
    plan = proposal.sampling
    level_of = {item.item_id: (item.family, item.level) for item in problems}
    verified = select_rows(problems, samples, plan, "verified")
    room: dict[tuple[str, int], int] = defaultdict(int)
    for row in verified:
        room[level_of[row.row_id]] += 1
    control: list[Row] = []
    unverified = plan.model_copy(update={"select": "formatted", "max_rows_per_level": None})
    for row in select_rows(problems, samples, unverified, "formatted"):
        if room[level_of[row.row_id]]:
            room[level_of[row.row_id]] -= 1
            control.append(row)
    return verified, control


def sealed_as(history: History, name: str) -> Sealed:
    """The entry of the candidate of this name."""
    for entry in history.entries():
        if isinstance(entry.body, Sealed) and entry.body.provenance.get("name") == name:
            return entry.body
    raise SystemExit(f"no candidate {name!r} in this home")


def main() -> None:
    """Train the control and merge it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--proposal", required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    home, config = Home.open(args.home, create=False), load_run_config(args.config)
    (proposal,) = (p for p in config.proposals if p.id == args.proposal)
    name = proposal.id
    with home.store.read() as history:
        sealed = sealed_as(history, name)
    root, champion = str(sealed.parent), str(sealed.provenance["sampled_from"])
    recipe = proposal.recipe.model_copy(update={"seed": seed_int(config.seed, name, "training")})

    problems = draw_problems(proposal.sampling, proposal.sampling.frontier, seed_bytes(config.seed, name, "problems"))
    prompts = with_demonstrations(problems, proposal.sampling, seed_bytes(config.seed, name, "demonstrations"))
    sampling = StepSpec(
        kind="generate",
        inputs={
            "model": Input(kind="checkpoint", path=sealed_directory(home.path, champion), digest=champion),
            "prompts": home.keep_file(canonical_lines(prompts)),
        },
        params={
            "decoding": proposal.sampling.decoding.model_dump(mode="json"),
            "seed": seed_int(config.seed, name, "sampling"),
        },
        device=config.device,
        dtype=config.dtype,
    )
    progress = Progress(sys.stdout, 10.0)
    execute(sampling, home.step_dir(sampling), progress)  # found finished in the run's home
    samples = read_samples(home.step_dir(sampling) / SAMPLES_FILE)
    verified, control = control_rows(problems, samples, proposal)
    package = args.config.resolve().parent / config.root
    retained = retained_rows(
        package_rows(package, load_root_spec(package)), proposal.retained, seed_bytes(config.seed, name, "retained")
    )
    n_right = sum(row.row_id in {right.row_id for right in verified} for row in control)
    print(f"{len(verified)} verified rows, {len(control)} control rows ({n_right} of problems that were solved too)")
    training = StepSpec(
        kind="train",
        inputs={
            "parent": Input(kind="checkpoint", path=sealed_directory(home.path, root), digest=root),
            "rows": home.keep_file(canonical_lines([*control, *retained])),
        },
        params={"recipe": recipe.model_dump(mode="json")},
        device=config.device,
        dtype=config.dtype,
    )
    step = execute(training, home.step_dir(training), progress)
    print(f"trained {step.cost.tokens_trained} tokens")
    merge_adapter(sealed_directory(home.path, root), home.step_dir(training) / ADAPTER_DIR, args.out)


if __name__ == "__main__":
    main()
