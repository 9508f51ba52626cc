"""commands/try_.py: the arguments, the exit status, and the test to paste; the engine is a fake."""

from __future__ import annotations

import sys

import pytest
import torch
from sample import failed, verdict

from pytest_torchexport import engine

SOURCE = """
import torch
class Net(torch.nn.Module):
    def __init__(self, hidden=4):
        super().__init__()
        assert hidden > 0, "no rows"
        self.weight = torch.nn.Parameter(torch.randn(hidden))
    def forward(self, x, *more, scale=1.0, **rest):
        return x
def function(x):
    return x
NUMBER, SIZE = 3, 2
"""


REFUSED = verdict(status="skipped", skip="refused", reason="too new")


@pytest.fixture
def call(tmp_path, monkeypatch, command):
    """Run the command on a file; the verdicts are given by target, the calls are kept."""
    (tmp_path / "tried_net.py").write_text(SOURCE)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    calls = []

    def run(*arguments, **verdicts):
        def check(subject, given, plan):
            calls.append((subject, given, plan))
            found = verdicts.get(plan.target, verdict())
            return type(found).from_dict(found.as_dict() | {"target": plan.target})

        monkeypatch.setattr(engine, "check", check)
        return *command("try", *arguments), calls

    yield run
    for name in [name for name in sys.modules if name.startswith(("tried_", "own_package"))]:
        del sys.modules[name]


def test_the_default_targets_are_checked_as_those_that_nobody_named(call):
    status, out, err, calls = call("tried_net.py:Net", "--input=torch.randn(2, 3)")
    assert (status, err) == (0, "")
    assert [plan.target for _, _, plan in calls] == ["trace", "script", "export", "onnx"]
    assert not any(plan.named for _, _, plan in calls)
    assert len({id(subject) for subject, _, _ in calls}) == 1
    assert out.endswith(
        "To paste into a test file:\n\nimport pytest\nimport torch\nfrom tried_net import Net\n\n"
        '@pytest.mark.torchexport("trace", "script", "export", "onnx")\n'
        "def test_net():\n    Net()(torch.randn(2, 3))\n"
    )


def test_what_the_command_line_declares_reaches_the_engine_and_the_marker(call):
    status, out, _, calls = call(
        "tried_net.py:Net(hidden=SIZE)", "--input=torch.rand(2, 3)", "--input=[1, 2]",
        "--input=scale=0.5", "--input=mask=function(torch.ones(2, dtype=torch.bool))",
        "--shape=x=batch 3", "--dim=batch=1..8", "--targets=trace,export", "--max-examples=7", "--seed=3",
        "--export-option=export.strict=False",
    )  # fmt: skip
    assert status == 0
    subject, (given,), plan = calls[0]
    assert len(subject.weight) == 2
    assert (tuple(given.args[0].shape), given.args[1]) == ((2, 3), [1, 2])
    assert given.kwargs["scale"] == 0.5
    assert given.kwargs["mask"].dtype == torch.bool
    assert (plan.named, plan.options.max_examples, plan.seed) == (True, 7, 3)
    assert plan.options.dims == {"batch": range(1, 9)}
    assert [axis.text for axis in plan.options.shapes["x"]] == ["batch", "3"]
    assert (
        "import torch\nfrom tried_net import Net, SIZE, function\n\n"
        '@pytest.mark.torchexport("trace", "export", '
        'shapes={"x": "batch 3"}, dims={"batch": (1, 8)}, export_options={"export": {"strict": False}})\n'
        "def test_net():\n    Net(hidden=SIZE)(torch.rand(2, 3), [1, 2], scale=0.5, "
        "mask=function(torch.ones(2, dtype=torch.bool)))\n"
    ) in out


@pytest.mark.parametrize("subject", ["own_package.net:Net(1)", "own_package/net.py:function"])
def test_a_module_a_file_and_a_function_are_taken_with_their_package(call, tmp_path, subject):
    folder = tmp_path / "own_package"
    folder.mkdir()
    for name, text in {
        "__init__": "",
        "part": "SIZE = 4",
        "net": f"from .part import SIZE\n{SOURCE}",
    }.items():
        (folder / f"{name}.py").write_text(text)
    status, out, err, _ = call(subject, "--input=1", "--target=trace")
    assert (status, err) == (0, "")
    assert f"from own_package.net import {subject.partition(':')[2].removesuffix('(1)')}\n" in out
    assert "import torch\n" not in out


