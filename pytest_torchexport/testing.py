"""For authors of targets: the tests that every target passes, and a target that exports nothing.

Import it from a test file or a conftest. It imports torch.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_torchexport.config.options import Options
from pytest_torchexport.inputs.spec import Call, InputSpec, build_spec
from pytest_torchexport.outcomes.torch_state import quiet
from pytest_torchexport.targets import (
    Artifact,
    DirectArtifact,
    NotApplicable,
    ProgramFacts,
    Target,
    TargetTraits,
)
from pytest_torchexport.torch_private.modules import hook_registers

__all__ = ["FakeTarget", "TargetContract", "export_with"]


class TargetContract:
    """The tests that every target passes; subclass it and name your target.

    ::

        class TestFrozen(TargetContract):
            @pytest.fixture
            def target(self):
                return TARGET

    Override the fixtures ``module`` and ``call`` if the target does not take a linear layer on a
    tensor of shape [batch, 4], and ``device`` to test another device than the CPU.
    """

    @pytest.fixture
    def target(self) -> Target:
        """Return the target under test."""
        raise NotImplementedError(f"{type(self).__name__} defines no fixture named 'target'")

    @pytest.fixture
    def device(self, target: Target) -> str:
        """Return the device to export on; skip the test if it is unavailable."""
        reason = target.unavailable("cpu")
        if reason is not None:
            pytest.skip(reason)
        return "cpu"

    @pytest.fixture
    def module(self) -> torch.nn.Module:
        """Return a module that any target can export, in eval mode on the CPU."""
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()

    @pytest.fixture
    def call(self) -> Callable[[int], Call]:
        """Return a call of the module at a batch size, on the CPU. The example has size 2."""
        return lambda batch: Call((torch.randn(batch, 4),))

    @pytest.fixture
    def artifact(
        self,
        target: Target,
        device: str,
        module: torch.nn.Module,
        call: Callable[[int], Call],
    ) -> Artifact:
        """Return the module, exported at batch size 2."""
        made = export_with(target, module, call(2), device)
        assert not isinstance(made, NotApplicable), made.reason
        return made

    def test_the_artifact_agrees_with_eager_at_another_batch_size(
        self,
        artifact: Artifact,
        module: torch.nn.Module,
        call: Callable[[int], Call],
        device: str,
    ) -> None:
        """A call of another batch size returns what eager does, on the target's device."""
        own = call(3)
        with torch.no_grad():
            expected = module(*own.args, **own.kwargs)
            moved = own.to(device)
            returned = artifact(*moved.args, **moved.kwargs)
        torch.testing.assert_close(returned, Call((expected,)).to(device).args[0])

    def test_calling_twice_gives_the_same_and_leaves_the_inputs(
        self, artifact: Artifact, call: Callable[[int], Call], device: str
    ) -> None:
        """A call changes neither the artifact nor its own arguments."""
        own = call(3).to(device)
        before = own.clone()
        with torch.no_grad():
            first = artifact(*own.args, **own.kwargs)
            second = artifact(*own.args, **own.kwargs)
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        for tensor, was in zip(own.tensors(), before.tensors(), strict=True):
            torch.testing.assert_close(tensor, was, rtol=0, atol=0)

    def test_exporting_does_not_change_the_module(
        self,
        target: Target,
        module: torch.nn.Module,
        call: Callable[[int], Call],
        device: str,
    ) -> None:
        """The exporter leaves mode, hooks, gradients and weights of the module as they were."""
        own = copy.deepcopy(module).to(device).train()
        before = {key: value.clone() for key, value in own.state_dict().items()}
        gradients = [parameter.requires_grad for parameter in own.parameters()]
        export_with(target, own, call(2), device, copied=False)
        assert own.training
        assert not any(hook_registers(own))
        assert [parameter.requires_grad for parameter in own.parameters()] == gradients
        for key, value in own.state_dict().items():
            torch.testing.assert_close(value, before[key], rtol=0, atol=0, msg=key)

    def test_a_saved_artifact_loads_and_returns_the_same(
        self,
        target: Target,
        artifact: Artifact,
        call: Callable[[int], Call],
        device: str,
        tmp_path: Path,
    ) -> None:
        """The loaded file takes packed inputs, and unpacked it returns what the artifact does."""
        own = call(3).to(device)
        path = artifact.save(tmp_path)
        assert path.parent == tmp_path, "save returns a path in the directory that it is given"
        packed = artifact.pack_inputs(own)
        with quiet(device):  # what torch warns of its own code is no error
            loaded = target.load(path, device)
        with torch.no_grad():
            returned = artifact.unpack_outputs(loaded(*packed.args, **packed.kwargs))
            torch.testing.assert_close(returned, artifact(*own.args, **own.kwargs), rtol=0, atol=0)

    def test_the_artifact_has_a_program_and_no_surprises(self, artifact: Artifact) -> None:
        """A healthy module has no argument that became a constant, and no loop."""
        assert artifact.program is not None
        assert isinstance(artifact.facts, ProgramFacts)
        assert artifact.module is None or isinstance(artifact.module, torch.nn.Module)
        assert artifact.baked == ()
        assert artifact.native_loops is False


def export_with(
    target: Target,
    module: Callable[..., Any],
    example: Call,
    device: str = "cpu",
    *,
    copied: bool = True,
    **options: Any,
) -> Artifact | NotApplicable:
    """Export a module as an item does, with dims declared as they are assumed for the example.

    ``options`` are the target's ``export_options``.
    """
    function = module.forward if isinstance(module, torch.nn.Module) else module
    spec = build_spec(inspect.signature(function), [example], Options(), {})
    dims = {name: dataclasses.replace(dim, declared=True) for name, dim in spec.dims.items()}
    spec = dataclasses.replace(spec, dims=dims)
    subject = copy.deepcopy(module) if copied else module
    if isinstance(subject, torch.nn.Module):
        subject = subject.to(device)
    with quiet(device), torch.no_grad():
        return target.export(subject, example.to(device), spec, **options)


class FakeTarget:
    """A target whose artifact is a function of the module: nothing is exported, saved or loaded.

    ``wrap(module, **export_options)`` returns what is called instead of an artifact, or
    NotApplicable; what it raises is a refusal. It makes a test of a check, a report or a setting as
    fast as eager.
    """

    traits = TargetTraits()

    def __init__(self, wrap: Callable[..., Any]) -> None:
        self.wrap = wrap

    def unavailable(self, device: str) -> str | None:
        """Return None: it runs wherever eager does."""
        return None

    def export(
        self, module: Callable[..., Any], example: Call, spec: InputSpec, **options: Any
    ) -> DirectArtifact | NotApplicable:
        """Return the module as ``wrap`` changes it."""
        run = self.wrap(module, **options)
        if isinstance(run, NotApplicable):
            return run
        return DirectArtifact(
            program=run,
            module=run if isinstance(run, torch.nn.Module) else None,
            run=run,
            write=lambda path: path.write_bytes(b""),
            filename="fake",
        )

    def load(self, path: Path, device: str) -> Callable[..., Any]:
        """Raise NotImplementedError: there is no file."""
        raise NotImplementedError("a fake target has no files")
