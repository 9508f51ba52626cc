"""ExecuTorch on the CPU: the program of the target ``export``, lowered into a ``.pte`` file.

Memory is planned for the largest size of each dim.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.spec import Call, InputSpec
from pytest_torchexport.results.escaped import few
from pytest_torchexport.sandbox.libraries import THREADS
from pytest_torchexport.targets.base import (
    EXPORTING,
    DirectArtifact,
    MadeOf,
    NotApplicable,
    TargetTraits,
)
from pytest_torchexport.targets.capturing import constant_arguments
from pytest_torchexport.targets.formats.exported_program import higher_order
from pytest_torchexport.torch_private import compiled
from pytest_torchexport.torch_private.structures import unflatten

FILENAME = "model.pte"
XNNPACK, PORTABLE = BACKENDS = ("xnnpack", "portable")
# What a report calls them. Also with XNNPACK, its own kernels run what that does not take.
STEPS = {PORTABLE: "ExecuTorch without XNNPACK", XNNPACK: "ExecuTorch with XNNPACK"}
FROZEN = (
    "in the program of torch.export the size is dynamic: ExecuTorch's lowering made it static "
    "(to_edge_transform_and_lower)"
)
# executorch 1.5.1, exir/passes/init_mutable_pass.py
UNINITIALIZED = (
    "ExecuTorch does not keep what {names} begins with: it is a buffer that forward changes, and "
    "starts as zeros or as what is in memory. Keep it by InitializedMutableBufferPass in config="
)
# What its log says of the processor, once in a process.
OF_THE_CPU = "[cpuinfo_utils"
SCRIPT = """\
from executorch.extension.pybindings import _C

program = _C._load_for_executorch(str(path))


def artifact(*inputs):
    \"\"\"Run the program on the leaves of a call; return its outputs in order.\"\"\"
    return list(program.forward(list(inputs)))
"""


class File:
    """A program that is loaded. Takes the leaves of a call, and returns a list.

    Its buffers are its own: ``fresh`` loads it again.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content  # which the program does not copy
        self._program = _with_reason(lambda: compiled.load_executorch(content))
        # Else the first call reads the file, and starts the threads, which say much of the CPU.
        _with_reason(lambda: self._program.method_meta("forward"))
        _with_reason(lambda: compiled.limit_executorch(THREADS.allowed))

    def __call__(self, *leaves: Any) -> list[Any]:
        given = [_given(leaf) for leaf in leaves]
        try:
            return list(self._program.forward(given))
        except RuntimeError:
            # Again, for the reason. Before, a process that is killed leaves what it logged.
            return list(_with_reason(lambda: self._program.forward(given)))

    def fresh(self) -> File:
        return File(self.content)


