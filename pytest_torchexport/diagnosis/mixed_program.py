"""Run an ExportedProgram in which the values of its first nodes come from another run.

With none of them, it does what torch does; with all, what the other run did. In between lies the
node that brings in the difference: all that it was given still agrees with eager in effect, and what
the other run made of it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from pytest_torchexport.inputs.spec import Call


class MixedProgram:
    """An ExportedProgram as an artifact. ``taken``: how many of ``nodes`` have the other's value."""

    native_loops = False

    def __init__(self, program: torch.export.ExportedProgram, values: Mapping[str, Any]) -> None:
        """Take the values by the names of the program's nodes; those of other names are not used."""
        self.module = program.module(check_guards=False)
        self._values = {
            node.name: _in_torchs_form(node, values[node.name])
            for node in self.module.graph.nodes
            if node.op == "call_function" and node.name in values and _is_one_value(node)
        }
        self.taken = 0

    @property
    def nodes(self) -> Sequence[fx.Node]:
        """The nodes of which there is a value, in the program's order."""
        return [node for node in self.module.graph.nodes if node.name in self._values]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        taken = {node.name: self._values[node.name] for node in self.nodes[: self.taken]}
        return _Interpreter(self.module, taken).run(*Call(args, kwargs).leaves())

    def first_wrong(self, is_right: Callable[[], bool]) -> fx.Node | None:
        """Return the node with whose value the program becomes wrong, and is right without it.

        ``is_right`` runs this artifact. None if it is right with all values, or wrong with none.
        """
        nodes = self.nodes
        right, self.taken = 0, len(nodes)
        if not nodes or is_right():
            return None
        wrong = len(nodes)
        while wrong - right > 1:
            self.taken = (right + wrong) // 2
            if is_right():
                right = self.taken
            else:
                wrong = self.taken
        return nodes[wrong - 1]


class _Interpreter(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, taken: Mapping[str, Any]) -> None:
        super().__init__(module)
        self._taken = taken

    def run_node(self, node: fx.Node) -> Any:
        return self._taken[node.name] if node.name in self._taken else super().run_node(node)


def _is_one_value(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (torch.Tensor, torch.SymInt, torch.SymFloat, int))


def _in_torchs_form(node: fx.Node, value: torch.Tensor) -> Any:
    """Return a value of an ONNX graph as the program has it: complex, or a Python number."""
    known = node.meta["val"]
    if not isinstance(known, torch.Tensor):
        return value.item() if value.numel() == 1 else value
    if known.is_complex() and not value.is_complex() and value.shape[-1:] == (2,):
        return torch.view_as_complex(value.contiguous())
    return value
