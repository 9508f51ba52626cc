"""ExecuTorch, by way of the program of the target ``export``."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from pytest_torchexport import targets
from pytest_torchexport.targets import Call, DirectArtifact, MadeOf, NotApplicable, TargetTraits


@dataclass(frozen=True, kw_only=True)
class Artifact(DirectArtifact):
    content: bytes
    captured: Any

    def __call__(self, *args, **kwargs):
        return self.unpack_outputs(self.run(*self.pack_inputs(Call(args, kwargs)).args))

    def fresh(self):
        return replace(self, run=opened(self.content))

    def pack_inputs(self, call):
        return Call(tuple(pytree.tree_leaves((call.args, dict(call.kwargs)))))

    def unpack_outputs(self, value):
        spec = self.captured.call_spec.out_spec  # before it: inputs that were changed
        return pytree.tree_unflatten(value[len(value) - spec.num_leaves :], spec)

    def made_of(self):
        program = self.captured.module()
        return MadeOf("Export", program, "capture"), MadeOf("ExecuTorch", self, "runtime")


class ExecuTorch:
    traits = TargetTraits(specializes_0_1=True, fixes_layouts=True, flat=True, rtol=1e-5)

    def unavailable(self, device):
        there = importlib.util.find_spec("executorch") is not None and device == "cpu"
        return None if there else "pip install executorch"

    def export(self, module, example, spec, **options):
        from executorch.backends.xnnpack.partition import xnnpack_partitioner
        from executorch.exir import to_edge_transform_and_lower as lower

        made = targets.get("export").export(module, example, spec, **options)
        if isinstance(made, NotApplicable):
            return made
        edge = lower(made.program, partitioner=[xnnpack_partitioner.XnnpackPartitioner()])
        content = edge.to_executorch().buffer
        return Artifact(
            program=edge,
            module=None,
            run=opened(content),
            write=lambda path: path.write_bytes(content),
            filename="model.pte",
            facts=made.facts,
            content=content,
            captured=made.program,
        )

    def load(self, path, _device):
        return opened(path.read_bytes())


def opened(content):
    from executorch.extension.pybindings import _C

    program = _C._load_for_executorch_from_buffer(content)

    def run(*given, _held=content):  # the program does not hold what it was loaded from
        return list(program.forward([*pytree.tree_map_only(Tensor, Tensor.detach, given)]))

    return run
