"""``check_artifact`` as its user sees it: what is written for a file that another script made."""

from __future__ import annotations

import re

import pytest

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
GOLDEN = {
    "pickle": (
        "__import__('tests.hostile', fromlist=['_']).pickle_in_weights(tmp_path)",
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
def test_a_file_that_does_not_load_is_told_with_the_next_step(suite, run, file, targets, lines):
    suite(SUITE.format(file=file, targets=targets))
    result = run()
    result.assert_outcomes(failed=1)
    first, *rest = (re.sub(r"([\[\]])", r"[\1]", line) for line in lines)
    result.stdout.fnmatch_lines([f"*{first}", *rest])


def test_a_file_is_skipped_where_it_does_not_belong(suite, run):
    suite(SUITE.format(file=TRACED, targets="'trace', 'script', 'export', 'onnx'"))
    result = run("-rs")
    result.assert_outcomes(passed=2, skipped=2)
    result.stdout.fnmatch_lines(["*not applicable: a .pt file is judged by trace and script"])
