"""plugin/stand_in.py: the body of a marked test runs again on the artifact."""

from __future__ import annotations

import pytest
from slow import slow
from torch import nn

from pytest_torchexport import SpecError, check_export

# Each is right in all that the checks of a module look at.
FAKES = """
from pytest_torchexport import register_target
from pytest_torchexport.testing import FakeTarget

def transposed(module):
    return lambda x: module(x).t().contiguous().t()

def far(module):
    return lambda x: module(x) + (x.max() > 100).float()

def afraid(module):
    def run(x):
        if x.max() > 100:
            raise RuntimeError("Guard failed: x.size()[0] <= 2")
        return module(x)
    return run

def rounded(module):
    return lambda x: module(x) * (1 + 1e-6)

def sized(module):
    def run(x):
        if x.shape[0] == 3 and x.max() > 100 and len(SEEN) > 1:
            raise RuntimeError("Guard failed: x.size()[0] <= 2")
        return module(x)
    return run

class Scaled(nn.Module):
    def forward(self, x, t):
        return x * t

for fake in (transposed, far, afraid, rounded, sized):
    register_target(fake.__name__, FakeTarget(fake))

SEEN = []

def inputs():
    # A larger one too, from the second run on: the checks do not know it.
    SEEN.append(1)
    return [torch.ones(2, 3)] * 4 + [torch.full((2, 3), 1000.0)] * (len(SEEN) > 1)
"""

MARK = "@pytest.mark.torchexport('{}', stand_in=True)\n"


def marked(target, body, arguments=""):
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return f"{MARK.format(target)}def test_it({arguments}):\n{lines}\n"


@pytest.fixture
def failure(suite, run, text_of):
    """Run a body on a target, and return the text of its failure."""

    def of(target, body, arguments="", *more):
        suite(FAKES + marked(target, body, arguments))
        result = run(*more)
        result.assert_outcomes(failed=1)
        return text_of(result)

    return of


@pytest.fixture
def passes(suite, run, verdicts):
    """Run a body on a target, and return the verdicts."""

    def of(target, body, arguments="", *more):
        suite(FAKES + marked(target, body, arguments))
        result = run("--torchexport-report=json:out.json", *more)
        result.assert_outcomes(passed=1)
        (found,) = verdicts().values()
        return found

    return of


def test_an_assert_that_fails_on_the_artifact_names_the_line_and_who_is_to_blame(failure):
    text = failure("transposed", "out = Net()(torch.ones(4, 3))\nassert out.is_contiguous()")
    assert "PipelineFailed: AssertionError: assert False" in text
    assert "Net on transposed-cpu: the code around the module fails on the artifact" in text
    assert "where    test_it.py:" in text
    assert "assert out.is_contiguous()" in text
    assert "Net and its artifact agree in 1 call (largest error 0)" in text
    assert "moved within the tolerance" not in text


def test_an_artifact_that_differs_in_a_call_that_was_not_checked_is_to_blame(failure):
    text = failure(
        "far",
        "net = Net()\noutputs = [net(x) for x in inputs()]\n"
        "assert outputs[-1].max() in (3.0, 3000.0)",
        "",
        "-v",
    )
    assert "PipelineFailed" in text
    assert "differs from Net" in text
    assert "moved within the tolerance" not in text
    assert "in call 5 (float32[2, 3]): output: 4 of 4 elements of float32[2, 2] differ" in text


CAUGHT = """
net = Net()
for x in inputs():
    try:
        net(x)
    except RuntimeError:
        pass
"""


@pytest.mark.parametrize("body", ["net = Net()\nfor x in inputs(): net(x)", CAUGHT])
def test_a_call_that_the_artifact_does_not_take_is_a_failure_with_the_line(failure, body):
    text = failure("afraid", body)
    assert "ArtifactRaised: RuntimeError: Guard failed: x.size()[0] <= 2" in text
    assert "where    test_it.py:" in text
    assert "net(x)\n" in text
    assert (
        "reason   RuntimeError: Guard failed: x.size()[0] <= 2; called with float32[2, 3]" in text
    )
    assert "the artifact raises where eager returns" in text
    assert "remedy   declare shapes and dims that hold for all calls of the body" in text


def test_an_assert_that_is_stricter_than_rounding_is_told(failure):
    text = failure(
        "rounded", "out = Net()(torch.ones(4, 3))\nassert float(out.sum()) == 24.0", "", "-v"
    )
    assert "the body also fails in eager if the module's outputs are moved" in text
    assert "remedy   compare with torch.testing.assert_close" in text


