"""torch_private/structures.py: values are taken apart, put together and named as pytrees."""

import io
import pickletools
import zipfile

import pytest
import torch

from pytest_torchexport.torch_private.structures import (
    flatten_registered,
    names_in_tensors,
    structure_of_text,
    text_of_structure,
)


def test_a_class_that_is_registered_without_a_name_has_no_text():
    class Own:
        pass

    torch.utils._pytree.register_pytree_node(Own, lambda _: ([1], None), lambda *_: Own())
    assert text_of_structure(flatten_registered(Own())[1]) is None


def test_a_structure_of_a_class_that_is_not_registered_is_a_key_error():
    unknown = '[1, {"type": "no.such.Class", "context": "null", "children_spec": []}]'
    with pytest.raises(KeyError):
        structure_of_text(unknown)


def test_the_pickle_of_a_plain_tensor_names_what_is_known():
    parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    for tensor in (torch.ones(2), torch.ones(2, dtype=torch.int8), parameter):
        buffer = io.BytesIO()
        torch.save({"a": tensor}, buffer)
        buffer.seek(0)
        torch.load(buffer, weights_only=True)  # raises for a name that it does not admit
        with zipfile.ZipFile(buffer) as archive:
            (pickled,) = (n for n in archive.namelist() if n.endswith("data.pkl"))
            words = [
                str(argument).replace(" ", ".")
                for opcode, argument, _ in pickletools.genops(archive.read(pickled))
                if opcode.name == "GLOBAL"
            ]
        assert words
        assert set(words) <= names_in_tensors()
