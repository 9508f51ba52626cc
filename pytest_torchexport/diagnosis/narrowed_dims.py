"""Examine DimsNarrowed: what in forward, or in torch, decides by the sizes that the artifact lost?

A condition of forward is to blame if eager decides it otherwise than at the export exactly at the
sizes at which the artifact fails. Else it is the line that the program itself names, if it does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from pytest_torchexport.config.named_dims import written_sizes
from pytest_torchexport.diagnosis.remedies import of_a_condition, without_a_number, words_of
from pytest_torchexport.diagnosis.rules import OWNER_OF
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.explore.conditions import ConditionKey, Path
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.inputs.building import build
from pytest_torchexport.judge.branch_table import place
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Sizes
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.sizes import TORCHS_LOWEST

# The statements that decide by what is asked in their line.
STATEMENTS = ("if", "elif", "while", "for", "case", "match", "assert")
# Of a file that another script made.
FIXED = (
    "no line of forward is known to ask about the size: the script that made the file most likely "
    "did not declare it dynamic"
)
DYNAMIC = (
    "give dynamic_shapes to the exporter (dynamic_axes to that of torch.onnx with dynamo=False)"
)


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the cause, and the declaration of dims that fits the artifact."""
    if not known.sizes:
        return known
    line = _named(scene, known.sizes[0].dim)
    decided = [item for sizes in known.sizes for item in _decided(scene, sizes)]
    cause = _condition(decided, line) or _number(scene, known.sizes[0], line)
    if cause is None and not decided:
        cause = _guarded(scene, known.sizes, line)
    if cause is None:  # a condition explains some of the sizes alone
        return known
    owner = known.owner or ("model" if cause.where is not None else OWNER_OF[cause.kind])
    # Two dims may be tied: what the artifact takes of one then depends on the other.
    declared = _declared(scene, known.sizes[0]) if len(known.sizes) == 1 else ""
    remedy = "; else ".join(filter(None, (declared, cause.remedy)))
    cause = dataclasses.replace(cause, remedy=remedy)
    return dataclasses.replace(known, owner=owner, causes=(*known.causes, cause))


def _named(scene: Scene, dim: str) -> SourceLine | None:
    """Return the line that the program names; of an ONNX file, the one that torch.export names.

    The exporter captures with assertions in place of guards, and torch keeps no line of them.
    """
    captured = scene.captured if scene.failure.where is None else None
    if captured is None or captured is scene.case.artifact:
        return scene.failure.where
    spec = scene.case.spec
    suspicions = captured.facts.suspicions(spec, spec.example)
    return next((item.where for item in suspicions if item.dim == dim and item.where), None)


def _declared(scene: Scene, sizes: Sizes) -> str:
    legal = scene.case.spec.dims[sizes.dim].sizes
    taken = sizes.pattern.taken(legal) if sizes.pattern is not None else ()
    if len(taken) < 2:
        return ""
    return f'if it stays in these sizes: dims={{"{sizes.dim}": {written_sizes(taken)}}}'


# -- a condition of forward ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Decided:
    """A condition that eager decides otherwise than at the export at sizes that fail, as a cause.

    ``exactly``: at all of these, and at no other size that was run.
    """

    cause: Cause
    exactly: bool


def _condition(decided: Sequence[_Decided], line: SourceLine | None) -> Cause | None:
    """Return a condition that explains all sizes; else one that stands in the program's line."""
    exact = (item.cause for item in decided if item.exactly)
    at = line.place if line is not None else ""
    named = (i.cause for i in decided if i.cause.where and i.cause.where.place == at)
    return next(chain(exact, named), None)


def _of(scene: Scene, kind: str, text: str, where: SourceLine, *, on_values: bool = False) -> Cause:
    target = scene.case.plan.target
    return of_a_condition(kind, text, where=where, on_values=on_values, target=target)


