"""The root: installed from its package, or trained again by the constitutional cycle.

Either way it becomes the root only after it passed the root policy, on items drawn after its
digest was sealed, against the base.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guards import actions
from guards.canonical import canonical_lines, digest_of, sha256_file
from guards.durable import whole_directory
from guards.entries import Logged, RootSet
from guards.errors import ActionRefused, ModelError
from guards.gates.verdict import Verdict
from guards.history import History
from guards.manifest import CheckpointManifest, manifest_path_for, verify_checkpoint
from guards.policy import ResolvedPolicy
from guards.ports import Critic, Decoding, Generation
from loop.backends.port import Backend
from loop.constitution import Constitution, EndpointCritic, TemplateCritic, load_constitution
from loop.constitutional import (
    ConstitutionalPrompt,
    PromptSet,
    build_rows,
    choose,
    first_helpful,
    is_helpful,
    load_prompts,
)
from loop.families import question_templates
from loop.gating import gate_candidate
from loop.home import Home
from loop.recorded_steps import RecordedSteps, Stage
from loop.root_package import ADAPTER, ROWS_FILE, RootSpec, load_root_spec, package_rows, read_api_key
from loop.rows import Row, as_training_rows, read_rows
from loop.sealed_checkpoints import sealed_directory
from loop.sealing import merge_and_seal
from loop.step import Input, StepSpec
from loop.steps.prompts import SAMPLES_FILE, Prompt, Turn, read_samples
from loop.train_record import ADAPTER_DIR, adapter_digest


@dataclass(frozen=True)
class Trained:
    """A root, trained here or shipped: its sealed checkpoint, and the adapter and rows that made it."""

    manifest: CheckpointManifest
    adapter_dir: Path
    rows_file: Path
    rows_digest: str


@dataclass(frozen=True)
class RootComparison:
    """The shipped root beside one trained again from the same base, prompts and seeds.

    ``agreement`` is the cosine between the two updates (trained minus base, over all weights);
    ``max_weight_difference`` is the largest absolute difference of one weight.
    """

    shipped_digest: str
    trained_digest: str
    max_weight_difference: float
    agreement: float
    tolerance: float
    agrees: bool


def ensure_base(home: Home, spec: RootSpec, stage: Stage) -> str:
    """Get the base model; returns its digest.

    Raises:
        ModelError: as :func:`loop.models.add_model`; ``root.other-base``.
    """
    if _is_sealed(home, spec.base_digest):
        return spec.base_digest
    from loop.models import add_model  # imports torch

    _, manifest = add_model(spec.base, home.path, progress=stage(f"get the model {spec.base}"))
    if manifest.digest != spec.base_digest:
        raise ModelError(
            "root.other-base",
            "the base is not the one that the root was made from",
            got=manifest.digest,
            expected=spec.base_digest,
            fix="use the base that root.yaml names",
        )
    return manifest.digest


def _is_sealed(home: Home, digest: str) -> bool:
    """False also for a directory whose sealing was cut off before its manifest: sealing again finishes it."""
    directory = sealed_directory(home.path, digest)
    return directory.is_dir() and manifest_path_for(directory).is_file()


def ensure_root(
    home: Home,
    steps: RecordedSteps,
    package: Path,
    policy: ResolvedPolicy,
    stage: Stage,
    *,
    actor: str,
    run: str | None,
    retrain: bool,
) -> tuple[str, tuple[Verdict, ...], list[Row]]:
    """The root's digest, the verdicts of its gate (empty if it was root before), and its training rows.

    Raises:
        ModelError: ``root.digest-differs`` (the merged adapter is not what the package pins).
            ``root.other-rows`` (the rows are not those that the root of this home was trained on).
        ActionRefused: ``actions.root-failed``, ``actions.root-exists`` (another root).
    """
    spec = load_root_spec(package)
    base = ensure_base(home, spec, stage)
    if retrain or spec.digest is None:
        trained = train_root(home, steps, package, spec, stage)
        rows = read_rows(trained.rows_file)
    else:
        rows = package_rows(package, spec)
        manifest = _merge_shipped(home, package, spec, stage)
        trained = Trained(manifest, package / ADAPTER, package / ROWS_FILE, str(spec.rows_digest))
    root = trained.manifest.digest
    with home.store.read() as history:
        existing = history.root()
        if existing is not None and existing.body.checkpoint == root:
            _check_rows(history, existing, trained.rows_digest)
            return root, (), rows
    if existing is not None:
        raise ActionRefused(  # before a look is spent on it
            "actions.root-exists",
            "this home has a root, and a root never changes",
            got=root,
            expected=existing.body.checkpoint,
            fix="start another home (--home DIR) for another root",
        )
    verdicts = _gate_root(home, steps, trained, base, policy, spec, rows, actor=actor, run=run)
    return root, verdicts, rows


def shipped_root(home: Home, package: Path, stage: Stage) -> Input:
    """A package's root, merged and sealed in the home; no gate is asked.

    Raises:
        ModelError: ``root.not-trained`` (the package pins no root), ``root.other-base``, ``root.digest-differs``.
    """
    spec = load_root_spec(package)
    if spec.digest is None:
        raise ModelError("root.not-trained", f"{package} pins no root yet", fix="train it first (stairlock root)")
    ensure_base(home, spec, stage)
    _merge_shipped(home, package, spec, stage)
    return Input(kind="checkpoint", path=sealed_directory(home.path, spec.digest), digest=spec.digest)


def _check_rows(history: History, root: Logged[RootSet], rows_digest: str) -> None:
    """The rows must be those that the root was sealed with: cycles retain some, and gates search all of them."""
    sealed_before = [
        entry.body
        for entry in history.seals(root.body.checkpoint)
        if entry.seq < root.seq and entry.body.policy == root.body.policy
    ]
    recorded = sealed_before[-1].provenance.get("rows_digest") if sealed_before else None
    if rows_digest != recorded:
        raise ModelError(
            "root.other-rows",
            "the package's rows are not those that this home's root was trained on",
            got=rows_digest,
            expected=str(recorded or "rows that the root was sealed with; none are on record"),
            fix="restore the package that the root came from, or start another home (--home DIR)",
        )


def _merge_shipped(home: Home, package: Path, spec: RootSpec, stage: Stage) -> CheckpointManifest:
    assert spec.digest is not None
    if _is_sealed(home, spec.digest):
        return verify_checkpoint(sealed_directory(home.path, spec.digest), spec.digest)
    manifest = merge_and_seal(
        home.path,
        parent=spec.base_digest,
        adapter_dir=package / ADAPTER,
        report=stage("merge the root's adapter into the base"),
    )
    if manifest.digest != spec.digest:
        raise ModelError(
            "root.digest-differs",
            "the merged root is not the checkpoint that the package pins",
            got=manifest.digest,
            expected=spec.digest,
            fix="restore the package, or train the root again (make root)",
        )
    return manifest


def _gate_root(
    home: Home,
    steps: RecordedSteps,
    trained: Trained,
    base: str,
    policy: ResolvedPolicy,
    spec: RootSpec,
    rows: list[Row],
    *,
    actor: str,
    run: str | None,
) -> tuple[Verdict, ...]:
    manifest = trained.manifest
    actions.record_policy(home.store, policy=policy, actor=actor)
    actions.seal_candidate(
        home.store,
        manifest=manifest,
        provenance={
            "proposer": "constitutional-revision",
            "critic": _critic_name(spec),
            "base": base,
            "root": spec.name,
            "recipe_digest": digest_of(spec.recipe.model_dump(mode="json")),
            "rows_digest": trained.rows_digest,
            "adapter_digest": adapter_digest(trained.adapter_dir),
            "merge_alpha": spec.merge_alpha,
        },
        policy=policy.digest,
        parent=base,
        actor=actor,
        trainer=actor,
    )
    result = gate_candidate(
        home,
        steps,
        candidate=manifest.digest,
        compared_with=base,
        policy=policy,
        actor=actor,
        run=run,
        name="root",
        template_texts=question_templates(),
        training_rows=as_training_rows(rows),
    )
    if result.decision.body.outcome != "promote":
        raise ActionRefused(
            "actions.root-failed",
            "the root did not pass its policy",
            got="; ".join(result.decision.body.reasons),
            fix="stairlock show " + manifest.digest[7:19] + " says which gate failed; train another root",
        )
    actions.set_root(
        home.store,
        manifest=manifest,
        policy=policy.digest,
        evidence=[evidence.manifest.evidence_digest for evidence in result.runs.values()],
        verdicts=result.verdicts,
        actor=actor,
    )
    return result.verdicts


def train_root(home: Home, steps: RecordedSteps, package: Path, spec: RootSpec, stage: Stage) -> Trained:
    """The constitutional cycle: the base answers, the critic revises, the base is trained on the result."""
    critic = _critic(spec, load_constitution(package / spec.constitution), package)
    prompts = choose(load_prompts(package / spec.prompts), spec.mixture)
    base_input = Input(kind="checkpoint", path=sealed_directory(home.path, spec.base_digest), digest=spec.base_digest)
    answers = base_answers(home, steps, prompts, spec, base_input)
    rows = build_rows(prompts, answers, critic)
    rows_input = home.keep_file(canonical_lines(rows))
    step_dir, _ = steps.run(
        "root: train",
        StepSpec(
            kind="train",
            inputs={"parent": base_input, "rows": rows_input},
            params={"recipe": spec.recipe.model_dump(mode="json")},
        ),
    )
    adapter_dir = _with_alpha(step_dir / ADAPTER_DIR, home.path / "work", spec.merge_alpha)
    manifest = merge_and_seal(
        home.path, parent=spec.base_digest, adapter_dir=adapter_dir, report=stage("root: merge and seal")
    )
    return Trained(manifest, adapter_dir, rows_input.path, rows_input.digest)


def _with_alpha(adapter_dir: Path, work: Path, alpha: int) -> Path:
    """A copy of an adapter that says another alpha, so that PEFT and the merge here scale it alike.

    Its name says what is in it, so that runs that make the same at once do not take it from each other.
    """
    name = adapter_digest(adapter_dir).removeprefix("sha256:")[:16]
    out_dir = work / f"root-adapter-{name}-alpha-{alpha}"
    if out_dir.is_dir():
        return out_dir
    with contextlib.suppress(FileExistsError), whole_directory(out_dir) as partial:  # another run was faster
        shutil.copytree(adapter_dir, partial, dirs_exist_ok=True)
        path = partial / "adapter_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config["lora_alpha"] = alpha
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return out_dir


def _critic_name(spec: RootSpec) -> str:
    return "templates/principle-keyed" if isinstance(spec.critic, str) else f"endpoint/{spec.critic.model}"


def _critic(spec: RootSpec, constitution: Constitution, package: Path) -> Critic:
    if isinstance(spec.critic, str):
        return TemplateCritic(constitution)
    return EndpointCritic(
        constitution,
        base_url=spec.critic.base_url,
        model=spec.critic.model,
        api_key=read_api_key(package, spec.critic),
        timeout_s=spec.critic.timeout_s,
    )


def base_answers(
    home: Home, steps: RecordedSteps, prompts: PromptSet, spec: RootSpec, base: Input
) -> dict[str, Generation]:
    """One answer for every prompt; a harmless prompt that the base refused is asked again, several times."""
    drawn = _sample(home, steps, "root: the base answers", prompts.all, 1, spec, base)
    answers = {prompt_id: outputs[0] for prompt_id, outputs in drawn.items()}
    unhelpful = [prompt for prompt in prompts.harmless if not is_helpful(answers[prompt.id])]
    if unhelpful:
        again = _sample(home, steps, "root: what it refused, again", unhelpful, spec.n_redraws, spec, base)
        answers |= {prompt_id: first_helpful(outputs) for prompt_id, outputs in again.items()}
    return answers


def _sample(
    home: Home,
    steps: RecordedSteps,
    label: str,
    prompts: Sequence[ConstitutionalPrompt],
    n_samples: int,
    spec: RootSpec,
    base: Input,
) -> dict[str, tuple[Generation, ...]]:
    asked = [Prompt(prompt_id=p.id, turns=(Turn(role="user", content=p.prompt),)) for p in prompts]
    prompts_input = home.keep_file(canonical_lines(asked))
    decoding = Decoding(max_new_tokens=spec.max_answer_tokens, temperature=spec.answer_temperature, n_samples=n_samples)
    out_dir, _ = steps.run(
        label,
        StepSpec(
            kind="generate",
            inputs={"model": base, "prompts": prompts_input},
            params={"decoding": decoding.model_dump(mode="json"), "seed": spec.recipe.seed},
        ),
    )
    return {sample.prompt_id: tuple(sample.outputs) for sample in read_samples(out_dir / SAMPLES_FILE)}


def make_root(package: Path, home: Home, *, backend: Backend, stage: Stage, actor: str) -> RootComparison:
    """Train the root again and compare it with the shipped one.

    Where the package has no adapter yet, the trained one is put into it, and its digests are printed
    into ``package/pins.json`` for root.yaml.
    """
    spec = load_root_spec(package)
    base = ensure_base(home, spec, stage)
    steps = RecordedSteps(home, backend, stage, actor=actor, run=None)
    trained = train_root(home, steps, package, spec, stage)
    if spec.digest is None:
        _fill_package(package, trained)
        return RootComparison(trained.manifest.digest, trained.manifest.digest, 0.0, 1.0, 0.0, agrees=True)
    shipped = _merge_shipped(home, package, spec, stage)
    from loop.weights import compare_updates  # imports torch

    comparison = compare_updates(
        base=sealed_directory(home.path, base),
        first=sealed_directory(home.path, shipped.digest),
        second=sealed_directory(home.path, trained.manifest.digest),
    )
    return RootComparison(
        shipped_digest=shipped.digest,
        trained_digest=trained.manifest.digest,
        max_weight_difference=comparison.max_abs_difference,
        agreement=comparison.update_cosine,
        tolerance=spec.tolerance.min_update_cosine,
        agrees=comparison.update_cosine >= spec.tolerance.min_update_cosine,
    )


def _fill_package(package: Path, trained: Trained) -> None:
    target = package / ADAPTER
    target.mkdir(exist_ok=True)
    for path in trained.adapter_dir.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    (package / ROWS_FILE).write_bytes(trained.rows_file.read_bytes())
    pins = {"digest": trained.manifest.digest, "rows_digest": sha256_file(package / ROWS_FILE)}
    (package / "pins.json").write_text(json.dumps(pins, indent=2) + "\n")