def test_a_long_assert_leaves_room_for_what_is_known_of_it(failure):
    body = (
        "out = Net()(torch.ones(4, 3))\nwanted = [24.0, *range(80)]\n"
        "assert [float(out.sum()), *range(0, 160, 2)] == wanted[:1] + [*range(0, 160, 2)]"
    )
    text = failure("rounded", body)
    assert "the body also fails in eager if the module's outputs are moved" in text
    assert text.count("\n") < 60
    assert "more lines\n" in failure("rounded", body, "", "-v")


def test_after_export_is_not_applied_to_what_the_body_gets(suite, run, verdicts):
    suite(
        "@pytest.mark.torchexport('export', stand_in=True, checks='round_trip', after_export=str)\n"
        "def test_it(): Net()(torch.ones(2, 3))\n"
    )
    run("--torchexport-report=json:out.json").assert_outcomes(passed=1)
    ((found,),) = verdicts().values()
    assert any("not applied to the artifact that the body gets" in line for line in found.cautions)


def test_a_body_that_needs_an_artifact_for_each_python_value_is_a_caution(passes):
    (first, second, third) = passes(
        "mirror", "net = Scaled()\nfor t in (1, 2, 3): net(torch.ones(2, 3), t)"
    )
    said = "the body needs 3 artifacts of Scaled, as each has a Python value of its own "
    assert first.cautions == second.cautions == third.cautions
    assert first.cautions == (
        f"{said}(float32[2, 3], 1; float32[2, 3], 2): give the module a tensor for what varies",
    )


@pytest.mark.parametrize("raises", ["pytest.skip('no')", "pytest.fail('no')", "1 / 0"])
def test_whatever_the_body_raises_is_a_failure(failure, raises):
    text = failure(
        "transposed", f"out = Net()(torch.ones(4, 3))\nif not out.is_contiguous(): {raises}"
    )
    assert "PipelineFailed: " in text


def test_a_body_that_cannot_run_twice_is_told_from_a_wrong_artifact(failure):
    text = failure("mirror", "(tmp_path / 'a').mkdir()\nNet()(torch.ones(4, 3))", "tmp_path")
    assert "NotRepeatable: run again without an artifact, the body raises FileExistsError" in text
    assert "remedy   a body that is run again has the fixtures of its first run" in text


@pytest.mark.parametrize("body", ["net(x)", "try: net(x)\nexcept RuntimeError: pass"])
def test_calls_of_other_sizes_in_each_run_are_those_of_a_body_that_cannot_run_twice(failure, body):
    prefix = "SEEN.append(1)\nx = torch.full((1 + len(SEEN), 3), 1000.0)\nnet = Net()\n"
    text = failure("sized", prefix + body)
    assert (
        "NotRepeatable: run again without an artifact, the body calls Net with sizes that" in text
    )
    assert "its first run did not: float32[4, 3]" in text
    assert "where    test_it.py:" in text
    assert "ArtifactRaised" not in text


PIPELINE = """
net = Net().eval()
hooked = []
net.register_forward_hook(lambda *_: hooked.append(1))
outer = nn.Sequential(net, nn.Flatten(0))
x = torch.randn(4, 3) + random.random() + numpy.random.rand()
for rows in range(1, 13):
    assert net(torch.cat([x] * rows)).shape == (4 * rows, 2)
out = net(x)
out.sum().backward()
assert net.weight.grad is not None and len(hooked) == 13
assert outer(x).shape == (8,)
assert isinstance(net, Net) and 'forward' not in vars(net)
assert list(inspect.signature(net.forward).parameters) == ['x']
with pytest.raises(RuntimeError, match='shapes cannot be multiplied'):
    net(torch.randn(4, 5))
SEEN.append(x)
assert all(torch.equal(x, each) for each in SEEN)
monkeypatch.setenv('THERE', str(len(SEEN)))
print('once')
assert capsys.readouterr().out == 'once\\n'
"""


def test_a_body_goes_on_as_with_the_module(passes):
    body = "import inspect, random, numpy\n" + PIPELINE
    of_net, of_outer = passes("mirror", body, "monkeypatch, capsys")
    note = "stand_in: 14 of 15 calls of the body ran on artifacts; in eager: eager raises (1)"
    assert note in of_net.notes
    assert note in of_outer.notes


def test_the_random_numbers_after_the_test_are_those_of_one_run(suite, run):
    suite(
        FAKES + "import random\n"
        "def test_before(): torch.manual_seed(1), random.seed(1)\n"
        + marked("mirror", "SEEN.append(Net()(torch.randn(4, 3)))")
        + "def test_after():\n"
        "    assert len(SEEN) == 2\n"
        "    torch.manual_seed(1), torch.randn(4, 3)\n"
        "    expected = torch.rand(())\n"
        "def test_next():\n"
        "    torch.manual_seed(2)\n"
    )
    run().assert_outcomes(passed=4)


TRAINED = """
net = nn.Sequential(Net(), nn.Dropout({p}))
for _ in range(2):
    net(torch.ones(4, 3)).sum().backward()
assert net.training
"""


