"""Forwards and artifacts that misbehave: the run goes on, and the user's process is as it was."""

from __future__ import annotations

from slow import slow

from pytest_torchexport import targets
from pytest_torchexport.config import names


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
