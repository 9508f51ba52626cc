"""Tell what the calls of an item left uncovered, of what the user did not declare.

Separate from ``vacuity``, which doubts a pass because of eager's outputs: this looks at the recipes
of the calls, and at no tensor but a literal.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from pytest_torchexport.config.options import Options
from pytest_torchexport.inputs.domains import Domain
from pytest_torchexport.inputs.recipes import LeafRecipe, Recipe
from pytest_torchexport.inputs.spec import InputSpec, TensorLeaf
from pytest_torchexport.inputs.strategies import has_varied_values
from pytest_torchexport.results.verdict import Uncovered
from pytest_torchexport.targets.formats.facts import ProgramFacts

# A number that is more than so many times the root mean square of the example's is of another
# scale.
FAR = 10.0
# An artifact that takes a dim of this size takes any.
ANY_SIZE = 2**31


@dataclass
class Covered:
    """The reach of an item's calls: the sizes by dim, and if a float left its scale.

    ``with_varied_values``: the sizes of calls whose tensors are not constant.
    """

    sizes: dict[str, set[int]] = field(default_factory=dict)
    with_varied_values: dict[str, set[int]] = field(default_factory=dict)
    left_scale: bool = False

    def saw(self, spec: InputSpec, recipe: Recipe) -> None:
        """Record a call that was run."""
        varied = has_varied_values(spec, recipe)
        for name, dim in spec.dims.items():
            size = recipe.sizes.get(name, dim.example)
            self.sizes.setdefault(name, set()).add(size)
            if varied:
                self.with_varied_values.setdefault(name, set()).add(size)
        self.left_scale = self.left_scale or any(
            _is_free(leaf) and _is_far(item, leaf.domain)
            for leaf, item in zip(spec.leaves, recipe.leaves, strict=True)
            if isinstance(leaf, TensorLeaf)
        )


def uncovered(
    covered: Covered,
    spec: InputSpec,
    options: Options,
    facts: ProgramFacts,
    *,
    tied: tuple[str, ...],
) -> Uncovered:
    """Return what the calls of an item left out because nobody declared it.

    ``tied``: the inputs that had the others' batch in every call, and eager takes one of their own.
    """
    said = options.shapes is not None or options.dynamic_shapes is not None
    said = said or any(item.kind == "annotations" for item in spec.assumed)
    fixed = any(not axis.names for leaf in spec.tensors for axis in leaf.shape)
    return Uncovered(
        fixed_sizes=fixed and not said,
        open_dims=_open_dims(spec, facts),
        same_scale=not covered.left_scale and any(map(_is_free, spec.tensors)),
        tied=tied,
    )


def _is_free(leaf: TensorLeaf) -> bool:
    """Return True for floats of any size whose values nobody declared."""
    domain = leaf.domain
    return domain.kind == "float" and domain.high is None and not domain.declared


def _is_far(item: LeafRecipe, domain: Domain) -> bool:
    far = FAR * domain.scale
    if item.kind == "literal":
        return bool((item.data.tensor.abs() > far).any())
    largest = 1.0 if item.kind == "ones" else item.scale * domain.scale
    return max(largest, *(abs(edit.value) for edit in item.edits), 0.0) > far


def _open_dims(spec: InputSpec, facts: ProgramFacts) -> tuple[str, ...]:
    """Return the dims that have an assumed range and that the artifact takes at any size."""
    if type(facts) is ProgramFacts:
        return ()  # it says nothing of itself
    wide = {
        name: dataclasses.replace(dim, sizes=range(dim.low, ANY_SIZE + 1))
        for name, dim in spec.dims.items()
        if not dim.declared
    }
    found = facts.suspicions(dataclasses.replace(spec, dims={**spec.dims, **wide}), spec.example)
    limited = {
        name
        for item in found
        if not item.is_torchs_minimum
        for sizes in item.sizes
        for name in sizes
    }
    return tuple(name for name in wide if name not in limited)