def _decided(scene: Scene, sizes: Sizes) -> Sequence[_Decided]:
    """Return what decides by a dim's sizes, beside the example's sizes of the other dims.

    Beside the failing call's if nothing does: ``failing_sizes`` tries these next, too.
    """
    observed, spec = scene.case.observed, scene.case.spec
    if observed is None:
        return ()
    by_others = (
        tuple(_decided_beside(scene, observed, sizes, others))
        for others in (spec.example_sizes, scene.recipe.sizes)
    )
    return next(filter(None, by_others), ())


def _decided_beside(
    scene: Scene, observed: Observed, sizes: Sizes, others: Mapping[str, int]
) -> Iterator[_Decided]:
    # Below torch's minimum it may fail for that reason alone.
    usual = any(size >= TORCHS_LOWEST for size in sizes.failing)
    least = TORCHS_LOWEST if usual else 0
    paths = dict(_paths(scene, observed, sizes, others, least=least))
    # The example's size may be another one than the export's: torch.export takes none below 2.
    taken = [size for size in (sizes.example, *sizes.ok) if size in paths and size in sizes.ok]
    failing = paths.keys() & {*sizes.failing}
    if not taken or not failing:
        return
    own, first = paths[taken[0]], paths[min(failing)]
    for key in dict.fromkeys(event.key for event in first.events):
        there = _outcomes(own, key)
        differs = {size for size, path in paths.items() if _outcomes(path, key) != there}
        if not differs & failing:
            continue
        condition = observed.conditions[key[0]]
        on_values = any(event.on_values for event in first.events if event.key == key)
        where = place(condition)
        cause = _of(scene, condition.kind, condition.text, where, on_values=on_values)
        yield _Decided(cause, exactly=differs == failing)


def _paths(
    scene: Scene, observed: Observed, sizes: Sizes, others: Mapping[str, int], *, least: int
) -> Iterator[tuple[int, Path]]:
    """Yield the sizes that were run, from ``least`` on, with eager's path of the call at each.

    ``others`` are the sizes of the other dims.
    """
    spec = scene.case.spec
    with observed.installed():
        for size in {size for size in (*sizes.ok, *sizes.failing) if size >= least}:
            recipe = dataclasses.replace(scene.recipe, sizes={**others, sizes.dim: size})
            call = build(spec, recipe)
            path = observed.run(call) if call is not None else None
            if path is not None:
                yield size, path


def _outcomes(path: Path, key: ConditionKey) -> list[object]:
    return [event.outcome for event in path.events if event.key == key]


# -- a number, or a guard --------------------------------------------------------------------------


def _number(scene: Scene, sizes: Sizes, where: SourceLine | None) -> Cause | None:
    """Return the line that makes a number of the size, if the artifact takes that size alone."""
    if where is None or len(sizes.ok) > 1:
        return None
    statement, _, _ = where.text.partition(" ")
    if statement in STATEMENTS:
        return _of(scene, statement, where.text, where)
    return Cause(
        kind="frozen size",
        text="a size that Python makes a number of is a constant of "
        f"{words_of(scene.case.plan.target)}",
        remedy=without_a_number(where),
        where=where,
    )


def _guarded(scene: Scene, every: Sequence[Sizes], where: SourceLine | None) -> Cause:
    """Return that what somebody asks of a size is answered once, at the export."""
    artifact = words_of(scene.case.plan.target)
    if scene.case.foreign and where is None and all(len(sizes.ok) == 1 for sizes in every):
        return Cause(kind="guard", text=FIXED, remedy=DYNAMIC)
    if where is not None:
        text = f"what this line asks of sizes is answered once, at the export of {artifact}"
    elif all(max(sizes.failing) < TORCHS_LOWEST for sizes in every):
        text = f"{artifact} is made as if no dynamic size were below {TORCHS_LOWEST}, whatever "
        text += "forward or torch asks of it"
    else:
        text = "no line of forward is known to ask about the size: torch's own code decided by it "
        text += f"while {artifact} was made"
    remedy = "export once for each answer, and choose between the artifacts outside"
    return Cause(kind="guard", text=text, remedy=remedy if where is not None else "", where=where)