def _given(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    # It aborts on the strides that an empty tensor may have, as (8, 0): aten_bridge.cpp.
    return leaf.detach() if leaf.numel() else leaf.new_empty(leaf.shape)


def _with_reason(run: Callable[[], Any]) -> Any:
    """Run a function of the runtime, whose errors are numbers: the reason is in its log."""
    log = io.StringIO()
    try:
        with contextlib.redirect_stderr(log):  # executorch 1.5 logs to Python's
            return run()
    except RuntimeError as error:
        lines = log.getvalue().splitlines()
        said = next((line for line in lines if not line.startswith(OF_THE_CPU)), "")
        reason = said.partition("] ")[2].rstrip(": ")
        raise RuntimeError(f"{error}: {reason}" if reason else str(error)) from None


@dataclass(frozen=True, kw_only=True)
class ExecutorchArtifact(DirectArtifact):
    """A ``.pte`` file. ``stateful``: calls change its buffers.

    ``keywords`` are in the order of the export. ``changed``: the number of inputs that are changed,
    whose new values the file returns first; ``rebuild`` makes eager's pytree of the others.
    ``steps`` are those before this one.
    """

    run: File
    backend: str
    keywords: tuple[str, ...]
    changed: int
    stateful: bool
    rebuild: Callable[[Any], Any]
    steps: tuple[MadeOf, ...]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        packed = self.pack_inputs(Call(args, kwargs))
        with contextlib.redirect_stderr(io.StringIO()):  # an exception has it
            return self.unpack_outputs(self.run(*packed.args))

    def fresh(self) -> ExecutorchArtifact:
        return dataclasses.replace(self, run=self.run.fresh()) if self.stateful else self

    def pack_inputs(self, call: Call) -> Call:
        in_order = Call(call.args, {name: call.kwargs[name] for name in self.keywords})
        return Call(tuple(in_order.leaves()))

    def unpack_outputs(self, value: Any) -> Any:
        return self.rebuild(value[self.changed :])

    def made_of(self) -> Sequence[MadeOf]:
        return (*self.steps, MadeOf(STEPS[self.backend], self, "runtime"))


class Executorch:
    traits = TargetTraits(
        specializes_0_1=True,
        fixes_layouts=True,
        suffixes=(".pte",),
        flat=True,
        preload=(compiled.EXECUTORCH,),
        rtol=1e-5,  # of exp and log on XNNPACK: up to 4e-6 seen with ExecuTorch 1.5.1
        answers=EXPORTING,
        script=SCRIPT,
    )

    def unavailable(self, device: str) -> str | None:
        if importlib.util.find_spec("executorch") is None:
            return "executorch not installed: pip install 'pytest-torchexport[executorch]'"
        try:
            compiled.executorch_runtime()
        except ImportError as error:
            return (
                f"this executorch does not load with torch {torch.__version__} "
                f"({str(error).splitlines()[0]}): install versions that belong together"
            )
        return None if device == "cpu" else "ExecuTorch is run on the CPU"

    def export(
        self,
        module: Callable[..., Any],
        example: Call,
        spec: InputSpec,
        *,
        backend: str = XNNPACK,
        compile_config: Any = None,
        transform_passes: Any = None,
        config: Any = None,
        **options: Any,
    ) -> ExecutorchArtifact | NotApplicable:
        """Export like the target ``export``, with its options, and lower that program.

        Each dim has a largest size: of one that nobody declared, the largest that is drawn. The
        other options are those of ``to_edge_transform_and_lower`` and of ``to_executorch``.
        """
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from pytest_torchexport import targets

        if backend not in BACKENDS:
            raise ValueError(f"backend={backend!r} is none of {', '.join(BACKENDS)}")
        texts = [path for path, leaf in spec.flatten(example) if isinstance(leaf, str)]
        if texts:
            return NotApplicable(f"ExecuTorch takes no str: {', '.join(texts)}")
        dims = {name: dataclasses.replace(dim, declared=True) for name, dim in spec.dims.items()}
        bounded = dataclasses.replace(spec, dims=dims)
        made: Any = targets.get("export").export(module, example, bounded, **options)
        if isinstance(made, NotApplicable):
            return made
        capture = MadeOf("ExportedProgram", made.run, "capture")
        sizes = _sizes(made.program)

        def lowered(backend: str, *steps: MadeOf) -> ExecutorchArtifact:
            partitioner = [XnnpackPartitioner()] if backend == XNNPACK else []
            manager = to_edge_transform_and_lower(
                made.program,
                partitioner=partitioner,
                compile_config=compile_config,
                transform_passes=transform_passes,
            )
            edge, content = manager.exported_program(), manager.to_executorch(config).buffer
            # Of the lowered program: in the captured one, operators still write in place.
            kinds = Counter(each.kind.name for each in edge.graph_signature.output_specs)
            facts = dataclasses.replace(made.facts, guarded=False)
            if _sizes(made.program) != sizes:  # the symbols are the program's own
                notes = (*facts.notes, FROZEN)
                facts = dataclasses.replace(facts, notes=notes, static_by="translation")
            lost = () if config is not None else _uninitialized(edge)
            if lost:
                text = UNINITIALIZED.format(names=few(lost))
                facts = dataclasses.replace(facts, cautions=(*facts.cautions, text))
            return ExecutorchArtifact(
                program=edge,
                module=None,
                run=File(content),
                backend=backend,
                write=lambda path: path.write_bytes(content),
                filename=FILENAME,
                baked=constant_arguments(spec, example),
                native_loops=any(higher_order(made.program, ("while_loop",))),
                dynamic_shapes=made.dynamic_shapes,
                facts=facts,
                keywords=tuple(example.kwargs),
                changed=kinds["USER_INPUT_MUTATION"],
                stateful=kinds["BUFFER_MUTATION"] > 0,
                rebuild=partial(unflatten, structure=made.program.call_spec.out_spec),
                steps=steps,
            )

        if backend == PORTABLE:
            return lowered(PORTABLE, capture)

        def portable(*args: Any, **kwargs: Any) -> Any:
            return lowered(PORTABLE)(*args, **kwargs)

        kernels = MadeOf(STEPS[PORTABLE], portable, "runtime")
        return lowered(XNNPACK, capture, kernels)

    def load(self, path: Path, _device: str) -> File:
        return File(path.read_bytes())


def _uninitialized(edge: torch.export.ExportedProgram) -> list[str]:
    """Return the buffers that a program changes and that do not begin with zeros."""
    changed = edge.graph_signature.buffers_to_mutate.values()
    values = {**edge.constants, **edge.state_dict}
    return [name for name in changed if name in values and bool(values[name].any())]


def _sizes(program: torch.export.ExportedProgram) -> list[str]:
    """Return the shapes of a program's inputs, as text: symbols, or numbers."""
    inputs = (node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder")
    return [str(getattr(value, "shape", value)) for value in inputs]


TARGET = Executorch()
