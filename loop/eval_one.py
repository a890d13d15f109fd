"""One suite, one model, no gate: for looking at a model while working on it.

A look here is not counted, so it is refused where it would be a read of a holdout.

Not covered: the cost of looking at other items; a holdout of another home, or of a policy that is not
recorded yet; whoever reads the item file. Draw from another suite while developing.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from guards.canonical import sha256_bytes
from guards.errors import StepError
from guards.evidence import EvidenceRun, read_run
from guards.gates.holdouts import policy_that_holds_out
from guards.history import History
from guards.manifest import scan_checkpoint
from guards.policy import item_digests, suite_digest
from loop.backends.local import LocalBackend
from loop.chat_template import refuse_without_chat_template
from loop.recorded_steps import Stage
from loop.step import Input
from loop.steps.evaluate_spec import evaluate_spec
from loop.suites import load_suite


def refuse_holdout(history: History, suite: Path) -> None:
    """Raises ``eval.holdout`` where a policy recorded in this home holds out items of the suite.

    Raises:
        ConfigError: the suite is malformed (:func:`guards.policy.suite_digest`).
    """
    policy = policy_that_holds_out(history, {suite_digest(suite), *item_digests(suite)})
    if policy is not None:
        raise StepError(
            "eval.holdout",
            f"the policy {policy.name!r} of this home holds out the items of {suite}, and an answer that nobody "
            "counts would be a read of them",
            got=policy.policy,
            expected="items that no policy of the home holds out",
            fix="gate the model (stairlock gate), which is a counted look; or evaluate it on other items",
        )


def evaluate_suite(
    *, model: Path, suite: Path, out: Path, seed: bytes | None, device: str, dtype: str, stage: Stage
) -> EvidenceRun:
    """Run one suite and leave its evidence in ``out``, which must not exist.

    ``seed`` is 32 bytes; None draws them anew.

    Raises:
        StepError: ``eval.out-exists``, or whatever the step refuses.
        ModelError: ``engine.no-chat-template``.
        SuiteError, ConfigError, CheckpointError: the suite or the checkpoint is malformed.
    """
    if out.exists():
        raise StepError("eval.out-exists", f"{out} exists already", fix="name a directory that does not")
    loaded = load_suite(suite)
    checkpoint = Input(kind="checkpoint", path=model.resolve(), digest=scan_checkpoint(model).digest)
    refuse_without_chat_template(model, [loaded])
    draw_seed = secrets.token_bytes(32) if seed is None else seed
    out.mkdir(parents=True)  # after the refusals, so that the same --out can be given again
    key = out / "salt.key"
    key.write_text(secrets.token_hex(32))
    spec = evaluate_spec(
        checkpoint=checkpoint,
        suites={loaded.name: Input(kind="suite", path=suite.resolve(), digest=suite_digest(suite))},
        salt_key=Input(kind="file", path=key.resolve(), digest=sha256_bytes(key.read_bytes())),
        draw_seed=draw_seed,
        device=device,
        dtype=dtype,
    )
    LocalBackend().run(spec, out / "run", stage(f"evaluate {loaded.name}"))
    return read_run(out / "run" / loaded.name)
