"""targets/formats/missing_dependencies.py: remedies for operators, and messages that miss nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_torchexport.targets.formats.missing_dependencies import (
    REMEDIES,
    WORDS,
    Needs,
    needs,
    remedy,
)

SETTING = "torchexport_runtime_imports"


def test_odd_names_are_no_operators_of_ours():
    for name in ("shiplib::name", "load_library::x", "shiplib::double.nothing", "x"):
        assert "no module of this process" in remedy(Needs("operator", name)).lines[0]


def test_torchs_own_operators_are_a_matter_of_versions():
    assert "version" in remedy(Needs("operator", "aten::linnew")).lines[0]


def test_an_operator_that_nobody_here_registers_is_said_to_be_so():
    found = remedy(Needs("operator", "elsewhere::thing"))
    fact, step = found.lines
    assert fact == "elsewhere::thing is registered by no module of this process either"
    assert f"add the module that brings it in to {SETTING}" in step
    assert not found.imports
    assert "no module of this process" in remedy(Needs("class", "elsewhere.Thing")).lines[0]


def test_an_operator_in_cpp_is_named_by_its_source():
    assert "(C++)" in remedy(Needs("operator", "quantized::linear")).lines[0]


def test_what_only_a_file_of_tests_registers_has_to_move_first():
    @torch.library.custom_op("shiptest::inside", mutates_args=())
    def inside(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    found = remedy(Needs("operator", "shiptest::inside"))
    fact, step = found.lines
    assert Path(__file__).name in fact
    assert "move it into a module of its own" in step
    assert SETTING in step
    assert not found.imports


def test_a_kernel_for_another_device_is_told_from_a_missing_operator():
    @torch.library.custom_op("shiptest::cuda", mutates_args=(), device_types="cuda")
    def cuda(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    with pytest.raises(NotImplementedError) as caught:
        cuda(torch.ones(2))
    found = needs(type(caught.value).__name__, str(caught.value))
    assert found == Needs("kernel", "shiptest::cuda")
    assert "register_kernel" in remedy(found).lines[-1]


# -- nothing else ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("RuntimeError", "We ran into an error when deserializing the saved file."),
        ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"),
        ("KeyError", "'model'"),
        ("AssertionError", "Guard failed: x.size()[0] == 2"),
        ("ImportError", "cannot import name 'thing' from 'mylib'"),
    ],
)
def test_other_words_miss_nothing(kind, text):
    assert needs(kind, text) is None


def test_every_kind_has_a_remedy_and_every_remedy_a_next_step():
    assert {kind for kind, _ in WORDS} == set(REMEDIES)
    for kind in REMEDIES:
        lines = remedy(Needs(kind, "lib.Thing")).lines
        assert lines[-1].startswith("remedy: "), kind
