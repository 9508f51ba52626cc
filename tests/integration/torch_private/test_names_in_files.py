"""torch_private/names_in_files.py: names in the files that this torch writes are known.

A test that fails here means that torch has changed: the docstring of the room says what to do.
"""

import io
import pickletools
import zipfile

import torch

from pytest_torchexport.torch_private.names_in_files import class_of_files, names_in_tensors


def test_a_class_is_found_by_its_name_in_files():
    cls, flatten = class_of_files("collections.OrderedDict")
    assert cls.__name__ == "OrderedDict"
    assert callable(flatten)
    assert class_of_files("no.such.Class") == (None, None)


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
