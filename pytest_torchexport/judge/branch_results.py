"""The calls that the branch search found, and the artifact's result on each path of eager."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pytest_torchexport.explore.conditions import ConditionId
from pytest_torchexport.explore.observed import Observed
from pytest_torchexport.explore.paths import ConditionKey, Path, moving
from pytest_torchexport.explore.search import Explored
from pytest_torchexport.explore.trials import Found, Goal, Seen, found_on
from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.recipes import Recipe
from pytest_torchexport.inputs.spec import InputSpec
from pytest_torchexport.judge import branch_table
from pytest_torchexport.judge.branch_table import Tried
from pytest_torchexport.results.verdict import Branch
from pytest_torchexport.targets.formats.branches import Branches


class NotExplored:
    """Stands for the results if branches are not checked, or there is nothing to search."""

    recipes: Sequence[Recipe] = ()
    straight = False

    def row(self, least: int, most: int) -> Sequence[Path]:
        """Return nothing."""
        return ()

    def unsettled(self, row: Sequence[Path]) -> Iterable[str]:
        """Return nothing."""
        return ()

    def begin(self) -> None:
        """Do nothing."""

    def book(self, recipe: Recipe, *, failed: bool) -> None:
        """Do nothing."""

    def beside_example(self, recipe: Recipe) -> Callable[[Recipe], bool] | None:
        """Return None."""


NOT_EXPLORED = NotExplored()


@dataclass(frozen=True, kw_only=True, eq=False)
class BranchResults:
    """The paths through eager that are known, and on which of their calls the artifact failed.

    ``artifact`` are the branches that its program still has; None if it does not tell. ``more`` are
    calls that take branches which the artifact alone has. ``tried`` grows with the calls.
    """

    spec: InputSpec
    observed: Observed
    explored: Explored
    artifact: Branches | None
    more: tuple[Recipe, ...] = ()
    tried: list[Tried] = field(default_factory=list)

    @property
    def example(self) -> Found:
        """The example and its path."""
        return self.explored.corpus[0]

    @property
    def straight(self) -> bool:
        """True if no condition that was met depends on the input."""
        complete = self.explored.seeded and not self.observed.code.unread
        return complete and not any(seen.depends for seen in self.explored.seen.values())

    @property
    def recipes(self) -> Sequence[Recipe]:
        """The calls that together take every path that was found, besides the example."""
        return [*(found.recipe for found in self.explored.corpus[1:]), *self.more]

    def path(self, recipe: Recipe) -> Path | None:
        """Return the path of a call; None if eager does not take it while it is observed."""
        call = build(self.spec, recipe)
        if call is None:
            return None
        with self.observed.installed():
            return self.observed.run(call)

    def found(self, recipe: Recipe) -> Found | None:
        """Return the call with its path, likewise."""
        path = self.path(recipe)
        return found_on(recipe, path) if path is not None else None

    def beside_example(self, recipe: Recipe) -> Callable[[Recipe], bool] | None:
        """Return a predicate of calls on the example's path, if this call is on it; else None."""
        found = self.found(recipe)
        if found is None or found.decisions != self.example.decisions:
            return None

        def beside(other: Recipe) -> bool:
            path = self.path(other)
            return path is not None and path.decisions() == self.example.decisions

        return beside

    def row(self, least: int, most: int) -> Sequence[Path]:
        """Return the paths of the example's calls in a row.

        Between ``least`` and ``most`` of them: as many as conditions of the model change in.
        """

        def goes_on(paths: Sequence[Path]) -> bool:
            return len(paths) < least or bool(self._moving(paths))

        with self.observed.installed():
            return self.observed.in_a_row(self.spec.example, most, goes_on)

    def unsettled(self, row: Sequence[Path]) -> Iterable[str]:
        """Return, in sentences, the outcomes that a longer row of calls might take."""
        taken = {goal for path in row for goal in path.taken()}
        seen = self.explored.seen
        open_goals = [
            (key, outcome)
            for key in self._moving(row)
            for outcome in self.observed.conditions[key[0]].outcomes
            if (key, outcome) not in taken and outcome not in seen.get(key, Seen()).counts
        ]
        return branch_table.unsettled(
            open_goals, self.observed.conditions, self.artifact, length=len(row)
        )

    def _moving(self, row: Sequence[Path]) -> list[ConditionKey]:
        own, conditions = self.observed.code.is_of_model, self.observed.conditions
        return [key for key in moving(row) if own(conditions[key[0]])]

    def begin(self) -> None:
        """Forget what calls have shown."""
        self.tried.clear()

    def book(self, recipe: Recipe, *, failed: bool) -> None:
        """Remember the result of a call if its path is known, or if it failed."""
        corpus = self.explored.corpus
        found = next((known for known in corpus if known.recipe == recipe), None)
        if found is None and failed:
            found = self.found(recipe)
        if found is not None:
            self.tried.append(Tried(found, failed))

    def has_branch(self, condition: ConditionId) -> bool | None:
        """Return True if the artifact branches at a condition; None if it does not tell."""
        return branch_table.has_branch(self.artifact, self.explored.conditions[condition])

    def table(self, culprit: Goal | None = None) -> tuple[Branch, ...]:
        """Return every condition that was met, and what became of each of its outcomes."""
        dims = self.spec.dims
        return branch_table.table(
            self.explored,
            self.tried,
            self.artifact,
            self.example,
            culprit,
            frozenset(name for name, dim in dims.items() if dim.declared),
        )
