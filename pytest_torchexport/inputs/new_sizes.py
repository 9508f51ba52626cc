"""Lead drawn calls to sizes that no call has had yet.

Random sizes leave out some of a small range, and most often those beside the ends of a large one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence

from pytest_torchexport.inputs.recipes import LeafRecipe, Recipe
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf

# A dim with at most this many sizes is led to each of them, one with more to those beside its ends.
FEW = 32
# A wrong scale, order or choice of elements may not show on a leaf of such a kind. A sparse one is
# all zeros if it is small.
CONSTANT = ("zeros", "ones", "low", "high", "flat", "sparse")


def has_varied_values(spec: InputSpec, recipe: Recipe) -> bool:
    """Return True if the elements of some tensor of the call may differ from each other."""
    return any(
        isinstance(leaf, TensorLeaf) and item.kind not in CONSTANT
        for leaf, item in zip(spec.leaves, recipe.leaves, strict=True)
    )


class NewSizes:
    """The sizes of each dim that are still to be run.

    ``sizes``: those that may be drawn, by dim. ``met``: those that were run with varied values; it
    may grow meanwhile. A size that was refused beside other new ones is tried once more, with the
    other dims as in the example.
    """

    def __init__(
        self,
        spec: InputSpec,
        sizes: Mapping[str, range | tuple[int, ...]],
        met: Mapping[str, Collection[int]],
    ) -> None:
        self._spec = spec
        self._wanted = {name: list(_wanted(of_dim)) for name, of_dim in sizes.items()}
        self._met = met
        # A dim and its size; True if the other dims were as in the example.
        self._refused: dict[tuple[str, int], bool] = {}

    def instead_of(self, recipe: Recipe) -> Recipe:
        """Return the recipe at the nearest new sizes, then with varied values; else as it is."""
        sizes = self._sizes(recipe.sizes)
        if sizes is None:
            return recipe
        leaves = recipe.leaves if has_varied_values(self._spec, recipe) else _varied(recipe)
        return dataclasses.replace(recipe, sizes=sizes, leaves=leaves)

    def _sizes(self, drawn: Mapping[str, int]) -> dict[str, int] | None:
        new = {name: _nearest(drawn[name], sizes) for name, sizes in self._left()}
        if new:
            return {**drawn, **new}
        for name, sizes in self._left(again=True):
            return {**self._spec.example_sizes, name: _nearest(drawn[name], sizes)}
        return None

    def refused(self, sizes: Mapping[str, int]) -> None:
        """Record the sizes of a call that is not legal."""
        for name, size in sizes.items():
            alone = sizes == {**self._spec.example_sizes, name: size}
            self._refused[name, size] = alone or self._refused.get((name, size), False)

    def _left(self, *, again: bool = False) -> Iterator[tuple[str, list[int]]]:
        """Yield each dim with its sizes that were not tried, or ``again`` those not tried alone."""
        wanted = False if again else None
        for name, tiers in self._wanted.items():
            for tier in tiers:
                left = [
                    size
                    for size in tier
                    if size not in self._met.get(name, ())
                    and self._refused.get((name, size)) is wanted
                ]
                if left:
                    yield name, left
                    break


def _varied(recipe: Recipe) -> tuple[LeafRecipe, ...]:
    return tuple(
        dataclasses.replace(item, kind="normal") if item.kind in CONSTANT else item
        for item in recipe.leaves
    )


def _nearest(size: int, sizes: Sequence[int]) -> int:
    return min(sizes, key=lambda other: abs(other - size))


def _wanted(sizes: range | tuple[int, ...]) -> Iterator[list[int]]:
    """Yield the sizes beside the ends, which are more often special, and then the others if few."""
    yield sorted({*sizes[1:3], *sizes[-2:-1]})
    if len(sizes) <= FEW:
        yield list(sizes)