def test_calls_in_training_mode_run_in_eager_if_that_makes_a_difference(passes):
    (verdict,) = passes("mirror", TRAINED.format(p=0.5))
    line = "stand_in: 0 of 2 calls of the body ran on artifacts; in eager: training mode (2)"
    assert verdict.ineffective == (line,)
    (verdict,) = passes("mirror", TRAINED.format(p=0.0))
    assert "stand_in: 2 of 2 calls of the body ran on artifacts" in verdict.notes


CHANGED = """
import copy
net, x = nn.BatchNorm1d(3).eval(), torch.ones(4, 3)
once = net(x)
with torch.no_grad():
    net.weight.mul_(2)
assert torch.allclose(net(x), 2 * once)
other = copy.deepcopy(net)
other.load_state_dict({name: 0 * value for name, value in net.state_dict().items()})
assert not other(x).any()
other.weight.data.fill_(1)
other.eps = 1.0
assert torch.allclose(other(x), x)
assert torch.allclose(net(x), 2 * once)
net.train()
net.momentum = 0.0
for _ in range(2):
    net(x).sum().backward()
    net.weight.data -= net.weight.grad
net.eval()
assert net(x).shape == x.shape
"""


def test_a_module_that_the_body_changes_is_exported_again(passes):
    for verdict in passes("mirror", CHANGED):
        note = "stand_in: 6 of 8 calls of the body ran on artifacts; in eager: "
        assert f"{note}changed in training (2)" in verdict.notes


def test_a_module_that_is_put_into_another_type_is_another_one(passes):
    body = """
net, x = nn.Linear(3, 2).half(), torch.ones(4, 3)
assert net(x.half()).dtype == torch.half
assert net.float()(x).dtype == torch.float
"""
    assert len(passes("mirror", body)) == 2


def test_a_body_that_no_artifact_serves_fails_under_strict(failure):
    text = failure("mirror", TRAINED.format(p=0.5), "", "--torchexport-strict")
    assert "Ineffective: stand_in: 0 of 2 calls of the body ran on artifacts" in text


def test_calls_of_other_modules_and_structures_run_in_eager(passes):
    body = """
SEEN.append(1)
net = Net()
net(torch.ones(4, 3))
if len(SEEN) > 1:
    net(torch.ones(4, 4, 3))
    nn.Linear(3, 2)(torch.ones(4, 3))
"""
    (verdict,) = passes("mirror", body)
    eager = "in eager: another structure (1), another module (1)"
    assert f"stand_in: 1 of 3 calls of the body ran on artifacts; {eager}" in verdict.notes


def test_a_target_that_refuses_the_module_is_judged_as_without(suite, run, text_of):
    suite(FAKES + marked("refuser", "SEEN.append(Net()(torch.ones(4, 3)))\nassert len(SEEN) == 1"))
    result = run()
    result.assert_outcomes(failed=1)
    assert "ExportRefused" in text_of(result)


def test_an_artifact_in_a_process_of_its_own_is_no_stand_in(passes):
    (verdict,) = passes(
        "trace", "assert Net()(torch.ones(4, 3)).shape == (4, 2)", "", "--torchexport-isolate"
    )
    (line,) = verdict.ineffective
    assert "stand_in: the body was not run on the artifact" in line


PIPELINES = """
from torch.nn.functional import conv2d, interpolate, pad

def resized(x, size, **how):
    return interpolate(x, size, mode='bilinear', antialias=how.get('antialias', True))

def scores(x):
    weight = torch.linspace(-0.2, 0.3, 5 * 3 * 9).reshape(5, 3, 3, 3)
    return conv2d(x - 0.5, weight).flatten(2).mean(-1)

def counted(x, mask):
    return (scores(x) * mask).sum(-1) / mask.sum(-1)

MASK = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0])
# What the code does, and what it does while it is exported.
BUGS = {
    'stretched for letterboxed': (
        lambda x: scores(pad(x, (0, 0, 4, 4), value=0.5)), lambda x: scores(resized(x, (16, 16)))
    ),
    'antialias': (
        lambda x: scores(resized(x, (5, 9))), lambda x: scores(resized(x, (5, 9), antialias=False))
    ),
    'wrapper': (lambda x: scores(x), lambda x: scores(x).relu()),
    'sigmoid': (lambda x: scores(x), lambda x: scores(x).sigmoid()),
    'normalized twice': (lambda x: scores(x), lambda x: scores(x - 0.5)),
    'never normalized': (lambda x: scores(x), lambda x: scores(x + 0.5)),
    'padding flag': (lambda x: counted(x, MASK), lambda x: counted(x, torch.ones(5))),
    'padded, then resized': (
        lambda x: scores(pad(resized(x, (4, 8)), (0, 0, 2, 2))),
        lambda x: scores(resized(pad(x, (0, 0, 4, 4)), (8, 8))),
    ),
    'another default': (
        lambda x: scores(x) * (scores(x) > -9), lambda x: scores(x) * (scores(x) > 9)
    ),
    'channels': (lambda x: scores(x), lambda x: scores(x.flip(1))),
    'dtype': (lambda x: scores(x), lambda x: scores(x.half().float())),
    'strides': (lambda x: scores(x), lambda x: scores(x.transpose(2, 3).reshape(x.shape))),
}

class Pipeline(nn.Module):
    def __init__(self, bug, wrong):
        super().__init__()
        self.bug, self.wrong = bug, wrong

    def forward(self, x):
        return BUGS[self.bug][self.wrong and torch.jit.is_tracing()](x)

@pytest.mark.parametrize('wrong', [False, True])
@pytest.mark.parametrize('bug', BUGS)
@pytest.mark.torchexport('trace', stand_in=True, max_examples=1, checks=['state'])
def test_it(bug, wrong):
    x = torch.rand(2, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    right, _ = BUGS[bug]
    torch.testing.assert_close(Pipeline(bug, wrong)(x), right(x))
"""


