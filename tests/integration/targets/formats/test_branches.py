"""targets/formats/branches.py: which branches a program still has."""

from __future__ import annotations

import importlib.util
import io
import linecache
from pathlib import Path

import pytest
import torch
from torch import nn

from pytest_torchexport.outcomes.torch_state import quiet
from pytest_torchexport.targets.formats.branches import Branches
from pytest_torchexport.targets.formats.exported_program import ExportedProgramFacts
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


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.repeat = Repeat()

    def forward(self, x):
        if x.sum() > 0:  # outer if
            y = torch.relu(x)
            if x.max() > 1:  # inner if
                y = y + 1
        else:
            y = -x
        assert x.mean() < 100, "too big"  # assert
        return self.repeat(helper(y))


class Kinds(nn.Module):
    def forward(self, x, k: int):
        if (  # long if
            x.sum() > 0 and x.max() > 1
        ):
            x = x + 1
        elif k == 2:  # elif
            x = x - 1
        y = x if k > 3 else -x  # ternary
        while y.norm() > 1:  # while
            y = y / 2
        for j in range(y.shape[0]):  # for
            y = y + j
            if j > 2:  # break if
                break
        return torch.nn.functional.dropout(y, 0.5, self.training)


class Forked(nn.Module):
    def forward(self, x):
        return torch.jit.wait(torch.jit.fork(helper, x))


class Mixed(nn.Module):
    """A trace with a scripted child."""

    def __init__(self):
        super().__init__()
        self.repeat = torch.jit.script(Repeat())

    def forward(self, x):
        if x.sum() > 0:
            return self.repeat(torch.relu(x))  # positive
        return self.repeat(-x)  # negative


class Conds(nn.Module):
    def forward(self, x):
        y = torch.cond(  # cond
            x.sum() > 3,
            lambda a: torch.cond(a.max() > 1, lambda b: b + 1, lambda b: b - 1, (a,)),  # inner cond
            lambda a: -a,
            (x,),
        )
        return self.last(y)

    def last(self, y):
        return torch.cond(y.mean() > 1, lambda a: a * 2, lambda a: a * 3, (y,))  # last cond


class Loops(nn.Module):
    def forward(self, x):
        from torch._higher_order_ops import map as mapped
        from torch._higher_order_ops import scan, while_loop

        (y,) = while_loop(lambda a: a.norm() > 1, lambda a: (a / 2,), (x,))  # while_loop
        total, _ = scan(lambda c, v: (c + v, c * 2), y[0], y)  # scan
        return mapped(lambda v: v + 1, y) + total  # map


class Inside(nn.Module):
    def __init__(self):
        super().__init__()
        self.conds = Conds()

    def forward(self, x):
        return self.conds(x) + 1


class Straight(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return torch.where(x.sum() > 0, self.layer(x), -x)


def named(branches: Branches) -> set[str]:
    """The comments on the lines that were found."""
    assert {Path(file) for file, _ in branches.lines} <= {Path(__file__).resolve()}
    lines = [linecache.getline(file, number) for file, number in branches.lines]
    return {line.partition("  # ")[2].strip() for line in lines}


def trace(module, *args):
    with quiet("cpu"):
        return torch.jit.trace(module, args, check_trace=False)


def export(module, *args, **options):
    with quiet("cpu"):
        return torch.export.export(module, args, **options)


# -- TorchScript -------------------------------------------------------------------------------------


def test_a_script_has_its_branches_where_the_user_wrote_them():
    found = of_torchscript(torch.jit.script(Nested()))
    assert named(found) == {"outer if", "inner if", "assert", "helper's if", "repeat's for"}
    assert found.unplaced == 0


def test_every_kind_of_branch_is_found_and_none_of_torchs_own():
    found = of_torchscript(torch.jit.script(Kinds()))
    kinds = {"long if", "elif", "ternary", "while", "for", "break if"}
    # Of a condition over several lines the and has a node and a line of its own.
    assert named(found) - {""} == kinds
    assert len(found.lines) == len(kinds) + 1


def test_a_scripted_function_has_its_branches_too():
    assert named(of_torchscript(torch.jit.script(helper))) == {"helper's if"}


def test_a_branch_in_a_forked_function_is_found():
    assert named(of_torchscript(torch.jit.script(Forked()))) == {"helper's if"}


def test_a_trace_has_no_branches_but_those_of_its_scripted_children():
    assert named(of_torchscript(trace(Mixed(), torch.ones(2, 2)))) == {"repeat's for"}
    assert of_torchscript(trace(Nested(), torch.ones(2, 2))) == Branches()


def test_a_loaded_script_remembers_its_lines():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(Nested()), buffer)
    buffer.seek(0)
    assert "inner if" in named(of_torchscript(torch.jit.load(buffer)))


