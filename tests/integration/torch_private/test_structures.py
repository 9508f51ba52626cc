"""torch_private/structures.py: values are taken apart, put together and named as pytrees.

A test that fails here means that torch has changed: the docstring of the room says what to do.
"""

import pytest
import torch

from pytest_torchexport.torch_private.structures import (
    flatten_registered,
    parts_of_structure,
    structure_of_text,
    text_of_structure,
    unflatten,
)


def test_a_value_of_containers_is_flattened_named_and_made_again():
    leaves, structure = flatten_registered({"a": [1, 2]})
    text = text_of_structure(structure)
    assert unflatten(leaves, structure_of_text(text)) == {"a": [1, 2]}
    (inner,) = parts_of_structure(structure)
    assert len(parts_of_structure(inner)) == 2
    assert flatten_registered(3) is None


def test_a_class_that_is_registered_without_a_name_has_no_text():
    class Own:
        pass

    torch.utils._pytree.register_pytree_node(Own, lambda _: ([1], None), lambda *_: Own())
    assert text_of_structure(flatten_registered(Own())[1]) is None


def test_a_structure_of_a_class_that_is_not_registered_is_a_key_error():
    unknown = '[1, {"type": "no.such.Class", "context": "null", "children_spec": []}]'
    with pytest.raises(KeyError):
        structure_of_text(unknown)
