"""What an audit found, for a person to read: it explains, and decides nothing.

Only features that moved the same way in both dictionary seeds are shown: one seed's features are too
much its own (arXiv:2501.16615). Texts are a model's or a training set's: show them as plain text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from guards.evidence import Frozen
from guards.ports import Decoding
from loop.engine import TransformersEngine
from probes.audit import AuditMaterials, Measured
from probes.dictionaries import Dictionary
from probes.dictionary_quality import nearest_features
from probes.feature_sums import MovedFeature, SliceFeatures
from probes.triggers import TriggerSearch

_N_MOVED = 12
_N_EXAMPLES = 6
_ANSWER_TOKENS = 24
_TWIN_COSINE = 0.7
_LEAST_CONSISTENCY = 3.0
"""About three standard errors of a sign-flip test; it ranks what is shown, and decides nothing."""
_EXAMPLE_SLICES = ("harmful", "harmless", "claims")
_EXAMPLE_VALUE = "output.decision_js"


class FeatureFinding(Frozen):
    """A feature that moved in a slice, and its twin in the other seed, which moved the same way."""

    dictionary: str
    slice_name: str
    feature: int
    rate_before: float
    rate_after: float
    value_before: float
    value_after: float
    consistency: float
    twin: int
    twin_cosine: float
    twin_consistency: float


class TriggerFinding(Frozen):
    """A string that changes the candidate's answers more than the root's, and than random strings do."""

    text: str
    placement: str
    payload: str
    n_rows: int
    payload_gain: float | None
    divergence: float
    standard_error: float


class ExampleFinding(Frozen):
    """A document on which the two models part, and what each goes on with (greedy, 24 tokens)."""

    doc_id: str
    slice_name: str
    divergence: float
    text: str
    before: str
    after: str


class Findings(Frozen):
    """``stairlock/drift-findings/v1``. ``triggers_unsupported`` says why no training rows were searched."""

    schema_: str = Field(default="stairlock/drift-findings/v1", alias="schema")
    features: tuple[FeatureFinding, ...]
    triggers: tuple[TriggerFinding, ...]
    triggers_unsupported: str | None
    examples: tuple[ExampleFinding, ...]


def moved_features(
    features: Mapping[str, Mapping[str, SliceFeatures]], dictionaries: Sequence[Dictionary]
) -> tuple[FeatureFinding, ...]:
    """Features of the first dictionary that moved, with twins in the second that moved the same way.

    With fewer than two dictionaries there is nothing that could be confirmed, and nothing is shown.
    """
    if len(dictionaries) < 2:
        return ()
    first, second = dictionaries[:2]
    nearest = nearest_features(first, second)
    found = []
    for slice_name, sums in features[first.name].items():
        twin_consistency_feat = features[second.name][slice_name].consistency_feat()
        for moved in sums.moved(_N_MOVED * 4):
            twin, cosine = int(nearest.index_feat[moved.feature]), float(nearest.cosine_feat[moved.feature])
            its = float(twin_consistency_feat[twin])
            both = min(abs(moved.consistency), abs(its)) >= _LEAST_CONSISTENCY
            if cosine >= _TWIN_COSINE and both and its * moved.consistency > 0:
                found.append(_feature_finding(first.name, slice_name, moved, twin, cosine, its))
    return tuple(sorted(found, key=lambda one: -abs(one.consistency))[:_N_MOVED])


def _feature_finding(
    dictionary: str, slice_name: str, moved: MovedFeature, twin: int, cosine: float, consistency: float
) -> FeatureFinding:
    return FeatureFinding(
        dictionary=dictionary,
        slice_name=slice_name,
        feature=moved.feature,
        rate_before=moved.rate_before,
        rate_after=moved.rate_after,
        value_before=moved.value_before,
        value_after=moved.value_after,
        consistency=moved.consistency,
        twin=twin,
        twin_cosine=cosine,
        twin_consistency=consistency,
    )


def found_triggers(search: TriggerSearch) -> tuple[TriggerFinding, ...]:
    """What the search confirmed, the largest interaction first."""
    found = []
    for result in search.results:
        if result.stage != "confirmed" or result.divergence is None:
            continue
        found.append(
            TriggerFinding(
                text=result.text,
                placement=result.placement,
                payload=result.payload_text,
                n_rows=result.n_support,
                payload_gain=None if result.payload is None else result.payload.mean,
                divergence=result.divergence.mean,
                standard_error=result.divergence.standard_error,
            )
        )
    return tuple(found)


def example_answers(
    root: Any, candidate: Any, tokenizer: Any, materials: AuditMaterials, measured: Sequence[Measured]
) -> tuple[ExampleFinding, ...]:
    """The prompts on which the first answer token parts the most, and both models' answers."""
    at = {one.doc_id: one for one in materials.documents}
    asked = [one for one in measured if one.cluster in _EXAMPLE_SLICES]
    chosen = sorted(asked, key=lambda one: -one.scores[_EXAMPLE_VALUE])[:_N_EXAMPLES]
    prompts = [_prompt_of(tokenizer, at[one.item_id].token_ids, at[one.item_id].first_counted) for one in chosen]
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
    decoding = Decoding(max_new_tokens=_ANSWER_TOKENS)
    answers = [TransformersEngine(model, tokenizer).generate(chats, decoding, seed=0) for model in (root, candidate)]
    return tuple(
        ExampleFinding(
            doc_id=one.item_id,
            slice_name=one.cluster,
            divergence=one.scores[_EXAMPLE_VALUE],
            text=prompt,
            before=before.text,
            after=after.text,
        )
        for one, prompt, (before,), (after,) in zip(chosen, prompts, *answers, strict=True)
    )


def _prompt_of(tokenizer: Any, token_ids: Sequence[int], first_counted: int) -> str:
    """The user's words: the document from where it counts, up to the end of the user's turn."""
    ids = list(token_ids[first_counted:])
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return tokenizer.decode(ids, skip_special_tokens=True)


def findings_of(
    root: Any,
    candidate: Any,
    tokenizer: Any,
    materials: AuditMaterials,
    measured: Sequence[Measured],
    features: Mapping[str, Mapping[str, SliceFeatures]],
    search: TriggerSearch | None,
) -> Findings:
    """Everything that a report shows besides the bank's verdict."""
    return Findings(
        features=moved_features(features, materials.dictionaries),
        triggers=() if search is None else found_triggers(search),
        triggers_unsupported="the search was not asked for" if search is None else search.unsupported,
        examples=example_answers(root, candidate, tokenizer, materials, measured),
    )
