"""inputs/indices.py: edges index nodes, and offsets cut a list, at every size."""

# ruff: noqa: ARG005  # the parameters are what a spec reads of a function

from __future__ import annotations

import pytest
import torch
from specs import spec_of

from pytest_torchexport.inputs.building import build
from pytest_torchexport.inputs.indices import Index, index_of
from pytest_torchexport.inputs.recipes import KINDS, Edit, LeafRecipe, Recipe, example_recipe
from pytest_torchexport.inputs.spec import Call

NODES = torch.randn(6, 3)
EDGES = torch.tensor([[0, 1, 5, 2], [1, 2, 0, 4]])


def found(values, nodes=NODES):
    return index_of("i", {"x": nodes, "i": torch.as_tensor(values)})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (EDGES, Index(into="x")),
        ([[0, 3]], Index(into="x")),
        ([0, 0, 1, 2, 5], Index(into="x", ordered=True)),
        # As many as rows: labels that happen to rise.
        ([0, 0, 1, 1, 2, 5], Index(into="x")),
        ([0, 0, 1, 1, 2, 6], None),
        ([0, 2, 4], Index(into="x", ordered=True)),
        ([0, 2, 6], Index(into="x", ordered=True, whole=True)),
        ([0, 1, 2, 3], Index(into="x")),
        ([[0, 1]], None),
        ([0, 3, 9], None),
        ([-1, 3], None),
        ([0, 1, 2, 1, 2, 1], None),
        ([0.0, 2.0, 4.0], None),
    ],
)
def test_integers_just_below_the_size_of_an_input_index_it(values, expected):
    assert found(values) == expected


def test_a_mask_of_two_sequences_indexes_nothing():
    assert found([[1, 1, 0], [1, 0, 0]], torch.ones(2, 3)) is None


def test_a_size_of_one_is_indexed_by_nothing():
    assert found([0, 0], torch.ones(1, 3)) is None


def calls(spec):
    for kind in (*KINDS, "example"):
        item = LeafRecipe(kind=kind, edits=(Edit(1, 5), Edit(2, 0)))
        for size in (1, 2, 6, 11):
            yield size, build(spec, Recipe(sizes={"batch": size}, leaves=(item, item), seed=3))


def test_edges_stay_between_the_nodes():
    for size, call in calls(spec_of(lambda x, edges: x, NODES, EDGES)):
        assert 0 <= int(call.args[1].min()) <= int(call.args[1].max()) < size


@pytest.mark.parametrize("last", [4, 6])
def test_offsets_stay_in_order_and_within_the_list(last):
    spec = spec_of(lambda x, offsets: x, NODES, torch.tensor([0, 2, last]))
    for size, call in calls(spec):
        offsets = call.args[1].tolist()
        assert offsets == sorted(offsets)
        assert offsets[0] == 0
        assert offsets[-1] == size if last == 6 else offsets[-1] < size


def test_the_example_stays_what_it_is():
    spec = spec_of(lambda x, edges: x, NODES, EDGES)
    assert torch.equal(build(spec, example_recipe(spec)).args[1], EDGES)
    (said,) = (str(item) for item in spec.assumed if item.kind == "values")
    assert said == "values of edges are 0..5, as in the example, and below the size of x"


def test_a_call_that_was_recorded_beside_it_counts_too():
    more = [Call((NODES, EDGES + 9))]
    assert spec_of(lambda x, edges: x, NODES, EDGES, more=more).leaves[1].index is None
    given = spec_of(lambda x, edges: x, NODES, EDGES, values={"edges": (0, 5)})
    assert given.leaves[1].index is None  # the user has said what is legal
