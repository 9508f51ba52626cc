"""The names of targets and checks. pytest collects with them, so they are known without torch.

Others add targets by an entry point in the group ``pytest_torchexport.targets``, or with
``register_target`` in a conftest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINT_GROUP = "pytest_torchexport.targets"
# Our own targets in the order of reports, and where another process can import each.
BUILT_IN = {
    "trace": "pytest_torchexport.targets.trace:TARGET",
    "script": "pytest_torchexport.targets.script:TARGET",
    "export": "pytest_torchexport.targets.export:TARGET",
    "onnx": "pytest_torchexport.targets.onnx:TARGET",
    "onnx_legacy": "pytest_torchexport.targets.onnx_legacy:TARGET",
    "openvino": "pytest_torchexport.targets.openvino:TARGET",
    "openvino_trace": "pytest_torchexport.targets.openvino:TRACE",
    "aoti": "pytest_torchexport.targets.aoti:TARGET",
    "executorch": "pytest_torchexport.targets.executorch:TARGET",
}
_EXPORT = (
    "strict",
    "preserve_module_call_signature",
    "prefer_deferred_runtime_asserts_over_guards",
)
_ONNX = (
    *("opset_version", "input_names", "output_names", "external_data", "optimize"),
    *("custom_translation_table", "verify", "report", "profile", "dump_exported_program"),
    *("artifacts_dir", "verbose"),
)
_OPENVINO = ("precision", "compress_to_fp16")
# The arguments of torch's exporters that ``export_options`` may name for our own targets, in any
# version of torch that is supported.
EXPORT_OPTIONS: dict[str, tuple[str, ...]] = {
    "trace": (
        *("check_trace", "check_inputs", "check_tolerance", "strict", "optimize", "_extra_files"),
        *("_force_outplace", "_store_inputs", "_module_class", "_compilation_unit"),
    ),
    "script": ("optimize", "example_inputs", "_extra_files", "_frames_up", "_rcb"),
    "export": (*_EXPORT, "extra_files"),
    "onnx": _ONNX,
    "onnx_legacy": (
        *("opset_version", "output_names", "do_constant_folding", "custom_opsets", "verbose"),
        *("keep_initializers_as_inputs", "training", "operator_export_type"),
        *("export_modules_as_functions", "autograd_inlining"),
    ),
    "openvino": (*_OPENVINO, *_ONNX),
    "openvino_trace": (*_OPENVINO, "extension", "share_weights", "verbose"),
    "aoti": (*_EXPORT, "inductor_configs"),
    "executorch": (*_EXPORT, "backend", "compile_config", "transform_passes", "config"),
}
_CALL = "the call of the test gives it"
_DIMS = "say which axes vary by shapes={'x': 'batch 3'} beside export_options"
_EXPORTER = "the target 'onnx' is dynamo=True, 'onnx_legacy' is dynamo=False"
_PATH = "the plugin saves the file; --torchexport-ship keeps it"
_WEIGHTS = "the plugin saves the weights in the file, which are no inputs"
_LEGACY = "this exporter ignores it; that of the target 'onnx_legacy' does not"
_DYNAMO = "this exporter ignores it; that of the target 'onnx' does not"
_OF_EXPORT = {
    **dict.fromkeys(("mod", "args", "kwargs"), _CALL),
    "dynamic_shapes": "give dynamic_shapes= beside export_options",
}
_OF_ONNX = {
    **dict.fromkeys(("model", "args", "kwargs"), _CALL),
    "f": _PATH,
    "dynamo": _EXPORTER,
    "dynamic_shapes": "give dynamic_shapes= beside export_options",
    "dynamic_axes": _DIMS,
    "export_params": _WEIGHTS,
    "keep_initializers_as_inputs": _WEIGHTS,
    "training": "give mode= beside export_options",
    "fallback": "add the target 'onnx_legacy'",
    "operator_export_type": _LEGACY,
    "do_constant_folding": _LEGACY,
    "custom_opsets": _LEGACY,
    "export_modules_as_functions": _LEGACY,
    "autograd_inlining": _LEGACY,
}
# The other arguments, which the target gives or its exporter ignores, with what to do instead.
SAID_ELSEWHERE: dict[str, dict[str, str]] = {
    "trace": dict.fromkeys(("func", "example_inputs", "example_kwarg_inputs"), _CALL),
    "script": {"obj": _CALL},
    "export": _OF_EXPORT,
    "onnx": _OF_ONNX,
    "openvino": _OF_ONNX,
    "openvino_trace": {
        **dict.fromkeys(("input_model", "example_input"), _CALL),
        "input": _DIMS,
        "output": "all outputs are compared: return only those from forward",
        "dynamo": "the target 'openvino' captures by torch.export",
    },
    "aoti": {**_OF_EXPORT, "package_path": _PATH},
    "executorch": _OF_EXPORT,
    "onnx_legacy": {
        "export_params": _WEIGHTS,
        **dict.fromkeys(("model", "args", "kwargs"), _CALL),
        "f": _PATH,
        "dynamo": _EXPORTER,
        "dynamic_shapes": _DIMS,
        "dynamic_axes": _DIMS,
        "input_names": "they are input_0, input_1, ...; the target 'onnx' takes others",
        "fallback": _DYNAMO,
        "external_data": _DYNAMO,
        "custom_translation_table": _DYNAMO,
        "report": _DYNAMO,
        "optimize": _DYNAMO,
        "verify": _DYNAMO,
        "profile": _DYNAMO,
        "dump_exported_program": _DYNAMO,
        "artifacts_dir": _DYNAMO,
    },
}
# Instances of targets.base.Target, of which this room knows nothing.
_registered: dict[str, Any] = {}


def register(name: str, target: Any) -> None:
    """Add a target under a name, as ``targets.register_target`` does."""
    if isinstance(target, type):
        raise ValueError(f"target {name!r} is a class; register an instance: {target.__name__}()")
    if not name.isidentifier():
        raise ValueError(f"a target's name is an identifier, not {name!r}")
    if name == "none":
        raise ValueError("'none' means no target on the command line")
    if name in targets() and _registered.get(name) is not target:
        raise ValueError(f"there is already a target named {name!r}")
    _registered[name] = target


def targets() -> tuple[str, ...]:
    return tuple(dict.fromkeys((*BUILT_IN, *entry_points(), *_registered)))


def checks() -> tuple[str, ...]:
    """Return the names of the checks: what a marker's ``checks=`` may name."""
    from pytest_torchexport.config import flow  # not at the top: pytest's start needs no checks

    return tuple(sorted({name for step in flow.FLOW for name in step.checks}))


def registered_target(name: str) -> Any:
    """Return the target that a conftest registered under the name, or None."""
    return _registered.get(name)


def entry_point(name: str) -> str | None:
    """Return ``package.module:attribute``, with which another process can import the target.

    None for a target that a conftest registered. Raises KeyError for an unknown name.
    """
    if name in _registered:
        return None
    return BUILT_IN[name] if name in BUILT_IN else entry_points()[name].value


@lru_cache(maxsize=1)
def entry_points() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points as installed  # not at the top: it is slow to load

    return {point.name: point for point in installed(group=ENTRY_POINT_GROUP)}
