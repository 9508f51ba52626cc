"""Examine DimsNarrowed: what in forward, or in torch, decides by the sizes that the artifact lost?

A condition of forward is to blame if eager decides it otherwise than at the export exactly at the
sizes at which the artifact fails. Else it is the line that the program itself names, if it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
UNKNOWN = "no line of forward is known to ask about the size"
# Of a file that another script made.
FIXED = f"{UNKNOWN}: the script that made the file most likely did not declare it dynamic"
DYNAMIC = (
    "give dynamic_shapes to the exporter (dynamic_axes to that of torch.onnx with dynamo=False)"
)


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the cause, and the declaration of dims that fits the artifact."""
    if not known.sizes:
        return known
    first, line = known.sizes[0], _named(scene, known.sizes[0].dim)
    decided = [item for sizes in known.sizes for item in _decided(scene, sizes)]
    # A condition that explains all sizes; else one that stands in the program's line.
    exact = (cause for cause, is_exact in decided if is_exact)
    in_line = (
        cause
        for cause, _ in decided
        if cause.where is not None and line is not None and cause.where.place == line.place
    )
    cause = next(chain(exact, in_line), None) or _number(scene, first, line)
    if cause is None and not decided:
        cause = _guarded(scene, known.sizes, line)
    if cause is None:  # a condition explains some of the sizes alone
        return known
    owner = known.owner or ("model" if cause.where is not None else OWNER_OF[cause.kind])
    # Two dims may be tied: what the artifact takes of one then depends on the other.
    if len(known.sizes) == 1 and first.pattern is not None:
        taken = first.pattern.taken(scene.case.spec.dims[first.dim].sizes)
        if len(taken) > 1:
            declared = f'if it stays in these sizes: dims={{"{first.dim}": {written_sizes(taken)}}}'
            cause = replace(cause, remedy="; else ".join(filter(None, (declared, cause.remedy))))
    return replace(known, owner=owner, causes=(*known.causes, cause))


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


# -- a condition of forward ------------------------------------------------------------------------


def _decided(scene: Scene, sizes: Sizes) -> Sequence[tuple[Cause, bool]]:
    """Return the conditions that eager decides otherwise than at the export where the call fails.

    As causes, and True if that is at all sizes that fail and at no other. Beside the example's
    sizes of the other dims; beside the failing call's if nothing does, as ``failing_sizes`` does.
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
) -> Iterator[tuple[Cause, bool]]:
    # Below torch's minimum it may fail for that reason alone.
    usual = any(size >= TORCHS_LOWEST for size in sizes.failing)
    paths: dict[int, Path] = {}
    with observed.installed():
        for size in (*sizes.ok, *sizes.failing):
            recipe = replace(scene.recipe, sizes={**others, sizes.dim: size})
            call = build(scene.case.spec, recipe) if size >= TORCHS_LOWEST or not usual else None
            path = observed.run(call) if call is not None else None
            if path is not None:
                paths[size] = path
    # The example's size may be another one than the export's: torch.export takes none below 2.
    taken = [size for size in (sizes.example, *sizes.ok) if size in paths and size in sizes.ok]
    failing = paths.keys() & {*sizes.failing}
    if not taken or not failing:
        return
    own, first = paths[taken[0]], paths[min(failing)]
    for key in dict.fromkeys(event.key for event in first.events):
        differs = {n for n, path in paths.items() if _outcomes(path, key) != _outcomes(own, key)}
        if differs & failing:
            condition = observed.conditions[key[0]]
            cause = of_a_condition(
                condition.kind,
                condition.text,
                where=place(condition),
                on_values=any(event.on_values for event in first.events if event.key == key),
                target=scene.case.plan.target,
            )
            yield cause, differs == failing


def _outcomes(path: Path, key: ConditionKey) -> list[object]:
    return [event.outcome for event in path.events if event.key == key]


# -- a number, or a guard --------------------------------------------------------------------------


def _number(scene: Scene, sizes: Sizes, where: SourceLine | None) -> Cause | None:
    """Return the line that makes a number of the size, if the artifact takes that size alone."""
    if where is None or len(sizes.ok) > 1:
        return None
    statement, _, _ = where.text.partition(" ")
    target = scene.case.plan.target
    if statement in STATEMENTS:
        return of_a_condition(statement, where.text, where=where, on_values=False, target=target)
    return Cause(
        kind="frozen size",
        text=f"a size that Python makes a number of is a constant of {words_of(target)}",
        remedy=without_a_number(where),
        where=where,
    )


def _guarded(scene: Scene, every: Sequence[Sizes], where: SourceLine | None) -> Cause:
    """Return that what somebody asks of a size is answered once, at the export."""
    artifact = words_of(scene.case.plan.target)
    if where is None:
        if scene.case.foreign and all(len(sizes.ok) == 1 for sizes in every):
            return Cause(kind="guard", text=FIXED, remedy=DYNAMIC)
        text = f"{UNKNOWN}: torch's own code decided by it while {artifact} was made"
        return Cause(kind="guard", text=text)
    return Cause(
        kind="guard",
        text=f"what this line asks of sizes is answered once, at the export of {artifact}",
        remedy="export once for each answer, and choose between the artifacts outside",
        where=where,
    )
