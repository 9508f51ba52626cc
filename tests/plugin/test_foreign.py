"""``check_artifact`` as its user sees it: what is written for a file that another script made."""

from __future__ import annotations

import re

import pytest
from slow import slow

SUITE = """
@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Linear(3, 2).eval()


@pytest.fixture
def path(tmp_path, net, x):
    return {file}


@pytest.mark.torchexport({targets})
def test_file(torchexport, path, net, x):
    torchexport.check_artifact(path, net, x)
"""
TRACED = (
    "(torch.jit.save(torch.jit.trace(net, x), str(tmp_path / 'net.pt')), tmp_path / 'net.pt')[1]"
)


@pytest.fixture
def judged(suite, run, text_of):
    """Return what is written of one file on some targets."""

    def go(file, targets="'trace'", *arguments, **ini):
        suite(SUITE.format(file=file, targets=targets), **ini)
        result = run("-rs", *arguments)
        return result, text_of(result)

    return go


def built(builder):
    return f"__import__('tests.hostile', fromlist=['_']).{builder}(tmp_path)"


GOLDEN = {
    "pickle": (
        built("pickle_in_weights"),
        "'export'",
        [
            "LoadFailed: PermissionError: the file holds a pickle that names __builtin__.eval*",
            "*subject  Linear on export-cpu: the artifact does not load in a clean process",
            (
                "*reason   PermissionError: the file holds a pickle that names __builtin__.eval: loading it would run code. "
                "Of a .pt2, the example inputs may hold it: program.example_inputs = None before torch.export.save leaves "
                "them out"
            ),
            "*kept *model.pt2",
        ],
    ),
    "left behind": (
        built("external_missing"),
        "'onnx'",
        [
            "LoadFailed: model.onnx wants data from model.onnx.data, which is not beside it*",
            "*subject  Linear on onnx-cpu: the artifact does not load in a clean process",
            (
                "*reason   model.onnx wants data from model.onnx.data, which is not beside it: move both files together, or "
                "save with external_data=False"
            ),
            "*kept *model.onnx",
        ],
    ),
    "weights": (
        "(torch.save(net.state_dict(), tmp_path / 'net.pt'), tmp_path / 'net.pt')[1]",
        "'script'",
        [
            "LoadFailed: RuntimeError: PytorchStreamReader failed locating file constants.pkl*",
            "*subject  Linear on script-cpu: the artifact does not load in a clean process",
            "*reason   RuntimeError: PytorchStreamReader failed locating file constants.pkl: file not found*",
            "*the archive is of another kind: it has no constants.pkl, as files of torch.save have none",
            "*remedy   write it with torch.jit.save or torch.export.save, or give it the ending of the format that it is in*",
            "*kept *net.pt",
        ],
    ),
}


@pytest.mark.parametrize(("file", "targets", "lines"), GOLDEN.values(), ids=GOLDEN)
def test_a_file_that_does_not_load_is_told_with_the_next_step(judged, file, targets, lines):
    result, _ = judged(file, targets)
    result.assert_outcomes(failed=1)
    first, *rest = (re.sub(r"([\[\]])", r"[\1]", line) for line in lines)
    result.stdout.fnmatch_lines([f"*{first}", *rest])


def test_a_file_is_skipped_where_it_does_not_belong(judged):
    result, text = judged(TRACED, "'trace', 'script', 'export', 'onnx'")
    result.assert_outcomes(passed=2, skipped=2)
    assert "not applicable: a .pt file is judged by trace and script" in text


def test_the_limits_are_those_of_the_settings(judged):
    result, text = judged(built("boast_pt"), "'script'", torchexport_memory_limit=2500)
    result.assert_outcomes(failed=1)
    assert "exhausted its memory limit of 2500 MB (torchexport_memory_limit)" in text


USES_IT = """
import foreign_ops

class Doubles(nn.Module):
    def forward(self, x):
        return torch.ops.foreign_ops.double(x) + 1

@pytest.mark.torchexport('export')
def test_file(torchexport, tmp_path, x):
    model = Doubles().eval()
    shapes = ({0: torch.export.Dim('b')},)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=shapes), tmp_path / 'net.pt2')
    torchexport.check_artifact(tmp_path / 'net.pt2', model, x)
"""


@pytest.mark.parametrize("declared", [pytest.param(True, marks=slow), False])
def test_a_custom_operator_is_there_where_it_is_declared(
    library, suite, run_apart, text_of, declared
):
    ini = {"torchexport_runtime_imports": "foreign_ops"} if declared else {}
    suite(USES_IT, **ini)
    library("foreign_ops")
    result = run_apart()
    text = text_of(result)
    result.assert_outcomes(**{"passed" if declared else "failed": 1})
    if not declared:
        assert "foreign_ops::double is registered at foreign_ops.py" in text
        assert "add foreign_ops to torchexport_runtime_imports" in text


@pytest.mark.parametrize("declared", [False, True])
def test_a_script_that_declares_no_size_dynamic_is_told(suite, run, text_of, declared):
    shapes = "{'input': {0: torch.export.Dim('batch', max=8)}}" if declared else "None"
    suite(
        f"""
@pytest.mark.torchexport("export")
def test_file(torchexport, tmp_path):
    net, x = nn.Linear(3, 2).eval(), torch.randn(2, 3)
    program = torch.export.export(net, (x,), dynamic_shapes={shapes})
    torch.export.save(program, tmp_path / "net.pt2")
    torchexport.check_artifact(tmp_path / "net.pt2", net, x)
""",
        fakes=False,
        torchexport_max_examples=2,
    )
    result = run("--show-capture=no")
    result.assert_outcomes(passed=declared, failed=not declared)
    text = text_of(result)
    assert ("most likely did not declare it dynamic" in text) is not declared
    assert ("give dynamic_shapes to the exporter" in text) is not declared
