"""The kit of a drift audit: what is measured on every model, fixed before any candidate is seen.

A kit names documents and weight matrices by digest and name, and declares *components*: figures that are
made from a run's records, one vector of them per model. Every model of a bank and every candidate is measured
with the same kit; its digest stands in the manifest of each run, where a suite's digest stands else.

The records of a run are

* one per document: the kit's id of it, its slice as cluster, its digest as ``prompt_digest``;
* one per weight matrix: ``weights:<tensor>``, with a cluster that begins with ``weights.``;
* one or more of the cluster ``triggers``, or a single unscored one whose reason begins with ``unsupported``.

Not covered: whether the documents and directions mean what their names say (the probes' own tests), and the
files behind the digests, which the trusted side never opens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, cast

from pydantic import Field, FiniteFloat, model_validator
from pydantic_core import PydanticCustomError

from guards.canonical import digest_of
from guards.evidence import Digest, Frozen

Stage = Literal["weights", "activations", "dictionary", "outputs", "triggers"]
Statistic = Literal["mean", "max", "q95"]
Side = Literal["two_sided", "high", "low"]

TRIGGERS_CLUSTER = "triggers"
WEIGHTS_ITEM = "weights:"
WEIGHTS_CLUSTER = "weights."
UNSUPPORTED = "unsupported"
"""What the reason of an unscored trigger record begins with where the training rows cannot be had again."""

LARGEST = 1e100
"""Values beyond it are no measurement, and would overflow."""
MAX_DOCUMENTS = 100_000
MAX_TENSORS = 20_000
MAX_COMPONENTS = 2_000

Label = Annotated[str, Field(min_length=1, max_length=200)]


class KitDocument(Frozen):
    """A document: its digest (:func:`document_digest`) and the slice that it belongs to."""

    sha256: Digest
    slice: Label


class Component(Frozen):
    """One figure of a model: ``statistic`` of ``value`` over the records of the ``plus`` clusters together.

    The same over the ``minus`` clusters, where there are some, is taken off. ``side`` says which direction is
    suspicious; directed scores and raw maxima read it, and Mahalanobis does not.
    """

    name: Label
    stage: Stage
    value: Label
    plus: tuple[Label, ...] = Field(min_length=1)
    minus: tuple[Label, ...] = ()
    statistic: Statistic = "mean"
    side: Side = "two_sided"

    @property
    def clusters(self) -> tuple[str, ...]:
        """The clusters that it reads."""
        return (*self.plus, *self.minus)

    @model_validator(mode="after")
    def _consistent(self) -> Component:
        if len(set(self.clusters)) != len(self.clusters):
            raise wrong("drift.bad-kit", f"the component {self.name!r} names a cluster twice")
        if any((cluster == TRIGGERS_CLUSTER) != (self.stage == "triggers") for cluster in self.clusters):
            raise wrong(
                "drift.bad-kit", f"the component {self.name!r} mixes the stage triggers and what is measured on others"
            )
        return self


class DriftKit(Frozen):
    """``stairlock/drift-kit/v1``. ``parent_digest`` is the root that every model is measured against.

    ``norm_caps`` (layer as text -> norm above which a token is left out) and ``token_sets`` (ids whose probability
    is followed) are settings of the probes. ``layers`` and the digests of ``directions``, ``dictionaries``,
    ``contrasts`` and ``prompts`` (those that triggers are tried on) say what the values were made with;
    ``measurement`` is raised whenever the same model would give other values. ``tensors`` maps every weight matrix
    that a run describes to its cluster. ``dose`` names the components that say how much was trained: they are
    regressed out, must lie within the bank's range, and are scored in no stage.
    """

    schema_: Literal["stairlock/drift-kit/v1"] = Field(alias="schema")
    parent_digest: Digest
    dtype: Label
    layers: tuple[Annotated[int, Field(ge=-1, le=10_000)], ...] = ()
    measurement: int = Field(default=1, ge=1)
    documents: dict[Label, KitDocument] = Field(min_length=1, max_length=MAX_DOCUMENTS)
    tensors: dict[Label, Label] = Field(default_factory=dict[str, str], max_length=MAX_TENSORS)
    components: tuple[Component, ...] = Field(min_length=1, max_length=MAX_COMPONENTS)
    dose: tuple[Label, ...] = ()
    norm_caps: dict[Label, FiniteFloat] = Field(default_factory=dict[str, float])
    token_sets: dict[Label, tuple[Annotated[int, Field(ge=0)], ...]] = Field(default_factory=dict[str, tuple[int, ...]])
    directions: dict[Label, Digest] = Field(default_factory=dict[str, str])
    dictionaries: dict[Label, Digest] = Field(default_factory=dict[str, str])
    contrasts: dict[Label, Digest] = Field(default_factory=dict[str, str])
    prompts: dict[Label, Digest] = Field(default_factory=dict[str, str])

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON: what the manifest of a run says as its suite's digest."""
        return digest_of(self.model_dump(mode="json", by_alias=True))

    def of_stage(self, stage: str) -> tuple[Component, ...]:
        """The components that are scored in ``stage``; those of the dose are in none."""
        return tuple(one for one in self.components if one.stage == stage and one.name not in self.dose)

    @model_validator(mode="after")
    def _consistent(self) -> DriftKit:
        for problem in self._problems():
            raise wrong("drift.bad-kit", problem)
        return self

    def _problems(self) -> Iterator[str]:
        names = [component.name for component in self.components]
        by_name = {component.name: component for component in self.components}
        if len(by_name) != len(names):
            yield "two components have one name"
        if len(set(self.dose)) != len(self.dose):
            yield "a component of the dose is named twice"
        for name in self.dose:
            if name not in by_name:
                yield f"the dose names no component: {name!r}"
            elif by_name[name].stage == "triggers":
                yield f"a trigger says nothing about the dose: {name!r}"
        if len(self.dose) == len(by_name):
            yield "every component belongs to the dose, so that nothing would be scored"
        slices = {document.slice for document in self.documents.values()}
        if any(name == TRIGGERS_CLUSTER or name.startswith(WEIGHTS_CLUSTER) for name in slices):
            yield "a slice has the name of a cluster of weights or triggers"
        if any(item_id.startswith(WEIGHTS_ITEM) for item_id in self.documents):
            yield f"a document's id begins with {WEIGHTS_ITEM!r}"
        if not all(cluster.startswith(WEIGHTS_CLUSTER) for cluster in self.tensors.values()):
            yield f"a tensor's cluster does not begin with {WEIGHTS_CLUSTER!r}"
        known = slices | set(self.tensors.values()) | {TRIGGERS_CLUSTER}
        for component in self.components:
            unknown = [cluster for cluster in component.clusters if cluster not in known]
            if unknown:
                yield f"the component {component.name!r} reads a cluster without documents or tensors: {unknown[0]!r}"


def document_digest(token_ids: Sequence[int], first_counted: int) -> str:
    """Digest of a document: its token ids, and the first one that counts."""
    return digest_of({"token_ids": list(token_ids), "first_counted": first_counted})


def wrong(rule: str, message: str) -> PydanticCustomError:
    """A validator's refusal that carries its own rule."""
    return PydanticCustomError(cast(Any, rule), cast(Any, message.replace("{", "{{").replace("}", "}}")))
