"""The report of a drift audit: what moved, and how unusual that is among harmless fine-tunes of the root.

One frozen document, ``stairlock/drift-report/v1``, written as JSON and as one HTML page that needs nothing else:
no script, no external resource, readable without colour. Texts of models, documents and training rows are plain
text everywhere; what is invisible in them is shown as an escape. The same audit gives the same bytes: there is a
date only where one was given.

Not covered: the report is a view, and decides nothing. A gate computes p anew from the records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import Field, FiniteFloat

from guards.drift.assessment import Assessment, scored_stages
from guards.drift.bank import BankFile, DriftBank, Method
from guards.drift.components import DriftVector
from guards.drift.kit import Stage
from guards.drift.scores import StageColumns, score_models
from guards.durable import write_whole
from guards.evidence import Digest, Frozen
from guards.policy import DriftGate
from loop.drift.component_words import STAGES, component_words
from loop.drift.findings import Findings
from loop.drift.strip_plot import strip_plot
from loop.terminal_text import printable, short
from probes.cards import FeatureCard

JSON_FILE, HTML_FILE = "drift-report.json", "drift-report.html"
N_STRIPS = 8
"""Components that are drawn; all of them are listed in the JSON."""
_MAX_TEXT_CHARS = 1500
_SCORE_WIDTH, _COMPONENT_WIDTH = 640.0, 260.0


class Levels(Frozen):
    """What a policy's gate does at which p, for the reader: the report does not judge."""

    gate: str
    block_at: float
    review_at: float


class StageLine(Frozen):
    """A stage that was scored, and the p that it would have alone."""

    stage: Stage
    method: Method
    score: FiniteFloat
    p: FiniteFloat


class ComponentLine(Frozen):
    """A component of a scored stage; ``z`` is on its suspicious side, the dose taken off. Most unusual first."""

    component: str
    words: str
    stage: Stage
    z: FiniteFloat
    value: FiniteFloat
    median: FiniteFloat
    least: FiniteFloat
    largest: FiniteFloat


class DoseLine(Frozen):
    """How much was trained, and where that lies in the range of the members."""

    component: str
    words: str
    value: FiniteFloat
    least: FiniteFloat
    largest: FiniteFloat
    position: Literal["inside", "above", "below"]


class WithoutSourceLine(Frozen):
    """p where the bank has no member of ``source``; null where too few members would be left."""

    source: str
    n_bank: int
    p: FiniteFloat | None


class DriftReport(Frozen):
    """``stairlock/drift-report/v1``.

    ``n_as_unusual`` of ``n_bank`` verified members drifted at least as unusually as the candidate; ``p`` is
    (1 + n_as_unusual) / (1 + n_bank). ``member_scores`` are the members' combined scores in the order of the bank,
    ``member_values`` their values of the first components of ``components``. ``findings`` is null where the step
    left none; ``time`` is as it was given.
    """

    schema_: Literal["stairlock/drift-report/v1"] = Field(alias="schema")
    candidate: Digest
    root: Digest
    bank: Digest
    time: str | None
    n_bank: int = Field(ge=1)
    n_unverified: int = Field(ge=0)
    n_documents: int = Field(ge=1)
    n_as_unusual: int = Field(ge=0)
    p: FiniteFloat = Field(gt=0, le=1)
    score: FiniteFloat
    member_scores: tuple[FiniteFloat, ...] = Field(min_length=1)
    stages: tuple[StageLine, ...]
    stages_unsupported: tuple[Stage, ...]
    stages_not_scored: tuple[Stage, ...]
    components: tuple[ComponentLine, ...]
    member_values: dict[str, tuple[FiniteFloat, ...]]
    dose: tuple[DoseLine, ...]
    without_source: tuple[WithoutSourceLine, ...]
    levels: Levels | None
    findings: Findings | None
    cards: tuple[FeatureCard, ...]

    @property
    def worst_without_source(self) -> WithoutSourceLine | None:
        """The data source without which p is the smallest: how much one source hides."""
        known = [one for one in self.without_source if one.p is not None]
        return min(known, key=lambda one: one.p or 0.0) if known else None

    @property
    def dose_outside(self) -> tuple[DoseLine, ...]:
        """The figures of the dose that no member comes up, or down, to."""
        return tuple(one for one in self.dose if one.position != "inside")


