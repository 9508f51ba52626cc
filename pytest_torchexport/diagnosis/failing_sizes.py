"""Examine sizes: at which sizes of each dim does the call fail, what have these in common, and why?

A few sizes are always run. Then one after the other on which the rules that are still possible
disagree, and two that confirm the rule that is left. A rule is told only if it is true of every
size that was run.

Of DimsNarrowed a condition of forward is to blame if eager decides it otherwise than at the export
exactly at the sizes at which the artifact fails. Else it is the line that the program itself names.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, pairwise

from pytest_torchexport.config.named_dims import Dim, written_sizes
from pytest_torchexport.diagnosis import remedies
from pytest_torchexport.diagnosis.remedies import also, of_a_condition
from pytest_torchexport.diagnosis.rules import OWNER_OF
from pytest_torchexport.diagnosis.scene import Scene
from pytest_torchexport.explore.conditions import ConditionKey, Path
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import Recipe, plain_recipe, recorded_recipes
from pytest_torchexport.judge.branch_table import place
from pytest_torchexport.results.diagnosis import Cause, CauseKind, Diagnosis, SizePattern, Sizes
from pytest_torchexport.results.failures import BranchFrozen, DimsNarrowed, SpecError
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.targets.formats.sizes import TORCHS_LOWEST

# The smallest sizes that are always run, and how many more a rule may ask for: with 12, a
# threshold among some thousand sizes is found to the size.
SMALLEST, MORE = 8, 12
# Of these, so many are far from all others, to confirm a rule.
FAR = 2
# A rule about a part of the legal sizes needs so many runs; about steps, so many of each kind.
ENOUGH, ENOUGH_STEPS = 5, 3
# The sizes among which further ones are chosen: the smallest, and those around the ones run.
NEAR = 32
STEPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 32)

# The statements that decide by what is asked in their line.
STATEMENTS = ("if", "elif", "while", "for", "case", "match", "assert")
UNKNOWN = "no line of forward is known to ask about the size"

# The causes of a refusal that are about sizes.
NARROWING: tuple[CauseKind, ...] = ("frozen size", "guard")

# Whether the call fails at a size; None if eager does not take it.
Fails = Callable[[int], bool | None]


def examine(scene: Scene, known: Diagnosis) -> Diagnosis:
    """Add the sizes of each dim at which the call fails, and the cause if they are narrowed.

    None of a branch that values decide: rows of the call are left out at smaller sizes.
    """
    where = scene.failure.where if isinstance(scene.failure, BranchFrozen) else None
    branches = scene.case.log.branches if where is not None else ()
    if any(each.on_values and where and each.where.place == where.place for each in branches):
        return known
    sweep = _Sweep(scene)
    each = [sweep.sizes(dim) for dim in scene.case.spec.dims.values()]
    telling = []
    for item in each:
        if item.ok and item.failing and (item.pattern or not sweep.values_decide(item)):
            equal = (other.dim for other in each if other is not item and sweep.equal(item, other))
            telling.append(replace(item, equal_to=next(equal, item.equal_to)))
    known = replace(known, sizes=tuple(telling))
    if not telling or not isinstance(scene.failure, DimsNarrowed):
        return known
    return _narrowed(scene, known, sweep)


class _Sweep:
    def __init__(self, scene: Scene) -> None:
        self._spec = scene.case.spec
        self._recipe = scene.recipe
        self._judge = scene.judge

    def sizes(self, dim: Dim) -> Sizes:
        """Return where the call fails; the other dims are as in the example.

        If no size fails then, they are as in the call. The values of a call that was shrunk may all
        be equal, which hides much: if they do, a size at which others fail is one that fails.
        """
        others: Mapping[str, int] = self._spec.example_sizes
        found = self._beside(dim, others, self.fails)
        if not found.failing and self._recipe.sizes != others:
            others = self._recipe.sizes
            found = self._beside(dim, others, self.fails)
        if found.pattern and self.values_decide(found):
            return self._beside(dim, others, partial(self.fails, with_any=True))
        return found

    def values_decide(self, sizes: Sizes) -> bool:
        """Return True if the call fails with other values at some of the first four that agree."""
        return any(
            self._judged(
                plain_recipe(self._spec, "normal", self._spec.all_sizes({sizes.dim: n}), seed)
            )
            for seed, n in enumerate(sizes.ok[:4], 1)
        )

    def _beside(
        self, dim: Dim, others: Mapping[str, int], fails: Callable[[Mapping[str, int]], bool | None]
    ) -> Sizes:
        wanted = dim.example, self._recipe.sizes.get(dim.name, dim.example)
        runs, pattern = described(dim.sizes, wanted, lambda n: fails({**others, dim.name: n}))
        ok, failing = (tuple(n for n in sorted(runs) if runs[n] is kind) for kind in (False, True))
        return Sizes(dim=dim.name, example=dim.example, ok=ok, failing=failing, pattern=pattern)

    def fails(self, sizes: Mapping[str, int], *, with_any: bool = False) -> bool | None:
        """Return whether the call fails at these sizes, or with ``with_any`` a call of others."""
        fails = self._judged(replace(self._recipe, sizes=dict(sizes)))
        if with_any and fails is False:
            return self._judged(plain_recipe(self._spec, "normal", sizes, 0)) or False
        return fails

    def _judged(self, recipe: Recipe) -> bool | None:
        try:
            judgment = self._judge.call(recipe, counted=False)
        except SpecError:
            return None
        return None if judgment is None else judgment.failure is not None

    def equal(self, one: Sizes, other: Sizes) -> bool:
        """Return True if the call agrees at two or three other sizes, the same of both dims."""
        if one.example != other.example or {one.ok, other.ok} != {(one.example,)}:
            return False
        shared = [size for size in one.failing if size in other.failing][:3]
        runs = [self.fails(self._spec.all_sizes({one.dim: n, other.dim: n})) for n in shared]
        return runs.count(False) > 1 and True not in runs


def described(
    sizes: Sequence[int], wanted: Sequence[int], fails: Fails
) -> tuple[dict[int, bool], SizePattern | None]:
    """Return whether the call fails at each size that was run, and the simplest rule for it.

    ``sizes`` are the legal ones, sorted; ``wanted`` are those to run in any case, with their
    neighbors. The rule is None if no simple one is true, or if too few sizes were run to tell.
    """
    tried: dict[int, bool | None] = {}

    def run(size: int) -> None:
        if size not in tried:
            tried[size] = fails(size)

    for size in (*sizes[:SMALLEST], sizes[-1], *wanted, *_beside(sizes, wanted)):
        run(size)
    far = 0
    for _ in range(MORE):
        rules, left = _rules(tried), _untried(sizes, tried)
        contested = [n for n in left if len({rule.fails_at(n) for rule in rules}) > 1]
        if not rules or not left or (not contested and far == FAR):
            break
        if not contested:
            far += 1
            # Those like which the fewest were run.
            named = sum(map(rules[0].names, tried))
            rarer = [n for n in left if rules[0].names(n) == (2 * named <= len(tried))]
            contested = rarer or left
        run(contested[len(contested) // 2])
    results = {size: bool(answer) for size, answer in tried.items() if answer is not None}
    rules, left = _rules(tried), _untried(sizes, tried)
    if not rules or any(len({rule.fails_at(n) for rule in rules}) > 1 for n in left):
        return results, None
    named = sum(map(rules[0].names, results))
    if rules[0].kind == "steps":
        is_enough = min(named, len(results) - named) >= ENOUGH_STEPS
    else:
        is_enough = not left or len(results) >= ENOUGH
    return results, rules[0] if is_enough else None


def _beside(sizes: Sequence[int], some: Sequence[int]) -> Iterator[int]:
    for size in some:
        index = bisect_left(sizes, size)
        yield from (sizes[i] for i in (index - 1, index + 1) if 0 <= i < len(sizes))


def _untried(sizes: Sequence[int], tried: Mapping[int, bool | None]) -> list[int]:
    """Return sizes to choose from: the smallest, those beside the tried, and between them."""
    known = sorted(tried)
    middles = (
        (bisect_left(sizes, low) + bisect_left(sizes, high)) // 2 for low, high in pairwise(known)
    )
    near = {*sizes[:NEAR], *_beside(sizes, known), *(sizes[middle] for middle in middles)}
    return sorted(near.difference(tried))


def _rules(tried: Mapping[int, bool | None]) -> list[SizePattern]:
    """Return the rules that are true of these sizes, the simplest first."""
    failing = sorted(n for n, fails in tried.items() if fails)
    ok = sorted(n for n, fails in tried.items() if fails is False)
    if not failing or not ok:
        return []
    return [
        rule
        for rule in _possible(failing, ok)
        if all(map(rule.fails_at, failing)) and not any(map(rule.fails_at, ok))
    ]


def _possible(failing: Sequence[int], ok: Sequence[int]) -> Iterator[SizePattern]:
    """Yield rules whose numbers fit: of those on a row of sizes, the shortest and the longest."""
    sides = ((False, ok, failing), (True, failing, ok))
    for fails, named, _ in sides:
        if len(named) == 1:
            yield SizePattern(kind="only", numbers=(named[0],), fails=fails)
    for first in (failing[0], _after(ok, failing[0])):
        yield SizePattern(kind="from", numbers=(first,), fails=True)
    for last in (failing[-1], _before(ok, failing[-1])):
        yield SizePattern(kind="up to", numbers=(last,), fails=True)
    for fails, named, others in sides:
        longest = _after(others, named[0]), _before(others, named[-1])
        for first, last in ((named[0], named[-1]), longest):
            yield SizePattern(kind="between", numbers=(first, last), fails=fails)
    for step in STEPS:
        for fails, named, _ in sides if step > 2 else sides[1:]:
            if len(named) > 1:
                yield SizePattern(kind="steps", numbers=(step, named[0] % step), fails=fails)


def _after(sizes: Sequence[int], bound: int) -> int:
    """Return the number behind the last size below a bound."""
    return max((size + 1 for size in sizes if size < bound), default=bound)


def _before(sizes: Sequence[int], bound: int) -> int:
    """Return the number before the first size above a bound."""
    return min((size - 1 for size in sizes if size > bound), default=bound)


# -- narrowed dims ---------------------------------------------------------------------------------


def _narrowed(scene: Scene, known: Diagnosis, sweep: _Sweep) -> Diagnosis:
    """Add the cause of DimsNarrowed, and the declaration of dims that fits the artifact."""
    first, (line, caller) = known.sizes[0], _named(scene, known.sizes[0].dim)
    decided = [item for sizes in known.sizes for item in _decided(scene, sizes)]
    # A condition that explains all sizes; else one that stands in the program's line.
    exact = [cause for cause, is_exact in decided if is_exact]
    # A loop of all(... for ...) ends where its element says so: then torch names the element.
    exact.sort(key=lambda cause: cause.kind == "unrolled loop" and not _is_in(cause, line))
    in_line = (cause for cause, _ in decided if _is_in(cause, line))
    # If torch names none, the only one that explains them: it may agree at others as well.
    whole = [cause for cause, explains in decided if explains is not None]
    alone = whole if len(whole) == 1 and line is None and caller is None else ()
    cause = next(chain(exact, in_line, alone), None)
    if cause is None:
        if decided and caller is None and (line is None or len(first.ok) > 1):
            return known  # a condition explains some of the sizes alone
        cause = _of_the_line(scene, known.sizes, line, caller)
    cause = replace(cause, details=also(_others(scene, known.sizes, sweep, cause)))
    static_by = scene.case.artifact.facts.static_by if cause.where is None else None
    owner = (
        static_by
        or known.owner
        or ("model" if cause.where not in (None, caller) else OWNER_OF[cause.kind])
    )
    # Two dims may be tied: what the artifact takes of one then depends on the other.
    if len(known.sizes) == 1 and first.pattern is not None:
        taken = first.pattern.taken(scene.case.spec.dims[first.dim].sizes)
        # The test's own calls may have others.
        own = {recipe.sizes[first.dim] for recipe in recorded_recipes(scene.case.spec)}
        if len(taken) > 1 and own <= {*taken}:
            declared = f'if it stays in these sizes: dims={{"{first.dim}": {written_sizes(taken)}}}'
            cause = replace(cause, remedy="; else ".join(filter(None, (declared, cause.remedy))))
    return replace(known, owner=owner, causes=(*known.causes, cause))


def _is_in(cause: Cause, line: SourceLine | None) -> bool:
    return None not in (cause.where, line) and cause.where.place == line.place  # type: ignore[union-attr]


def _others(
    scene: Scene, every: Sequence[Sizes], sweep: _Sweep, cause: Cause
) -> Iterator[SourceLine]:
    """Yield the other lines for which the artifact refuses sizes that the cause's line allows."""
    spec, dims = scene.case.spec, {sizes.dim for sizes in every}
    places = {cause.where.place} if cause.where is not None else set()
    for each in (scene.captured or scene.case.artifact).facts.suspicions(spec, spec.example):
        where = each.where or each.caller
        if where is None or each.dim not in dims or where.place in places:
            continue
        if any(sweep.fails(spec.all_sizes(sizes), with_any=True) for sizes in each.sizes):
            places.add(where.place)
            yield where


