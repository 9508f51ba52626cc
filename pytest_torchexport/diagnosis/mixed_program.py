"""Run an ExportedProgram in which the values of its first nodes come from another run.

With none of them, it does what torch does; with all, what the other run did. In between lies the
node that brings in the difference: with the values before it the program still agrees with eager,
and with its own it does not.

The values are laid out in memory as torch's own: its kernels add up in another order if an operand
has other strides, and a node behind it would seem to be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.outcomes.compare import Tolerance, compare_values
from pytest_torchexport.outcomes.observe import differ

# Two runs of one operator on the same values are this close.
CLOSE = 1e-4, 1e-6


class MixedProgram:
    """An ExportedProgram as an artifact.

    ``taken``: how many of ``nodes`` have the other run's value. ``left_out``: nodes that return one
    of their inputs, by name. ``watched``: the node whose value the last call left in ``seen``.
    """

    native_loops = False

    def __init__(self, program: torch.export.ExportedProgram, values: Mapping[str, Any]) -> None:
        """Take the values by the names of the program's nodes; other names are not used."""
        self.module = program.module(check_guards=False)
        self.values = {
            node.name: _in_torchs_form(node, values[node.name])
            for node in self.module.graph.nodes
            if node.op == "call_function" and node.name in values and _is_one_value(node)
        }
        self.taken = 0
        self._strides: dict[str, tuple[int, ...]] = {}
        self.left_out: Mapping[str, fx.Node | torch.Tensor] = {}
        self.watched: fx.Node | None = None
        self.seen: Any = None
        # In a run with all values: the first node of which torch makes another one of theirs.
        self.suspect: fx.Node | None = None

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes of which there is a value, in the program's order."""
        return [node for node in self.module.graph.nodes if node.name in self.values]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return _Interpreter(self).run(*Call(args, kwargs).leaves())

    def taken_value(self, node: fx.Node) -> Any:
        """Return the other run's value of a node, with the strides of torch's."""
        value, strides = self.values[node.name], self._strides.get(node.name)
        return value if strides is None else with_strides(value, strides)

    def computed(self, node: fx.Node, value: Any) -> None:
        """Note how torch lays out its own value of a node."""
        if not self.taken and node.name in self.values and isinstance(value, torch.Tensor):
            self._strides[node.name] = value.stride()

    def first_wrong(self, is_right: Callable[[], bool]) -> fx.Node | None:
        """Return the node with whose value the program becomes wrong, and is right without it.

        ``is_right`` runs this artifact. None if it is right with all values, or wrong with none.
        """
        nodes = self.nodes
        right, self.taken = 0, 0
        if not nodes or not is_right():
            return None
        self.taken = len(nodes)
        if is_right():
            return None
        wrong = len(nodes)
        suspect = nodes.index(self.suspect) if self.suspect is not None else 0
        likely = [suspect, suspect + 1]  # right before it, and wrong with it
        while wrong - right > 1:
            tried = next((taken for taken in likely if right < taken < wrong), None)
            self.taken = (right + wrong) // 2 if tried is None else tried
            if is_right():
                right = self.taken
            else:
                wrong = self.taken
        return nodes[wrong - 1]

    def left_out_before(self, node: fx.Node, run: Callable[[], object]) -> fx.Node | None:
        """Return the node that the other run left out, if its value at ``node`` shows that.

        Its value is then what the program computes if that node returns its own input. Only nodes
        of which there is no value, and that lead to ``node``, may be left out.
        """
        for missing in self._missing_before(node):
            for given in missing.all_input_nodes:
                self.left_out = {missing.name: given}
                if is_close(self.right_value(node, run), self.values[node.name]):
                    return missing
        self.left_out = {}
        return None

    def given_by(
        self, node: fx.Node, run: Callable[[], object], parts: Mapping[str, Any]
    ) -> fx.Node | None:
        """Return the node of which the other run has another value, if its value at ``node`` shows.

        ``parts``: values of nodes, by name, that are known under no name of theirs: what the other
        run computes last for such a node.
        """
        for missing in self._missing_before(node):
            part = parts.get(missing.name)
            known = missing.meta.get("val")
            if part is None or not isinstance(known, torch.Tensor) or part.dim() != known.dim():
                continue
            self.left_out = {missing.name: part}
            if is_close(self.right_value(node, run), self.values[node.name]):
                return missing
        self.left_out = {}
        return None

    def missing_output(self) -> fx.Node | None:
        """Return the only node that the program returns and the other run does not have.

        If all values are right, this one was left out at the very end.
        """
        (end,) = (node for node in self.module.graph.nodes if node.op == "output")
        missing = [
            node
            for node in end.all_input_nodes
            if node.op == "call_function" and node.name not in self.values
        ]
        return missing[0] if len(missing) == 1 else None

    def right_value(self, node: fx.Node, run: Callable[[], object]) -> Any:
        """Return what the program computes at a node from the other run's values before it."""
        self.watched, self.taken, self.seen = node, list(self.nodes).index(node), None
        run()
        return self.seen

    def _missing_before(self, node: fx.Node) -> list[fx.Node]:
        found: dict[fx.Node, None] = {}
        waiting = list(node.all_input_nodes)
        while waiting:
            one = waiting.pop()
            if one.op == "call_function" and one.name not in self.values and one not in found:
                found[one] = None
                waiting += one.all_input_nodes
        return list(found)


class _Interpreter(fx.Interpreter):
    def __init__(self, mixed: MixedProgram) -> None:
        super().__init__(mixed.module)
        self._mixed = mixed
        self._taken = {node.name for node in mixed.nodes[: mixed.taken]}

    def run_node(self, node: fx.Node) -> Any:
        mixed = self._mixed
        if node.name in mixed.left_out:
            given = mixed.left_out[node.name]
            value = self.env[given] if isinstance(given, fx.Node) else given
        elif node.name in self._taken:
            value = mixed.taken_value(node)
            if mixed.suspect is None and len(self._taken) == len(mixed.nodes):
                self._compare(node, value)
        else:
            value = super().run_node(node)
            mixed.computed(node, value)
        if node is mixed.watched:
            mixed.seen = value
        return value

    def _compare(self, node: fx.Node, value: Any) -> None:
        """Note a node of whose operands, which are the other run's, torch makes another value."""
        try:
            own = super().run_node(node)
        except Exception:  # an operand that torch does not take
            return
        if isinstance(own, torch.Tensor) and not is_close(own, value):
            self._mixed.suspect = node


def is_close(one: Any, other: Any) -> bool:
    """Return True if two values may be the same operator's on the same inputs."""
    tensors = isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor)
    return tensors and not compare_values(one, other, Tolerance(*CLOSE))


def with_strides(value: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor's numbers in memory with these strides, if that can hold them.

    Dims along which a number is repeated in memory must have equal numbers.
    """
    if value.dim() != len(strides) or value.stride() == strides:
        return value
    once = value
    for dim, stride in enumerate(strides):
        once = once.narrow(dim, 0, 1) if not stride and value.shape[dim] > 1 else once
    laid = torch.empty_strided(once.shape, strides, dtype=value.dtype, device=value.device)
    laid = laid.copy_(once).expand(value.shape)
    return value if differ(laid, value) else laid


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