@pytest.mark.parametrize(
    ("verdicts", "status", "remark"),
    [
        ({"onnx": REFUSED}, 0, " (without onnx: refused):"),
        ({"onnx": failed()}, 1, " (red now: onnx: BranchFrozen):"),
        ({"trace": failed(), "onnx": REFUSED}, 1, " (red now: trace: BranchFrozen; without onnx: refused):"),
        ({"trace": REFUSED, "onnx": REFUSED}, 1, " (refused now: trace: refused, onnx: refused):"),
    ],
)  # fmt: skip
def test_the_marker_names_what_makes_an_artifact(call, verdicts, status, remark):
    net = ("tried_net.py:Net", "--input=torch.randn(2)", "--target=trace,onnx")
    done, out, _, _ = call(*net, **verdicts)
    assert done == status
    assert f"To paste into a test file{remark}" in out
    kept = [name for name in ("trace", "onnx") if verdicts.get(name) is not REFUSED]
    named = ", ".join(f'"{name}"' for name in kept or ("trace", "onnx"))
    assert f"@pytest.mark.torchexport({named})" in out


def test_a_wrong_call_is_told_once(call):
    wrong = failed(failure="SpecError", reason="eager raises on the example")
    status, out, err, calls = call("tried_net.py:Net", "--input=torch.randn(2)", trace=wrong)
    assert (status, out) == (2, "")
    assert err.endswith("try: eager raises on the example\n")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["tried_net.py:Net", "--input=z"], "--input: NameError: name 'z' is not defined"),
        (["tried_net.py:Net", "--input=1 +"], "is no expression of Python, such as torch.randn"),
        (["tried_net.py:Net", "--input=2,3,32"], "did you mean torch.randn(2, 3, 32)?"),
        (["tried_net.py:Net", "--input=x=float32[2, 3]"], "did you mean x=torch.randn(2, 3)?"),
        (["tried_net.py:Net", "--input=int64[5]"], "torch.randint(10, (5,), dtype=torch.int64)?"),
        (["tried_net.py:Net", "--input=bool[2,5]"], "torch.ones(2, 5, dtype=torch.bool)?"),
        (["tried_net.py:Net", "--input=float16[2]"], "torch.randn(2, dtype=torch.float16)?"),
        (
            ["tried_net.py:Net", "--input=1", "--export-option=opset=3"],
            "legal is onnx.opset_version=20",
        ),
        (["tried_net.py:Net", "--input=1", "--export-option=onnx.x=1 +"], "legal is onnx.opset"),
        (["tried_net.py:Net", "--input=1", "--export-option=onyx.x=1"], "Did you mean 'onnx'?"),
        (["tried_net.py:NUMBER"], "is a int, which cannot be called"),
        (["tried_net.py:Net(8"], "has no expression of Python behind the colon; legal: "),
        (["tried_net.py:Net(hidde=8)"], "TypeError: Net.__init__() got an unexpected keyword"),
        (["tried_net.py:Net(0)"], "AssertionError: no rows (tried_net.py:6  assert hidden"),
        (["tried_net.py:Nett"], "NameError: name 'Nett' is not defined. Did you mean 'Net'?"),
        (["tried_net.py"], "names no class; legal: package.module:Net"),
        (["nowhere.net:Net"], "ModuleNotFoundError: No module named 'nowhere'; legal: "),
        (["absent.py:Net"], "absent.py: no such file"),
        (["tried_broken.py:Net"], "ZeroDivisionError: division by zero (tried_broken.py:2  x / 0)"),
        (["tried_ends.py:Net"], "cannot be imported: SystemExit: 3"),
        (["json.py:Net"], "Python already has another module json"),
        (["tried_net.py:Net", "--input=1", "--target=onyx"], "Did you mean 'onnx'?"),
        (["tried_net.py:Net", "--input=1", "--dim=b=3..1"], "low 3 is above high 1"),
        (["tried_net.py:Net", "--input=1", "--shape=b"], "is no shape; legal: 'x=batch 3"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_checked(call, tmp_path, arguments, why):
    (tmp_path / "tried_broken.py").write_text("x = 1\nx / 0\n")
    (tmp_path / "tried_ends.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "json.py").write_text("class Net: pass\n")
    status, out, err, calls = call(*arguments)
    assert (status, out) == (2, "")
    assert why in err
    assert not calls