def _named(scene: Scene, dim: str) -> tuple[SourceLine | None, SourceLine | None]:
    """Return the line that the program names, and if it names none the caller of torch's own code.

    Of an ONNX file, those that torch.export names: the exporter captures with assertions in place
    of guards, and torch keeps no line of them. If that refuses the dims, the line that it refuses:
    the exporter then captured in another way, and what it narrows is the same.
    """
    if scene.failure.where is not None:
        return scene.failure.where, None
    captured, spec = scene.captured, scene.case.spec
    if captured is None:
        refused = scene.refusal.causes
        return next((each.where for each in refused if each.kind in NARROWING), None), None
    suspicions = [each for each in captured.facts.suspicions(spec, spec.example) if each.dim == dim]
    line = next((each.where for each in suspicions if each.where), None)
    return line, None if line else next((each.caller for each in suspicions if each.caller), None)


def _decided(scene: Scene, sizes: Sizes) -> Sequence[tuple[Cause, bool | None]]:
    """Return the conditions that eager decides otherwise than at the export where the call fails.

    As causes, and True if that is at all sizes that fail and at no other, None if not at all of
    them. Beside the example's sizes of the other dims; beside the failing call's if nothing does,
    as the sweep does.
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
) -> Iterator[tuple[Cause, bool | None]]:
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
                on_values=any(event.on_tensors for event in first.events if event.key == key),
                target=scene.case.plan.target,
            )
            yield cause, differs == failing if failing <= differs else None


def _outcomes(path: Path, key: ConditionKey) -> list[object]:
    return [event.outcome for event in path.events if event.key == key]


def _of_the_line(
    scene: Scene, every: Sequence[Sizes], where: SourceLine | None, caller: SourceLine | None
) -> Cause:
    """Return how the line that the program names narrows a dim: decision, number or guard.

    ``caller`` is the line that called torch's own code, if the program names no other.
    """
    target = scene.case.plan.target
    artifact = remedies.words_of(target)
    statement = where.text.partition(" ")[0] if where is not None else ""
    kind: CauseKind = "guard"
    remedy = ""
    if where is None and scene.case.foreign and all(len(sizes.ok) == 1 for sizes in every):
        text = f"{UNKNOWN}: the script that made the file most likely did not declare it dynamic"
        remedy = (
            "give dynamic_shapes to the exporter (dynamic_axes to that of torch.onnx with "
            "dynamo=False, input to openvino.convert_model)"
        )
    elif where is None:
        what = "what this line calls" if caller is not None else f"{UNKNOWN}: torch's own code"
        text = f"{what} decided by the size while {artifact} was made"
        where = caller
    elif len(every[0].ok) > 1:
        text = f"what this line asks of sizes is answered once, at the export of {artifact}"
        remedy = "export once for each answer, and choose between the artifacts outside"
    elif statement in STATEMENTS:
        return of_a_condition(statement, where.text, where=where, on_values=False, target=target)
    else:
        kind, remedy = "frozen size", remedies.without_a_number(where)
        text = f"a {remedies.A_SIZE} is a constant of {artifact}"
    return Cause(kind=kind, text=text, remedy=remedy, where=where)