def test_a_branch_of_code_without_a_file_is_unplaced():
    class Own(torch.jit.ScriptModule):
        pass

    module = Own()
    module.define("def forward(self, x):\n  if bool(x.sum() > 0):\n    return x\n  return -x\n")
    assert of_torchscript(module) == Branches(unplaced=1)


@pytest.mark.parametrize("look", [of_torchscript, of_exported])
@pytest.mark.parametrize("program", [None, 3, nn.Linear(2, 2), torch.jit.ScriptModule()])
def test_a_program_of_another_kind_has_no_known_branches(look, program):
    assert look(program) == Branches()


# -- torch.export ------------------------------------------------------------------------------------


def test_a_cond_is_placed_where_forward_makes_it():
    found = of_exported(export(Conds(), torch.ones(2, 3)))
    # torch keeps no frames of methods and helpers here, so the last cond has the line of its call.
    assert named(found) == {"cond", ""}
    assert any("self.last(y)" in linecache.getline(*place) for place in found.lines)
    assert found.unplaced == 1  # the inner cond


def test_strict_capture_places_every_cond():
    found = of_exported(export(Conds(), torch.ones(2, 3), strict=True))
    assert named(found) == {"cond", "inner cond", "last cond"}
    assert found.unplaced == 0


def test_loops_of_torch_export_are_branches_too():
    found = of_exported(export(Loops(), torch.ones(4, 3)))
    assert named(found) == {"while_loop", "scan", "map"}


def test_a_cond_in_a_submodule_is_placed_in_the_submodule():
    assert "cond" in named(of_exported(export(Inside(), torch.ones(2, 3))))


def test_a_loaded_program_remembers_its_lines():
    buffer = io.BytesIO()
    torch.export.save(export(Conds(), torch.ones(2, 3)), buffer)
    buffer.seek(0)
    assert "cond" in named(of_exported(torch.export.load(buffer)))


def test_a_where_is_no_branch():
    assert of_exported(export(Straight(), torch.ones(2, 3))) == Branches()


# -- ONNX --------------------------------------------------------------------------------------------


def onnx_of(module, *args):
    with quiet("cpu"):
        return torch.onnx.export(module, args, dynamo=True, verbose=False).model_proto


def legacy_onnx_of(module, *args, **options):
    import onnx

    buffer = io.BytesIO()
    with quiet("cpu"):
        torch.onnx.export(module, args, buffer, dynamo=False, **options)
    return onnx.load_model_from_string(buffer.getvalue())


@needs_onnx
def test_an_onnx_file_has_the_places_of_the_program_it_was_made_from():
    found = of_onnx(onnx_of(Conds(), torch.ones(2, 3)))
    assert found == of_exported(export(Conds(), torch.ones(2, 3)))
    assert "cond" in named(found)


@needs_onnx
def test_a_scripted_modules_onnx_file_says_how_many_but_not_where():
    model = legacy_onnx_of(torch.jit.script(Nested()), torch.ones(2, 2))
    # An assert leaves nothing behind.
    assert of_onnx(model) == Branches(unplaced=4)


@needs_onnx
def test_a_verbose_onnx_file_says_where(capsys):
    model = legacy_onnx_of(torch.jit.script(Nested()), torch.ones(2, 2), verbose=True)
    expected = {"outer if", "inner if", "helper's if", "repeat's for"}
    assert named(of_onnx(model)) == expected


@needs_onnx
def test_a_branch_in_an_onnx_function_counts():
    from onnx import TensorProto, helper, parser

    body = parser.parse_graph("b () => (float[N] r) { r = Constant <value = float[1] {1.0}> () }")
    branch = helper.make_node("If", ["c"], ["r"], then_branch=body, else_branch=body)
    function = helper.make_function("own", "pick", ["c"], ["r"], [branch], [])
    call = helper.make_node("pick", ["c"], ["r"], domain="own")
    given = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    made = helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N"])
    graph = helper.make_graph([call], "g", [given], [made])
    assert of_onnx(helper.make_model(graph, functions=[function])) == Branches(unplaced=1)


@needs_onnx
def test_an_onnx_file_of_a_trace_has_none():
    assert of_onnx(legacy_onnx_of(Straight(), torch.ones(2, 3))) == Branches()


# -- what is covered ---------------------------------------------------------------------------------


def test_a_branch_covers_the_lines_it_begins_on(tmp_path):
    file = tmp_path / "model.py"
    file.touch()
    (tmp_path / "link.py").symlink_to(file)
    found = Branches(lines=frozenset({(str(file.resolve()), 12)}))
    assert found.covers(str(file), 12, 12)
    assert found.covers(str(file), 10, 14)
    assert found.covers(str(tmp_path / "link.py"), 12, 12)
    assert not found.covers(str(file), 13, 14)
    assert not found.covers(str(tmp_path / "other.py"), 12, 12)


# -- two traces --------------------------------------------------------------------------------------
