"""The contract that every target passes, whatever it exports to; on CUDA: tests/gpu."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import pytest
import torch
from slow import slow
from specs import spec_of
from versions import GUARDS_REFUSED, INSTALLED, RNN_UNROLLED, truth_on

from pytest_torchexport import check_export, targets
from pytest_torchexport.config import names
from pytest_torchexport.inputs.pytrees import Call
from pytest_torchexport.outcomes.subject import copied_module
from pytest_torchexport.outcomes.torch_state import quiet
from pytest_torchexport.targets import NotApplicable
from pytest_torchexport.testing import TargetContract, export_with
from pytest_torchexport.torch_private.memory import address_of


class Affine(torch.nn.Module):
    """The healthiest module there is, with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.shift


# Compiling an artifact takes 10 s, in each process of a run.
@pytest.fixture(params=[pytest.param(n, marks=[slow] * (n == "aoti")) for n in names.targets()])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


class TestEveryTarget(TargetContract):
    @pytest.fixture
    def target(self, name: str) -> targets.Target:
        return targets.get(name)

    @pytest.fixture
    def module(self) -> torch.nn.Module:
        return Affine().eval()

    @pytest.fixture
    def artifact(self, name: str, device: str) -> targets.Artifact:
        return exported(name, device)


@functools.cache
def exported(name: str, device: str) -> targets.Artifact:
    """Return an artifact for all tests of the contract, which only call and save it."""
    made = export_with(targets.get(name), Affine().eval(), Call((torch.randn(2, 4),)), device)
    assert not isinstance(made, NotApplicable)
    return made


@pytest.mark.filterwarnings("ignore::FutureWarning")  # an item hides them
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["trace", "script", "export", "onnx"])
def test_an_export_and_its_file_leave_the_weights_in_one_memory(name: str, tmp_path: Path) -> None:
    if reason := targets.get(name).unavailable("cpu"):
        pytest.skip(reason)
    module = torch.nn.Linear(64, 64).eval()  # the ONNX exporter looks at the numbers of less
    copied, x = copied_module(module, lazily=True), torch.ones(2, 64)
    made = targets.get(name).export(copied, Call((x,)), spec_of(copied.forward, x))
    assert not isinstance(made, NotApplicable)
    made.save(tmp_path)
    assert address_of(copied.weight) == address_of(module.weight)


class Recurrent(torch.nn.Module):
    """A model for which the order of exporters used to matter: it has a time axis that torch.onnx.export can freeze."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = torch.nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


EXPECTED = truth_on(
    INSTALLED,
    {"trace": None, "script": None, "export": "ExportRefused", "onnx": None},
    {RNN_UNROLLED: {"onnx": "DimsNarrowed"}, GUARDS_REFUSED: {"onnx": "ExportRefused"}},
)


def test_exporters_that_ran_before_never_change_a_verdict() -> None:
    for name in ("onnx", "export", "onnx", "trace", "script"):
        verdict = check_export(
            Recurrent(),
            (torch.randn(2, 5, 4),),
            target=name,
            shapes={"x": "batch time 4"},
            checks=("parity",),
            max_examples=3,
            diagnose=False,
        )
        assert verdict.failure == EXPECTED[name], (name, verdict.reason)


EXPORTERS = {
    "trace": torch.jit.trace,
    "script": torch.jit.script,
    "export": torch.export.export,
    "onnx": torch.onnx.export,
    "onnx_legacy": torch.onnx.export,
    "openvino": torch.onnx.export,
    "aoti": torch.export.export,
    "executorch": torch.export.export,
}
# Options of a target's own, which no exporter has.
OWN = {
    *("precision", "compress_to_fp16", "inductor_configs", "backend"),
    *("compile_config", "transform_passes", "config"),
}
# Those of functions that save, and those that a supported torch no longer has.
NOT_THERE = {"_extra_files", "extra_files", "fallback", "package_path"}


@pytest.mark.parametrize("name", names.BUILT_IN)
def test_the_options_of_this_torch_are_those_that_are_listed(name: str) -> None:
    given, elsewhere = {*names.EXPORT_OPTIONS[name]} - OWN, {*names.SAID_ELSEWHERE[name]}
    assert not given & elsewhere
    if name == "openvino_trace":
        exporter = pytest.importorskip("openvino").convert_model
    else:
        exporter = EXPORTERS[name]
    there = {*inspect.signature(exporter).parameters}
    assert there <= given | elsewhere, "an option that config/names.py does not list"
    assert given | elsewhere <= there | NOT_THERE, "an option that this torch does not have"


class HalfMade(torch.nn.Module):
    """TorchScript cannot compile it; the second try must fail for the same reason as the first."""

    def forward(self, x, n=2):
        return x * n


def test_a_failed_compilation_fails_the_same_way_again() -> None:
    verdicts = [
        check_export(HalfMade(), (torch.randn(2, 3), 3), target="script", max_examples=3)
        for _ in range(2)
    ]
    assert [verdict.failure for verdict in verdicts] == ["ExportRefused", "ExportRefused"]
    assert verdicts[0].reason == verdicts[1].reason


@pytest.mark.parametrize(
    ("target", "option", "load"),
    [("trace", "_extra_files", torch.jit.load), ("export", "extra_files", torch.export.load)],
)
def test_extra_files_are_saved(target, option, load, tmp_path):
    labels, found = '["cat", "dog"]', {"labels.json": ""}
    options = {option: {"labels.json": labels}}
    call = Call((torch.ones(2, 4),))
    with quiet("cpu"):
        made = export_with(targets.get(target), Affine().eval(), call, **options)
        load(made.save(tmp_path), **{option: found})
    assert found["labels.json"] in (labels, labels.encode())
