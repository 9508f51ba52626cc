"""plugin/items.py: items, their ids, and what becomes of each."""

from __future__ import annotations

import pytest

from pytest_torchexport.config import names


def ids(result):
    return [line for line in result.outlines if line.startswith("test_it.py::")]


COLLECTED = """
@pytest.mark.parametrize('n', [1, 2])
@pytest.mark.torchexport('trace', 'onnx')
def test_net(n): Net()(torch.randn(n, 3))

@pytest.mark.torchexport
def test_default(): Net()(torch.randn(2, 3))

def test_plain(): pass

@pytest.mark.torchexport('trace', mode='train')
class TestClass:
    def test_from_the_class(self, x): Net()(x)

    @pytest.mark.torchexport('liar', xfail={})
    def test_from_the_method(self, x): Net()(x)
"""


def test_a_marked_test_becomes_an_item_per_target_with_the_users_parameters_after(suite, run):
    suite(COLLECTED)
    result = run("--collect-only", "-q")
    assert ids(result) == [
        "test_it.py::test_net[trace-cpu-1]",
        "test_it.py::test_net[trace-cpu-2]",
        "test_it.py::test_net[onnx-cpu-1]",
        "test_it.py::test_net[onnx-cpu-2]",
        "test_it.py::test_default[trace-cpu]",
        "test_it.py::test_default[script-cpu]",
        "test_it.py::test_default[export-cpu]",
        "test_it.py::test_default[onnx-cpu]",
        "test_it.py::test_plain",
        "test_it.py::TestClass::test_from_the_class[trace-cpu]",
        "test_it.py::TestClass::test_from_the_method[liar-cpu]",
    ]
    assert result.ret == 0


NOTHING = """
@pytest.mark.torchexport('mirror')
def test_own(): pass

@pytest.mark.torchexport('mirror')
class TestClass:
    def test_inherited(self): pass

@pytest.mark.torchexport('mirror')
def test_own_that_exports(x): torch.jit.trace(Net(), x, check_trace=False)
"""


def test_a_body_without_calls_fails_with_its_own_marker_and_passes_with_an_inherited_one(
    suite, run
):
    suite(NOTHING)
    result = run()
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines(
        ["*the test's body calls no torch.nn.Module: there is nothing to export*"]
    )
    result.stdout.no_fnmatch_line("*run.py*")
    strict = run("--torchexport-strict", "-k", "inherited")
    strict.assert_outcomes(failed=1)
    strict.stdout.fnmatch_lines(["*Ineffective*"])


def test_a_device_that_is_not_there_is_skipped_with_its_reason_and_red_under_strict(suite, run):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here, so none is missing")
    suite(
        "@pytest.mark.torchexport('mirror')\ndef test_net(x): Net()(x)\n",
        torchexport_devices="cuda",
    )
    result = run("-rs", "-v")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ["*test_net[[]mirror-cuda] SKIPPED*", "*device 'cuda': torch.cuda.is_available() is false*"]
    )
    strict = run("--torchexport-strict")
    strict.assert_outcomes(failed=1)
    strict.stdout.fnmatch_lines(["*Ineffective*", "*torch.cuda.is_available() is false*"])


REFUSALS = """
@pytest.mark.torchexport('refuser')
def test_named(x): Net()(x)

@pytest.mark.torchexport('picky')
def test_picky(x): Net()(x)

class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.part = nn.Linear(3, 2)
        self.part(torch.ones(1, 3))  # as where a constructor calls its own backbone
    def forward(self, x):
        return eval('self.part(x)')

@pytest.mark.torchexport
def test_unnamed(): Odd()(torch.ones(2, 3))

class Asks(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            x = x * 2
        return x

@pytest.mark.torchexport
def test_asks(): Asks()(torch.ones(2, 3))
"""


def test_a_named_target_that_refuses_is_red_and_an_unnamed_one_is_no_pass(suite, run):
    suite(REFUSALS)
    result = run("-rs", "-k", "test_named or picky or unnamed and script or asks and export-")
    result.assert_outcomes(failed=1, skipped=3)
    result.stdout.fnmatch_lines(
        [
            "  subject  Net on refuser-cpu: the exporter refused the module",
            "*reason   ValueError: no such operator: frobnicate",
            "SKIPPED*not applicable: only for functions*",
            "SKIPPED*1 of 2 not judged: Odd: script refused the module: *eval*",
            "SKIPPED*: export refused the module: an if asks x.sum() > 0, *(test_it.py:*); torch.cond(*",
        ]
    )
    skips = [line for line in result.stdout.lines if line.startswith("SKIPPED")]
    assert max(map(len, skips)) < 350


BROKEN = """
class Grown(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("cache", torch.zeros(0, 3))
    def forward(self, x):
        self.cache = torch.cat([self.cache, x])
        return self.cache.sum(0)

@pytest.mark.torchexport
def test_grown(): Grown()(torch.ones(2, 3))
"""


def test_an_artifact_that_raises_on_the_example_is_a_skip_and_red_under_strict(suite, run):
    suite(BROKEN)
    run("-k", "export-").assert_outcomes(skipped=1)
    result = run("-k", "export-", "--torchexport-strict")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["ArtifactRaised: *", "  remedy   *"])


ASKED = """
@pytest.mark.torchexport(export_options={'onnx': {'opset_version': 99}, 'trace': {'new': True}})
def test_asked(): nn.ReLU()(torch.ones(2, 3))
"""


