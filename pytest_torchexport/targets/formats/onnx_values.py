"""Values between eager's form and that of an ONNX file: tensors by input name, and a flat list.

Apart from ``onnx_model``, which is free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import Structure, flatten
from pytest_torchexport.inputs.spec import Call
from pytest_torchexport.targets.formats.onnx_runtime import named


def packed(names: Iterable[str], values: Iterable[Any]) -> Call:
    """Return the call of an ONNX file: a value for each input name, complex ones as pairs."""
    return Call((), named(dict(zip(names, values, strict=True))))


@dataclass(frozen=True, kw_only=True)
class Output:
    """A leaf of eager's value that the graph returns.

    ``is_number`` if eager has a Python number, which is a tensor in the graph; ``is_complex`` if
    eager has a complex tensor, which is pairs of reals in the graph.
    """

    is_number: bool = False
    is_complex: bool = False

    def unpack(self, tensor: torch.Tensor) -> Any:
        """Return the tensor of the graph in eager's form."""
        if self.is_number:
            return tensor.item()
        if self.is_complex and tensor.is_floating_point() and tensor.shape[-1:] == (2,):
            return torch.view_as_complex(tensor.contiguous())
        return tensor

    def pack(self, leaf: Any) -> torch.Tensor:
        """Return a leaf of eager's in the graph's form."""
        tensor = torch.as_tensor(leaf)
        return torch.view_as_real(tensor) if self.is_complex and tensor.is_complex() else tensor


@dataclass(frozen=True, kw_only=True)
class OnnxOutputs:
    """The way from a graph's flat list to eager's pytree.

    Each of ``leaves`` is an Output, or a constant that the graph leaves out; ``rebuild`` returns
    the pytree with given leaves.
    """

    leaves: tuple[Any, ...]
    rebuild: Callable[[Sequence[Any]], Any]

    def unpack(self, tensors: Sequence[torch.Tensor]) -> Any:
        """Return eager's pytree of what the graph returned, and of the constants."""
        waiting = iter(tensors)
        return self.rebuild(
            [
                leaf.unpack(next(waiting)) if isinstance(leaf, Output) else leaf
                for leaf in self.leaves
            ]
        )

    def pack(self, value: Any) -> dict[str, torch.Tensor] | None:
        """Return by path what the graph would return for a value of eager's, in the graph's order.

        None if the value has another structure.
        """
        leaves = flatten(value, "output")[0]
        if len(leaves) != len(self.leaves):
            return None
        return {
            path: output.pack(leaf)
            for (path, leaf), output in zip(leaves, self.leaves, strict=True)
            if isinstance(output, Output)
        }


@dataclass(frozen=True, kw_only=True)
class EagerValue:
    """The value that eager returned on the example: the leaves in the order of ``structure``.

    The tensors in it are empty.
    """

    leaves: tuple[Any, ...]
    structure: Structure

    @classmethod
    def of(cls, value: Any) -> EagerValue:
        """Return that of a value."""
        leaves, structure = flatten(value)
        return cls(leaves=tuple(_emptied(leaf) for _, leaf in leaves), structure=structure)

    def outputs(self, count: int) -> OnnxOutputs:
        """Return which leaves a graph with ``count`` outputs returns; the others are constants.

        The graph returns the tensors, or the tensors and the integers, because a size among the
        outputs is a tensor in the graph. If neither are ``count``, the graph has another structure
        than eager, and its outputs are returned as they are.
        """
        for types in ((torch.Tensor,), (torch.Tensor, int)):
            if sum(isinstance(leaf, types) for leaf in self.leaves) == count:
                leaves = tuple(_output(v) if isinstance(v, types) else v for v in self.leaves)
                return OnnxOutputs(leaves=leaves, rebuild=self.structure.unflatten)
        return OnnxOutputs(leaves=(Output(),) * count, rebuild=_bare)


def _emptied(leaf: Any) -> Any:
    return torch.empty(0, dtype=leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf


def _output(example: Any) -> Output:
    if isinstance(example, torch.Tensor):
        return Output(is_complex=example.is_complex())
    return Output(is_number=True)


def _bare(leaves: Sequence[Any]) -> Any:
    return leaves[0] if len(leaves) == 1 else tuple(leaves)
