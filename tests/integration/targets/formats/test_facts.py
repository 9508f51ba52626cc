"""targets/formats/facts.py: which branches a program still has, and on which of the user's lines."""

from __future__ import annotations

import functools
import importlib.util
import io
import linecache
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_torchexport.outcomes.torch_state import quiet
from pytest_torchexport.targets.formats.exported_program import ExportedProgramFacts
from pytest_torchexport.targets.formats.facts import Branches
from pytest_torchexport.targets.formats.onnx_model import OnnxModelFacts
from pytest_torchexport.targets.formats.torchscript import TorchScriptFacts

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnxscript") is None, reason="needs the extra [onnx]"
)


def of_torchscript(program):
    return TorchScriptFacts(program=program).branches()


def of_exported(program):
    return ExportedProgramFacts(program=program).branches()


def of_onnx(model):
    return OnnxModelFacts(model=lambda: model).branches()


def helper(x):
    if x.sum() > 3:  # helper's if
        return x + 1
    return x


class Repeat(nn.Module):
    def forward(self, x):
        for _ in range(int(x.sum())):  # repeat's for
            x = x + 1
        return x


class Kinds(nn.Module):
    def __init__(self):
        super().__init__()
        self.repeat = Repeat()

    def forward(self, x):
        if x.sum() > 0:  # if
            y = torch.relu(x)
            if x.max() > 1:  # inner if
                y = y + 1
        elif x.min() < -2:  # elif
            y = x - 1
        else:
            y = x if x.mean() > -1 else -x  # ternary
        while y.norm() > 1:  # while
            y = y / 2
        assert x.mean() < 100, "too big"  # assert
        y = torch.nn.functional.dropout(y, 0.5, self.training)
        return self.repeat(torch.jit.wait(torch.jit.fork(helper, y)))


KINDS = {"if", "inner if", "elif", "ternary", "while", "assert", "helper's if", "repeat's for"}


class Conds(nn.Module):
    def forward(self, x):
        y = torch.cond(  # cond
            x.sum() > 3,
            lambda a: torch.cond(a.max() > 1, lambda b: b + 1, lambda b: b - 1, (a,)),  # inner cond
            lambda a: -a,
            (x,),
        )
        return self.last(y)  # call

    def last(self, y):
        return torch.cond(y.mean() > 1, lambda a: a * 2, lambda a: a * 3, (y,))  # last cond


class Loops(nn.Module):
    def __init__(self):
        super().__init__()
        self.conds = Conds()

    def forward(self, x):
        from torch._higher_order_ops import map as mapped
        from torch._higher_order_ops import scan, while_loop

        x = torch.where(x.sum() > 0, self.conds(x), -x)
        (y,) = while_loop(lambda a: a.norm() > 1, lambda a: (a / 2,), (x,))  # while_loop
        total, _ = scan(lambda c, v: (c + v, c * 2), y[0], y)  # scan
        return mapped(lambda v: v + 1, y) + total  # map


def named(branches: Branches) -> set[str]:
    """The comments on the lines that were found."""
    assert {Path(file) for file, _ in branches.lines} <= {Path(__file__).resolve()}
    lines = [linecache.getline(file, number) for file, number in branches.lines]
    return {line.partition("  # ")[2].strip() for line in lines}


def export(module, *args, **options):
    with quiet("cpu"):
        return torch.export.export(module, args, **options)


@functools.cache
def conds():
    return export(Conds(), torch.ones(2, 3))


def reloaded(program, format_):
    buffer = io.BytesIO()
    format_.save(program, buffer)
    buffer.seek(0)
    return format_.load(buffer)


def test_a_script_has_its_branches_where_the_user_wrote_them_also_when_loaded():
    script = torch.jit.script(Kinds())
    assert named(of_torchscript(script)) == KINDS
    assert of_torchscript(reloaded(script, torch.jit)) == of_torchscript(script)
    assert of_torchscript(script).unplaced == 0
    assert named(of_torchscript(torch.jit.script(helper))) == {"helper's if"}


def test_loops_and_submodules_of_torch_export_have_branches_too_also_when_loaded():
    program = export(Loops(), torch.ones(4, 3))
    assert named(of_exported(program)) == {"cond", "call", "while_loop", "scan", "map"}
    assert of_exported(reloaded(conds(), torch.export)) == of_exported(conds())


@needs_onnx
def test_an_onnx_file_has_the_places_of_the_program_it_was_made_from():
    with quiet("cpu"):
        program = torch.onnx.export(Conds(), (torch.ones(2, 3),), dynamo=True, verbose=False)
    assert of_onnx(program.model_proto) == of_exported(conds())


def test_a_branch_covers_the_lines_it_begins_on(tmp_path):
    file = tmp_path / "model.py"
    file.touch()
    (tmp_path / "link.py").symlink_to(file)
    found = Branches(lines=frozenset({(str(file.resolve()), 12)}))
    assert found.covers(str(tmp_path / "link.py"), 10, 12)
    assert not found.covers(str(file), 13, 14)
    assert not found.covers(str(tmp_path / "other.py"), 12, 12)
