"""diagnosis/reproducer/embedded.py: a source with all that it refers to runs alone."""

import math
import sys

import pytest
import torch
from torch import nn

from pytest_torchexport.diagnosis.reproducer.embedded import Embedded
from pytest_torchexport.diagnosis.reproducer.importable import Importable
from pytest_torchexport.diagnosis.reproducer.values import Inexpressible

FACTOR = 3.0
TABLE = torch.ones(2)
THIS = sys.modules[__name__]


def helper(x):
    return x * FACTOR + math.pi - math.pi


class Base(nn.Module):
    def forward(self, x):
        return helper(x)


class Derived(Base):
    def forward(self, x):
        return super().forward(x) + 1


def local(offset):
    class Local(nn.Module):
        def forward(self, x):
            return x + offset

    return Local


def reads_a_tensor(x):
    return x + TABLE


def reads_this_module(x):
    return THIS.helper(x)


def alone(thing, directory):
    """What the text of a class or function makes without this file."""
    embedded = Embedded(Importable(directory))
    name = embedded.name(thing)
    scope = {"torch": torch, "__name__": "alone"}
    exec(embedded.text(), scope)
    assert scope[name] is not thing
    return scope[name]


def test_a_class_comes_with_its_bases_functions_and_constants(tmp_path):
    assert alone(Derived, tmp_path)()(torch.ones(())) == pytest.approx(4.0)


def test_a_local_class_comes_with_what_it_encloses(tmp_path):
    assert alone(local(2.5), tmp_path)()(torch.ones(())) == 3.5


@pytest.mark.parametrize("thing", [reads_a_tensor, reads_this_module])
def test_what_refers_to_what_has_no_source_is_refused(thing, tmp_path):
    with pytest.raises(Inexpressible):
        Embedded(Importable(tmp_path)).name(thing)


def test_two_things_of_one_name_are_refused(tmp_path):
    embedded = Embedded(Importable(tmp_path))
    embedded.name(local(1))
    with pytest.raises(Inexpressible, match="two things are called Local"):
        embedded.name(local(2))


def test_a_thing_of_torchs_is_imported(tmp_path):
    embedded = Embedded(Importable(tmp_path))
    assert embedded.name(nn.Linear) == "torch.nn.Linear"
    assert embedded.text() == ""
