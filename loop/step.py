"""A step is a process: one JSON spec in, one directory out, a manifest of digests last.

``python -m loop.step SPEC OUT_DIR`` is the whole contract, the same for a local subprocess and
for a job on a cluster. Outputs are written beside ``OUT_DIR`` and renamed when the manifest is
in place, so a directory that exists is a step that finished. Its key is a digest over the kind,
the input digests, the parameters and the code: the same code never computes the same inputs twice,
and what other code computed is not believed.

Not covered: a step that lies about what it computed. ``stairlock reproduce`` repeats it.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from guards.canonical import canonical_bytes, digest_of, parse_json_strict, sha256_file
from guards.durable import whole_directory
from guards.errors import EvidenceError, StairlockError, StepError
from guards.evidence import Cost, Digest, Frozen
from loop.code_digest import code_digest

STEP_MANIFEST = "step.json"


class Input(Frozen):
    """Something a step reads: a checkpoint directory, a file, or a suite. The digest is its identity."""

    kind: Literal["checkpoint", "file", "suite"]
    path: Path
    digest: Digest

    @classmethod
    def of_file(cls, path: Path) -> Input:
        """A file as it lies there now."""
        return cls(kind="file", path=path, digest=sha256_file(path))


class StepSpec(Frozen):
    """What to compute, and with which code. Paths say where the inputs lie now; they are not in the key."""

    kind: Literal["generate", "train", "fine-tune", "evaluate", "join", "probe", "verify"]
    inputs: dict[str, Input]
    params: dict[str, Any] = Field(default_factory=dict)
    device: str = "auto"
    dtype: str = "auto"
    code: Digest = Field(default_factory=lambda data: code_digest(data["kind"]))

    @property
    def key(self) -> str:
        """Digest that names this computation."""
        return digest_of(
            {
                "kind": self.kind,
                "inputs": {name: item.digest for name, item in self.inputs.items()},
                "params": self.params,
                "device": self.device,
                "dtype": self.dtype,
                "code": self.code,
            }
        )


class StepManifest(Frozen):
    """What a step left behind: the digest of every output file, and what it cost."""

    key: Digest
    kind: str
    outputs: dict[str, Digest]
    cost: Cost
    started_at: str
    environment: dict[str, str]


class Progress:
    """Reports progress as JSON lines on a stream that the parent reads; silent without one."""

    def __init__(self, stream=None, interval_s: float = 0.5) -> None:
        self._stream = stream
        self._interval_s = interval_s
        self._last_s = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if self._stream is None or (done < total and now_s - self._last_s < self._interval_s):
            return
        self._last_s = now_s
        self._stream.write(json.dumps({"what": what, "done": done, "total": total}) + "\n")
        self._stream.flush()


StepFunction = Callable[[StepSpec, Path, Progress], Cost]


def read_step(out_dir: Path, key: str | None) -> StepManifest | None:
    """The manifest of a finished step with this key, its outputs checked; None if there is none.

    Without a key it may be any step's: for what the ledger says to lie there, whatever code wrote it.

    Raises:
        StepError: the directory is another step's, or an output differs from the manifest.
    """
    path = out_dir / STEP_MANIFEST
    if not path.is_file():
        return None
    try:
        manifest = StepManifest.model_validate(parse_json_strict(path.read_bytes(), source=str(path)))
    except (EvidenceError, ValidationError) as error:
        why = error.message if isinstance(error, EvidenceError) else error.errors()[0]["msg"]
        raise StepError("step.bad-manifest", f"{path}: {why}", fix=f"remove {out_dir} and run again") from error
    if key is not None and manifest.key != key:
        raise StepError("step.other-key", f"{out_dir} is the output of another step", got=manifest.key, expected=key)
    for name, expected in manifest.outputs.items():
        got = sha256_file(out_dir / name) if (out_dir / name).is_file() else "no such file"
        if got != expected:
            raise StepError(
                "step.output-changed",
                f"{out_dir / name} is not what the step wrote",
                got=got,
                expected=expected,
                fix=f"remove {out_dir} and run again: the step will be computed anew",
            )
    return manifest


def execute(spec: StepSpec, out_dir: Path, progress: Progress) -> StepManifest:
    """Run the step in this process and leave ``out_dir`` complete, or not there at all.

    Raises:
        StepError: ``step.other-code``, ``step.no-input``, ``step.input-changed``, ``step.not-written``,
            what :func:`read_step` raises, or whatever the step itself refuses.
    """
    finished = read_step(out_dir, spec.key)
    if finished is not None:
        return finished
    _check_code(spec)
    _remove_unfinished(out_dir)
    _check_inputs(spec)
    started_s, started_at = time.perf_counter(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    try:
        with whole_directory(out_dir) as partial:
            cost = _function_of(spec.kind)(spec, partial, progress)
            cost = cost.model_copy(
                update={
                    "wall_ms": int(1000 * (time.perf_counter() - started_s)),
                    "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                }
            )
            outputs = {
                path.relative_to(partial).as_posix(): sha256_file(path)
                for path in sorted(partial.rglob("*"))
                if path.is_file()
            }
            manifest = StepManifest(
                key=spec.key,
                kind=spec.kind,
                outputs=outputs,
                cost=cost,
                started_at=started_at,
                environment=_environment(),
            )
            (partial / STEP_MANIFEST).write_bytes(canonical_bytes(manifest.model_dump(mode="json")))
    except FileExistsError:
        # Another process finished the same step meanwhile: one that outlived its killed parent.
        finished = read_step(out_dir, spec.key)
        if finished is None:
            raise
        return finished
    except OSError as error:
        raise StepError(
            "step.not-written",
            f"the step {spec.kind} could not write its outputs; nothing of it was kept",
            got=error.strerror or type(error).__name__,
            fix="free disk space, then run again: finished steps are not repeated",
        ) from error
    return manifest


def _remove_unfinished(out_dir: Path) -> None:
    """Remove what something that died before its manifest left behind: it is not believed."""
    if out_dir.exists():
        shutil.rmtree(out_dir)
    for leftover in out_dir.parent.glob(f".{out_dir.name}.*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


def _check_code(spec: StepSpec) -> None:
    """A source file that was edited during a run, or another version on the machine where steps run."""
    if spec.code != code_digest(spec.kind):
        raise StepError(
            "step.other-code",
            "the step runs with other code than the program that asked for it",
            got=code_digest(spec.kind),
            expected=spec.code,
            fix="run the same version in both places; after an edit or an update, run the command again",
        )


def _check_inputs(spec: StepSpec) -> None:
    from guards.manifest import verify_checkpoint

    for name, item in spec.inputs.items():
        if item.kind == "checkpoint":
            verify_checkpoint(item.path, item.digest)
            continue
        if not item.path.is_file():
            raise StepError(
                "step.no-input",
                f"the input {name} is missing: {item.path}",
                fix="restore the file; what a run keeps in its home is written again by running it again",
            )
        got = sha256_file(item.path) if item.kind == "file" else _suite_digest(item.path)
        if got != item.digest:
            raise StepError(
                "step.input-changed",
                f"the input {name} ({item.path}) changed",
                got=got,
                expected=item.digest,
                fix="restore the file as it was; another suite or other data is another run",
            )


def _suite_digest(path: Path) -> str:
    from guards.policy import suite_digest

    return suite_digest(path)


def _function_of(kind: str) -> StepFunction:
    if kind == "generate":
        from loop.steps.generate import generate

        return generate
    if kind in ("train", "fine-tune"):
        from loop.steps.train import train

        return train
    if kind == "probe":
        from loop.steps.probe import probe

        return probe
    if kind == "verify":
        from loop.steps.verify import verify

        return verify
    if kind == "join":
        from loop.steps.join import join

        return join
    from loop.steps.evaluate import evaluate

    return evaluate


def _environment() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft", "trl")}


def main(argv: list[str]) -> int:
    """The step's process: 0 done, 3 refused (the refusal on stderr as one JSON object)."""
    spec_path, out_dir = Path(argv[0]), Path(argv[1])
    # Libraries print to stdout; the progress stream must stay JSON lines, so they get stderr.
    stream, sys.stdout = sys.stdout, sys.stderr
    try:
        spec = StepSpec.model_validate(parse_json_strict(spec_path.read_bytes(), source=str(spec_path)))
        execute(spec, out_dir, Progress(stream))
    except StairlockError as error:
        refusal = {"rule": error.rule, "message": error.message, "got": error.got, "expected": error.expected}
        print(json.dumps({"refused": {**refusal, "fix": error.fix}}), file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