def test_what_is_asked_of_an_unnamed_target_is_red_if_it_is_not_done(suite, run, monkeypatch):
    pytest.importorskip("onnxscript")
    suite(ASKED, fakes=False)
    run().assert_outcomes(errors=1)
    monkeypatch.setitem(names.EXPORT_OPTIONS, "trace", ("new",))  # as in another torch
    result = run("-k", "onnx or trace")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines_random(
        [
            "*NotAsAsked: opset_version=99 was asked for; the exporter wrote *",
            "*TypeError: trace() got an unexpected keyword argument 'new'",
        ]
    )


XFAIL = """
from pytest_torchexport import OutputsDiffer, ExportRefused, ArtifactRaised

@pytest.mark.torchexport('liar', 'mirror', xfail={'liar': (OutputsDiffer, 'issue 7')})
def test_expected(x): Net()(x)

@pytest.mark.torchexport('liar', xfail={'liar-cpu': OutputsDiffer})
def test_expected_on_this_device(x): Net()(x)

@pytest.mark.torchexport('refuser', xfail={'refuser-cuda': ExportRefused})
def test_expected_elsewhere(x): Net()(x)

@pytest.mark.torchexport('refuser', xfail={'refuser': ArtifactRaised})
def test_another_class(x): Net()(x)

@pytest.mark.torchexport('mirror', xfail={'mirror': OutputsDiffer})
def test_mended(x): Net()(x)
"""


def test_an_xfail_masks_exactly_one_class_and_is_strict(suite, run):
    suite(XFAIL)
    result = run("-rxXf", "-v")
    result.assert_outcomes(passed=1, failed=3, xfailed=2)
    result.stdout.fnmatch_lines(
        [
            "*test_expected[[]liar-cpu] XFAIL (issue 7)*",
            "*test_expected[[]mirror-cpu] PASSED*",
            "*test_expected_on_this_device[[]liar-cpu] XFAIL*",
            "*test_expected_elsewhere[[]refuser-cpu] FAILED*",
            "*test_another_class[[]refuser-cpu] FAILED*",
            "*test_mended[[]mirror-cpu] FAILED*",
            "*[[]XPASS(strict)]*",
        ]
    )


UNITTEST = """
import unittest

class TestNets(unittest.TestCase):
    @pytest.mark.torchexport('mirror', 'refuser', 'raiser')
    def test_marked(self):
        Net()(torch.linspace(-1, 1, 6).reshape(2, 3))

    @pytest.mark.torchexport('picky', 'mirror')
    def test_one_is_not_judged(self):
        Net()(torch.zeros(2, 3))

    @pytest.mark.torchexport('picky')
    def test_none_is_judged(self):
        Net()(torch.zeros(2, 3))

    @pytest.mark.torchexport('mirror')
    def test_body_fails(self):
        self.assertEqual(Net()(torch.zeros(2, 3)).shape, (7, 7))

    @pytest.mark.torchexport('mirror')
    def test_calls_nothing(self):
        pass

    def test_plain(self):
        Net()(torch.zeros(2, 3))

class TestAwaited(unittest.IsolatedAsyncioTestCase):
    @pytest.mark.torchexport('mirror')
    async def test_marked(self):
        Net()(torch.zeros(2, 3))
"""


def test_unittest_methods_run_all_targets_after_the_body(suite, run, text_of):
    suite(UNITTEST)
    result = run("-v")
    result.assert_outcomes(passed=3, failed=3, skipped=1)
    text = text_of(result)
    assert "skip: test_it.py::TestNets::test_none_is_judged (and 1 more): not applicable" in text
    assert "ExportRefused: " in text
    assert "ArtifactRaised: " in text
    assert "too many rows" in text
    assert "AssertionError: torch.Size([2, 2]) != (7, 7)" in text
    assert "the test's body calls no torch.nn.Module" in text
    for frame in ("run.py", "fixture.py", "engine.py"):
        assert frame not in text
    row = next(
        line for line in result.outlines if "TestNets::test_marked " in line and "ok" in line
    )
    assert row.split()[1:] == ["ok", "FAILED", "FAILED"]


def test_a_marker_inside_pytest_param_is_a_usage_error(suite, run, text_of):
    suite(
        "@pytest.mark.parametrize('n', [1, pytest.param(2, marks=pytest.mark.torchexport)])\n"
        "def test_net(n): Net()(torch.randn(n, 3))\n"
    )
    result = run()
    assert result.ret == 4
    text = text_of(result)
    assert "test_it.py::test_net[2]: a torchexport marker inside pytest.param" in text
    assert "Traceback" not in text


def test_a_wrong_marker_stops_collection_with_a_message_and_no_frames(suite, run, text_of):
    suite(
        "@pytest.mark.torchexport('onx')\ndef test_one(x): Net()(x)\n"
        "@pytest.mark.torchexport('mirror')\ndef test_fine(x): Net()(x)\n"
    )
    result = run()
    assert result.ret == 2
    text = text_of(result)
    assert "test_one: @pytest.mark.torchexport: targets: 'onx' is not a target" in text
    assert "Did you mean 'onnx'?" in text
    for frame in ("items.py", "run.py", "plugin/__init__.py", "Traceback"):
        assert frame not in text


ENCODES = """
class Auto(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return self.linear(x)

    def encode(self, x):
        return self.linear(x)

@pytest.mark.torchexport('mirror')
def test_forward(): Auto().forward(torch.randn(2, 3))

@pytest.mark.torchexport('mirror')
def test_encode(): Auto().encode(torch.randn(2, 3))
"""


def test_a_forward_is_to_be_called_by_its_module_and_a_method_to_be_given_to_the_fixture(
    suite, run
):
    suite(ENCODES)
    result = run()
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(
        [
            "*net(x) instead of net.forward(x)*",
            "warn: *only Linear was checked, which Auto.encode, test_it.py:*, calls: that method itself was not. Request *: torchexport.check(net.encode, ...)",
        ]
    )
