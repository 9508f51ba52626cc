"""Forwards and artifacts that misbehave: the run goes on, and the user's process is as it was."""

from __future__ import annotations

from slow import slow

from pytest_torchexport import targets
from pytest_torchexport.config import names

FORWARDS = """
import random

def world():
    return (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled(),
            str(torch.get_default_device()), torch.get_rng_state().sum().item(), random.getstate())

@pytest.fixture(autouse=True)
def nothing_changes():
    before = world()
    yield
    assert world() == before

class Prints(nn.Module):
    def forward(self, x):
        print('hello from forward')
        return x + 1

@pytest.mark.torchexport('mirror', 'trace')
def test_prints(torchexport, x, capsys):
    torchexport.check(Prints(), x)
    assert 0 < capsys.readouterr().out.count('hello from forward') < 300

class Rude(nn.Module):
    def forward(self, x):
        torch.set_default_dtype(torch.float64)
        torch.set_num_threads(3)
        torch.manual_seed(3)
        random.seed(3)
        return x + 1

@pytest.mark.torchexport('mirror')
def test_rude(torchexport, x):
    verdict = torchexport.check(Rude(), x)
    assert any('default dtype' in note for note in verdict.notes)

class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer('count', torch.zeros(()))
        self.calls = 0
    def forward(self, x):
        self.count += 1
        self.calls += 1
        return x + self.count

@pytest.mark.torchexport('mirror', mode='train')
def test_state_starts_afresh_for_every_call(torchexport, x):
    net = Counts()
    torchexport.check(net, x)
    assert (net.count.item(), net.calls) == (0, 0)

"""


def test_forwards_that_misbehave_leave_no_trace(suite, run):
    suite(FORWARDS)
    result = run("-v")
    result.assert_outcomes(passed=4)


@slow
def test_a_healthy_module_passes_every_target_with_warnings_as_errors(pytester, suite, run_apart):
    # The category of torch.jit's warning differs between versions of torch: here it has each.
    pytester.makeconftest(
        "import warnings\n"
        "warn = warnings.warn\n"
        "def in_each_category(message, category=None, stacklevel=1, **kwargs):\n"
        "    others = (DeprecationWarning, FutureWarning, UserWarning)\n"
        "    for each in others if '`torch.jit.' in str(message) else (category,):\n"
        "        warn(message, each, stacklevel + 1, **kwargs)\n"
        "warnings.warn = in_each_category\n"
    )
    suite(
        "class Plain(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 4, 3, padding=1)\n"
        "        self.norm = nn.BatchNorm2d(4)\n"
        "    def forward(self, x): return self.norm(self.conv(x)).relu().mean((2, 3))\n"
        "@pytest.mark.torchexport('trace', 'script', 'export', 'onnx', 'onnx_legacy')\n"
        "def test_net():\n"
        "    torch.manual_seed(0)\n"
        "    Plain()(torch.randn(2, 3, 8, 8))\n",
        fakes=False,
    )
    result = run_apart("-W", "error", "--torchexport-max-examples=10")
    missing = [name for name in names.targets() if targets.get(name).unavailable("cpu")]
    result.assert_outcomes(passed=5 - len(missing), skipped=len(missing))
    assert result.ret == 0
