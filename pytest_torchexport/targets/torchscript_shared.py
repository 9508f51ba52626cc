"""Code that the exporters of TorchScript share: ``trace``, ``script`` and ``onnx_legacy``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import Structure, describe
from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.outcomes.subject import as_module
from pytest_torchexport.targets.formats import torchscript

# torch.jit.trace runs forward in Python.
TRACING = {"torch.jit.is_tracing": True, "torch._C._get_tracing_state": True}
# A minimal case: try: x.view(7) except RuntimeError: ... (seen with torch 2.13: SIGSEGV).
CRASHES_ON_CAUGHT_ERRORS = (
    "forward catches what an operation raises on the example, and torch.jit.trace does not survive "
    "that: tried in a process of its own, it was killed. Ask beforehand whether it would raise, or "
    "give an example on which nothing does"
)


class FlatModule(torch.nn.Module):
    """A subject as a function of its tensors alone, in the order of the call's leaves.

    Arguments that ``trace`` refuses (numbers, None, unknown containers) become constants.
    """

    def __init__(
        self, inner: torch.nn.Module, structure: Structure, leaves: tuple[Any, ...]
    ) -> None:
        super().__init__()
        self.owner = inner
        self.training = inner.training
        self._structure = structure
        # A placeholder keeps each tensor's place without holding the example's memory.
        self._leaves = tuple(
            torch.empty(0) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves
        )

    @classmethod
    def of(cls, subject: Callable[..., Any], example: Call) -> FlatModule:
        """Return the module for a subject with the example's constants."""
        leaves, structure = example.flatten()
        return cls(as_module(subject), structure, tuple(leaf for _, leaf in leaves))

    def forward(self, *tensors: torch.Tensor) -> Any:
        """Put the tensors back among the constants and call the subject."""
        waiting = iter(tensors)
        leaves = [
            next(waiting) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves
        ]
        args, kwargs = self._structure.unflatten(leaves)
        return self.owner(*args, **kwargs)


def constant_arguments(spec: InputSpec, example: Call) -> tuple[str, ...]:
    """Return the arguments that a FlatModule makes constants, each as ``path=value``."""
    return tuple(
        f"{path}={describe(leaf)}"
        for path, leaf in spec.flatten(example)
        if not isinstance(leaf, torch.Tensor)
    )


def artifact_fields(program: Any, extra_files: Mapping[str, str | bytes]) -> dict[str, Any]:
    """Return the fields of a DirectArtifact for a ScriptModule or ScriptFunction."""
    return {
        "program": program,
        "module": program if isinstance(program, torch.nn.Module) else None,
        "run": program,
        "write": lambda path: torchscript.save(program, path, extra_files),
        "filename": torchscript.FILENAME,
        "native_loops": torchscript.has_loops(program),
        "facts": torchscript.TorchScriptFacts(program=program),
    }