def test_another_value_of_the_artifact_fails_the_asserts_of_the_body(suite, run, verdicts):
    """Bugs of pipelines that people met in production; no check of a module compares outputs."""
    suite(PIPELINES)
    run("--torchexport-report=json:out.json").assert_outcomes(passed=12, failed=12)
    found = {name: verdict for name, (verdict,) in verdicts().items()}
    for name, verdict in found.items():
        assert verdict.failure == ("PipelineFailed" if "-True" in name else None), name
        if verdict.failure:
            assert "the artifact differs from Pipeline in call 1" in verdict.details[0], name
        else:
            assert "stand_in: 1 of 1 calls of the body ran on artifacts" in verdict.notes, name


UNITTEST = """
import unittest

class TestNets(unittest.TestCase):
    @pytest.mark.torchexport('mirror', 'transposed', stand_in=True)
    def test_marked(self):
        SEEN.append(1)
        self.assertTrue(Net()(torch.ones(4, 3)).is_contiguous())

class TestAwaited(unittest.IsolatedAsyncioTestCase):
    @pytest.mark.torchexport('mirror', 'transposed', stand_in=True)
    async def test_awaited(self):
        self.assertTrue(Net()(torch.ones(4, 3)).is_contiguous())

class TestCount(unittest.TestCase):
    def test_runs(self):
        self.assertEqual(len(SEEN), 5)  # the first, two on artifacts, two after the failure
"""


def test_unittest_methods_run_again_for_each_target(suite, run, verdicts):
    suite(FAKES + UNITTEST)
    run("--torchexport-report=json:out.json").assert_outcomes(passed=1, failed=2)
    for found in verdicts().values():
        assert [each.failure for each in found] == [None, "PipelineFailed"]


STOPPED = """
SEEN.append(NET(torch.ones(4, 3)))
if len(SEEN) == 2:
    {}
"""


@pytest.mark.parametrize("raises", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_what_ends_the_run_passes_and_the_module_is_as_it_was(suite, run, raises):
    suite(
        FAKES
        + "NET = Net()\nimport builtins\nbuiltins.NET_OF_TEST = NET\n"
        + marked("mirror", STOPPED.format(raises))
    )
    result = run(no_reraise_ctrlc=True)
    assert result.ret == 2
    import builtins

    assert "forward" not in vars(builtins.NET_OF_TEST)
    del builtins.NET_OF_TEST
    assert nn.Module.__call__.__module__ == "torch.nn.modules.module"


@slow
def test_items_of_workers_run_again(suite, run_apart):
    suite(
        FAKES
        + "@pytest.mark.parametrize('rows', [2, 3])\n"
        + marked("mirror", "assert Net()(torch.ones(rows, 3)).is_contiguous()", "rows")
        + marked("transposed", "assert Net()(torch.ones(4, 3)).is_contiguous()").replace(
            "_it(", "_fails("
        )
    )
    run_apart("-n", "2").assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        (True, "the body of a test that requests the fixture is not recorded"),
        (1, "1 is not True or False"),
    ],
)
def test_where_the_argument_has_no_meaning_is_said(suite, run, text_of, marker, said):
    suite(FAKES + marked("mirror", "pass", "torchexport").replace("True", str(marker)))
    result = run()
    assert result.ret == 2
    assert f"@pytest.mark.torchexport: stand_in: {said}" in text_of(result)


def test_a_check_of_its_own_has_no_body_to_run():
    with pytest.raises(SpecError, match="stand_in: runs the body of a test again"):
        check_export(nn.Identity(), target="trace", stand_in=True)
