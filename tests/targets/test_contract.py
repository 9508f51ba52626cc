"""The contract that every target passes, whatever it exports to."""

from __future__ import annotations

import copy
import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_torchexport import check_export, targets
from pytest_torchexport.config import names
from pytest_torchexport.config.options import Options
from pytest_torchexport.inputs.spec import Call, InputSpec, build_spec
from pytest_torchexport.outcomes.observe import Returned, observe
from pytest_torchexport.outcomes.torch_state import quiet
from pytest_torchexport.targets.base import NotApplicable

DEVICES = ["cpu", "cuda"]


class Affine(torch.nn.Module):
    """The healthiest module there is, with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 3)
        self.register_buffer("shift", torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.shift


@pytest.fixture(params=names.targets())
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, name: str) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch.cuda.is_available() is false here")
    reason = targets.get(name).unavailable(request.param)
    if reason:
        pytest.skip(reason)
    return request.param


def spec_of(module: torch.nn.Module, *calls: Call) -> InputSpec:
    return build_spec(inspect.signature(module.forward), calls, Options(), {})


def exported(name: str, module: torch.nn.Module, device: str) -> Any:
    example = Call((torch.randn(2, 4),))
    spec = spec_of(module, example)
    with quiet("cpu"), torch.no_grad():
        return targets.get(name).export(
            copy.deepcopy(module).to(device).eval(), example.to(device), spec
        )


def test_the_artifact_agrees_with_eager_on_another_batch(name: str, device: str) -> None:
    module = Affine().eval()
    artifact = exported(name, module, device)
    call = Call((torch.randn(5, 4),))
    outcome = observe(artifact, call.to(device), seed=0)
    assert isinstance(outcome, Returned), outcome
    assert outcome.value.device.type == device
    torch.testing.assert_close(outcome.value.cpu(), module(*call.args).detach())


def test_calling_twice_gives_the_same_and_leaves_the_inputs(name: str, device: str) -> None:
    artifact = exported(name, Affine(), device)
    x = torch.randn(3, 4, device=device)
    before = x.clone()
    with torch.no_grad():
        first, second = artifact(x), artifact(x)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert torch.equal(x, before)


def test_exporting_does_not_change_the_module(name: str, device: str) -> None:
    module = Affine().to(device).train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    example = Call((torch.randn(2, 4, device=device),))
    with quiet("cpu"), torch.no_grad():
        targets.get(name).export(module, example, spec_of(module, example.to("cpu")))
    assert module.training
    assert not module._forward_hooks
    assert all(parameter.requires_grad for parameter in module.parameters())
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_what_is_saved_loads_and_returns_the_same(name: str, device: str, tmp_path: Path) -> None:
    artifact = exported(name, Affine(), device)
    call = Call((torch.randn(3, 4),)).to(device)
    path = artifact.save(tmp_path)
    assert path.parent == tmp_path
    loaded = targets.get(name).load(path, device)
    packed = artifact.pack_inputs(call)
    with torch.no_grad():
        again = artifact.unpack_outputs(loaded(*packed.args, **packed.kwargs))
        torch.testing.assert_close(again, artifact(*call.args), rtol=0, atol=0)


def test_the_artifact_says_what_it_is(name: str, device: str) -> None:
    artifact = exported(name, Affine(), device)
    assert artifact.program is not None
    assert artifact.baked == ()
    assert artifact.native_loops is False


def test_an_unavailable_device_has_a_reason(name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is available here, so nothing is unavailable")
    verdict = check_export(Affine(), (torch.randn(2, 4),), target=name, device="cuda")
    assert verdict.status == "skipped"
    assert "cuda" in verdict.reason


def test_a_script_module_is_not_applicable_or_exported(name: str) -> None:
    if reason := targets.get(name).unavailable("cpu"):
        pytest.skip(reason)
    scripted = torch.jit.script(Affine().eval())
    verdict = check_export(scripted, (torch.randn(2, 4),), target=name, max_examples=5)
    if name in ("export", "onnx"):
        assert verdict.status == "skipped"
        assert verdict.reason.startswith("not applicable")
    else:
        assert verdict.status == "passed", verdict


class Recurrent(torch.nn.Module):
    """Where the order of exporters used to matter: a time axis that torch.onnx.export can freeze."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lstm = torch.nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x)[0]


EXPECTED = {"trace": None, "script": None, "export": "ExportRefused", "onnx": None}


@pytest.mark.parametrize("order", list(itertools.permutations(EXPECTED)), ids="-".join)
def test_the_order_of_targets_never_changes_a_verdict(order: tuple[str, ...]) -> None:
    for name in order:
        verdict = check_export(
            Recurrent(),
            (torch.randn(2, 5, 4),),
            target=name,
            shapes={"x": "batch time 4"},
            checks=("parity",),
            max_examples=3,
        )
        assert verdict.failure == EXPECTED[name], (order, name, verdict.reason)


def test_the_dispatch_cache_that_order_leaks_through_still_exists() -> None:
    """Fails loudly when torch renames the private cache that ``forget_earlier_exports`` clears."""
    assert hasattr(torch.ops.aten.lstm.input, "_dispatch_cache")
    assert hasattr(torch.ops.aten.gru.input, "_dispatch_cache")


def test_the_type_store_of_torchscript_still_exists() -> None:
    """Fails loudly when torch renames the private cache that a failed compilation stays in."""
    assert isinstance(torch.jit._recursive.concrete_type_store.type_store, dict)


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


def test_not_applicable_holds_its_reason() -> None:
    assert NotApplicable("because").reason == "because"
