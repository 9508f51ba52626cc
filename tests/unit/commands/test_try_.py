"""commands/try_.py: the arguments, the exit status, and the test to paste; the engine is a fake."""

from __future__ import annotations

import sys

import pytest
import torch
from sample import failed, verdict

from pytest_torchexport import engine
from pytest_torchexport.commands import try_

SOURCE = """
import torch
class Net(torch.nn.Module):
    def __init__(self, hidden=4):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(hidden))
    def forward(self, x, *more, scale=1.0, **rest):
        return x
def function(x):
    return x
NUMBER = 3
"""


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run the command on a file; the verdicts are given by target, the calls are kept."""
    (tmp_path / "tried_net.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    calls = []

    def run(*arguments, **verdicts):
        def check(subject, given, plan):
            calls.append((subject, given, plan))
            found = verdicts.get(plan.target, verdict())
            return type(found).from_dict(found.as_dict() | {"target": plan.target})

        monkeypatch.setattr(engine, "check", check)
        try:
            status = try_.main("try", arguments)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, err, calls

    yield run
    sys.modules.pop("tried_net", None)


def test_the_default_targets_are_checked_as_those_that_nobody_named(call):
    status, out, err, calls = call("tried_net.py:Net", "--input=float32[2,3]")
    assert (status, err) == (0, "")
    assert [plan.target for _, _, plan in calls] == ["trace", "script", "export", "onnx"]
    assert not any(plan.named for _, _, plan in calls)
    assert len({id(subject) for subject, _, _ in calls}) == 1
    assert out.endswith(
        "To paste into a test file:\n\nimport pytest\nimport torch\nfrom tried_net import Net\n\n"
        '@pytest.mark.torchexport("trace", "script", "export", "onnx")\n'
        "def test_net():\n    Net()(torch.randn((2, 3)))\n"
    )


def test_what_the_command_line_declares_reaches_the_engine_and_the_marker(call):
    status, out, _, calls = call(
        "tried_net.py:Net", "--init=hidden=2", "--input=float32[batch=2,3]{0..1}",
        "--input=int64[batch=2]{0..9}", "--input=scale=0.5", "--input=mask=bool[2]",
        "--dim=batch=1..8", "--target=trace,export", "--max-examples=7", "--seed=3",
    )  # fmt: skip
    assert status == 0
    subject, (given,), plan = calls[0]
    assert len(subject.weight) == 2
    assert [tuple(each.shape) for each in given.args] == [(2, 3), (2,)]
    assert given.kwargs["scale"] == 0.5
    assert given.kwargs["mask"].dtype == torch.bool
    assert (plan.named, plan.max_examples, plan.seed) == (True, 7, 3)
    assert plan.options.dims == {"batch": range(1, 9)}
    assert plan.options.values == {"x": (0.0, 1.0), "more[0]": (0, 9)}
    assert [axis.text for axis in plan.options.shapes["more[0]"]] == ["batch"]
    assert (
        '@pytest.mark.torchexport("trace", "export", '
        'shapes={"x": "batch 3", "more[0]": "batch"}, dims={"batch": (1, 8)}, '
        'values={"x": (0.0, 1.0), "more[0]": (0, 9)})\n'
        "def test_net():\n    Net(hidden=2)(torch.empty((2, 3)).uniform_(0.0, 1.0), "
        "torch.randint(0, 10, (2,), dtype=torch.int64), scale=0.5, "
        "mask=torch.randint(0, 2, (2,)).bool())\n"
    ) in out


def test_the_same_seed_makes_the_same_weights_and_inputs(call):
    for _ in range(2):
        _, _, _, calls = call("tried_net.py:Net", "--input=float32[5]", "--target=trace")
    (one, (first,), _), (other, (second,), _) = calls
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(first.args[0], second.args[0])


def test_the_marker_names_what_passed(call):
    skipped = verdict(status="skipped", skip="refused", reason="no")
    status, out, _, _ = call("tried_net.py:Net", "--input=float32[2]", script=skipped)
    assert status == 0
    assert "To paste into a test file (without script: refused):" in out
    assert '@pytest.mark.torchexport("trace", "export", "onnx")' in out
    status, out, _, _ = call("tried_net.py:Net", "--input=float32[2]", trace=failed())
    assert status == 1
    assert "trace-cpu" in out
    assert f"(without trace: {failed().failure})" in out
    red = {"--target=trace,onnx": {"trace": failed(), "onnx": failed()}}
    for target, verdicts in red.items():
        status, out, _, _ = call("tried_net.py:Net", "--input=float32[2]", target, **verdicts)
        assert status == 1
        assert "(it fails or is skipped now: trace: BranchFrozen, onnx: BranchFrozen)" in out
    status, out, _, _ = call(
        "tried_net.py:Net", "--input=float32[2]", "--target=trace", trace=failed()
    )
    assert status == 1
    assert '@pytest.mark.torchexport("trace")' in out


def test_if_nothing_was_judged_it_is_not_green(call):
    skipped = verdict(status="skipped", skip="unavailable", reason="no onnx")
    status, out, err, _ = call(
        "tried_net.py:Net", "--input=float32[2]", "--target=onnx", onnx=skipped
    )
    assert (status, err) == (1, "no target was judged\n")
    assert "no onnx" in out


def test_a_wrong_call_is_told_once(call):
    wrong = failed(failure="SpecError", reason="eager raises on the example")
    status, out, err, calls = call("tried_net.py:Net", "--input=float32[2]", trace=wrong)
    assert (status, out) == (2, "")
    assert err.startswith("try: eager raises on the example\n")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["tried_net.py:Net"], "missing a required argument: 'x'; give each with --input"),
        (["tried_net.py:Net", "--input=z"], "is no input; legal: "),
        (["tried_net.py:Net", "--input=y=1", "--input=2"], "those with a name come after"),
        (["tried_net.py:function", "--input=y=1"], "the inputs do not fit forward(x)"),
        (["tried_net.py:NUMBER"], "is a int, which takes no --init and cannot be checked"),
        (["tried_net.py:Net", "--input=1", "--init=8"], "--init '8' is not a list of arguments"),
        (["tried_net.py:Net", "--input=1", "--target=onyx"], "Did you mean 'onnx'?"),
        (["tried_net.py:Net", "--input=1", "--device=gpu"], "'gpu' is not a device"),
        (["tried_net.py:Net", "--input=1", "--max-examples=0"], "'0' is not a whole number"),
        (["tried_net.py:Net", "--input=float32[2]", "--dim=b=1..2"], "write it beside the size"),
        ([], "the following arguments are required: MODULE:NAME"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_checked(call, arguments, why):
    status, out, err, calls = call(*arguments)
    assert (status, out) == (2, "")
    assert why in err
    assert not calls
