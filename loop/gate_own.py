"""Gating a checkpoint of one's own: any two local causal LMs with the same tokenizer.

Both are sealed first, so what is gated is what lies under the digest. They need no provenance;
policies/checkpoint.yaml fits them. Every call is another look at the candidate.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from guards import actions
from guards.policy import resolve_policy
from loop.backends.port import Backend
from loop.chat_template import refuse_without_chat_template
from loop.families import question_templates
from loop.gating import GateResult, gate_candidate
from loop.home import Home
from loop.recorded_steps import RecordedSteps, Stage
from loop.sealed_checkpoints import seal, sealed_directory
from loop.suites import load_suite


def gate_checkpoints(
    home: Home,
    *,
    champion: Path,
    candidate: Path,
    policy: Path,
    backend: Backend,
    stage: Stage,
    actor: str,
    device: str = "auto",
    dtype: str = "auto",
) -> tuple[str, str, GateResult]:
    """Gate ``candidate`` against ``champion``; returns both digests and the result.

    Raises:
        CheckpointError: a directory is not a whole, safe checkpoint.
        ConfigError: the policy, or a suite of it, is malformed.
        ModelError: ``engine.no-chat-template``.
        ActionRefused: ``actions.halted``, ``actions.recalled``, ...
    """
    resolved = resolve_policy(policy)
    _, champion_manifest = seal(champion, home.path, progress=stage("seal the champion"))
    _, candidate_manifest = seal(candidate, home.path, progress=stage("seal the candidate"))
    suites = [load_suite(policy.parent / suite) for suite in resolved.policy.suites.values()]
    for manifest in (champion_manifest, candidate_manifest):  # before a look is spent
        refuse_without_chat_template(sealed_directory(home.path, manifest.digest), suites)
    actions.record_policy(home.store, policy=resolved, actor=actor)
    actions.seal_candidate(
        home.store,
        manifest=candidate_manifest,
        provenance={"proposer": "brought by the user", "compared_with": champion_manifest.digest},
        policy=resolved.digest,
        actor=actor,
        parent=None,
        submitter=actor,
        reseal=True,
    )
    run = f"gate/{secrets.token_hex(4)}"
    steps = RecordedSteps(home, backend, stage, actor=actor, run=run)
    result = gate_candidate(
        home,
        steps,
        candidate=candidate_manifest.digest,
        compared_with=champion_manifest.digest,
        policy=resolved,
        actor=actor,
        run=run,
        name="gate",
        template_texts=question_templates(),
        device=device,
        dtype=dtype,
    )
    return candidate_manifest.digest, champion_manifest.digest, result