def drift_report(
    file: BankFile,
    vector: DriftVector,
    found: Assessment,
    *,
    candidate: str,
    findings: Findings | None = None,
    gate: DriftGate | None = None,
    cards: Sequence[FeatureCard] = (),
    time: datetime | None = None,
) -> DriftReport:
    """The report of ``found``, which is the assessment of ``vector`` against the bank.

    ``gate`` gives the levels of a policy where one is known. ``cards`` are of moved features: those of features
    that ``findings`` does not name are left out.

    Raises:
        ValueError: ``found`` is of another vector or bank.
    """
    bank = file.bank
    by_name = {one.name: one for one in bank.kit.components}
    components = tuple(
        ComponentLine(
            component=one.component,
            words=component_words(by_name[one.component]),
            stage=one.stage,
            z=one.z,
            value=one.value,
            median=one.median,
            least=one.support.least,
            largest=one.support.largest,
        )
        for one in found.contributions
    )
    moved = set() if findings is None else {(one.dictionary, one.feature) for one in findings.features}
    return DriftReport(
        schema="stairlock/drift-report/v1",  # pyright: ignore[reportCallIssue]
        candidate=candidate,
        root=bank.parent_digest,
        bank=file.digest,
        time=None if time is None else time.strftime("%Y-%m-%d %H:%M %Z").strip(),
        n_bank=found.n_bank,
        n_unverified=len(bank.members) - found.n_bank,
        n_documents=vector.n_documents,
        n_as_unusual=int(found.p * (found.n_bank + 1)) - 1,
        p=float(found.p),
        score=found.score,
        member_scores=_member_scores(bank, vector, found),
        stages=tuple(
            StageLine(stage=one.stage, method=one.method, score=one.score, p=float(one.p)) for one in found.stages
        ),
        stages_unsupported=tuple(sorted(vector.unsupported)),
        stages_not_scored=tuple(
            stage for stage in STAGES if stage not in bank.scoring.stages and bank.kit.of_stage(stage)
        ),
        components=components,
        member_values={
            one.component: tuple(member.vector[one.component] for member in bank.verified)
            for one in components[:N_STRIPS]
        },
        dose=tuple(
            DoseLine(
                component=one.component,
                words=component_words(by_name[one.component]),
                value=one.value,
                least=one.support.least,
                largest=one.support.largest,
                position=one.position,
            )
            for one in found.dose
        ),
        without_source=tuple(
            WithoutSourceLine(source=one.source, n_bank=one.n_bank, p=None if one.p is None else float(one.p))
            for one in found.without_source
        ),
        levels=None if gate is None else Levels(gate=gate.id, block_at=gate.block_at, review_at=gate.review_at),
        findings=findings,
        cards=tuple(card for card in cards if (card.dictionary, card.feature) in moved),
    )


def write_drift_report(report: DriftReport, out_dir: Path) -> tuple[Path, Path]:
    """Write ``drift-report.json`` and ``drift-report.html``, each whole or not at all; their paths.

    Raises:
        OSError: the directory cannot be written; an older report is untouched.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    json_path, html_path = out_dir / JSON_FILE, out_dir / HTML_FILE
    write_whole(json_path, report_json(report))
    write_whole(html_path, report_html(report).encode("utf-8"))
    return json_path, html_path


def report_json(report: DriftReport) -> bytes:
    """The report as JSON in ASCII, so that texts in it are harmless on a terminal, too."""
    body = report.model_dump(mode="json", by_alias=True)
    return (json.dumps(body, ensure_ascii=True, allow_nan=False, indent=2, sort_keys=True) + "\n").encode()


def report_html(report: DriftReport) -> str:
    """The report as a page of its own."""
    return _environment().get_template("report.html.j2").render(**_shown(report))


def report_body(report: DriftReport) -> Markup:
    """The report without its head, escaped already, to stand in another page that has the same style."""
    return Markup(_environment().get_template("report_body.html.j2").render(**_shown(report)))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        shown=lambda text: printable(str(text), max_chars=_MAX_TEXT_CHARS),
        text=lambda text: printable(text, keep_newlines=True, max_chars=_MAX_TEXT_CHARS),
        short=short,
        figure=lambda value: f"{value:.4g}",
        p_value=p_text,
    )
    return environment


def _shown(report: DriftReport) -> dict[str, Any]:
    drawn = report.components[:N_STRIPS]
    return {
        "report": report,
        "findings": report.findings,
        "stage_words": STAGES,
        "score_plot": strip_plot(report.score, report.member_scores, width=_SCORE_WIDTH),
        "drawn": [
            (one, strip_plot(one.value, report.member_values[one.component], width=_COMPONENT_WIDTH)) for one in drawn
        ],
        "cards": {(card.dictionary, card.feature): card for card in report.cards},
    }


def p_text(p: float) -> str:
    """Four decimals, as gates show it; never 0 for what is not."""
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"


def _member_scores(bank: DriftBank, vector: DriftVector, found: Assessment) -> tuple[float, ...]:
    """The members' combined scores beside the candidate's, by the steps of :func:`guards.drift.assessment.assess`."""
    models = [*(member.vector for member in bank.verified), vector.values]

    def columns(names: Sequence[str]) -> Any:
        rows = [[model[name] for name in names] for model in models]
        return np.array(rows, dtype=np.float64).reshape(len(models), len(names))

    stages: dict[str, StageColumns] = {}
    for stage in scored_stages(bank, vector):
        components = bank.scored(stage)
        stages[stage] = StageColumns(
            values=columns([one.name for one in components]),
            sides=tuple(one.side for one in components),
            scoring=bank.scoring.stages[stage],
        )
    sources = [*(frozenset(member.clusters) for member in bank.verified), frozenset[str]()]
    scores = score_models(stages, columns(bank.kit.dose), bank.scoring, sources).combined
    *members, score = (float(one) for one in scores)
    if not math.isclose(score, found.score, rel_tol=1e-9, abs_tol=1e-9):
        raise ValueError("the assessment is not of this vector and this bank")
    return tuple(members)
