"""Private torch: every name that torch does not document is used in a function of this file.

Separate so that a new release of torch breaks one file and its tests. Each function is named for
the question it answers, looks for the name first, and says what it returns if torch lacks it. The
names are those of torch 2.13.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CellType, FrameType, FunctionType
from typing import Any

import torch

from pytest_torchexport.results.source_line import SourceLine, is_models, is_users, source_line

# -- tensors and modules -------------------------------------------------------------------------


def ends_gradients(function: Any, args: Sequence[Any]) -> bool:
    """Return True for the call that a ``no_grad`` block begins with."""
    return function is torch._C._set_grad_enabled and not args[0]


def times_written(tensor: torch.Tensor) -> int | None:
    """Return how often a tensor was written to in place, by any view of it.

    None for a tensor of inference mode, which does not count, and if torch has no
    ``Tensor._version``. Native kernels (batch norm's running statistics) and writes by way of
    ``.data`` are not counted.
    https://docs.pytorch.org/docs/stable/notes/autograd.html#in-place-correctness-checks
    """
    try:  # asked of every tensor after every call: no look first
        return tensor._version
    except (AttributeError, RuntimeError):
        return None


def memory_of(tensor: torch.Tensor) -> int:
    """Return a number for the memory of a tensor, which all its views have too; 0 if it has none.

    Not ``data_ptr``, which ends the sharing of ``shared_until_written``. Raises what torch raises
    for a tensor without a storage: a sparse or nested one, some subclasses.
    """
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return 0
    number: int = getattr(storage, "_cdata", None) or storage.data_ptr()
    return number


def address_of(tensor: torch.Tensor) -> int:
    """Return the address of a plain tensor's first element, to read from."""
    look = getattr(torch._C, "_data_address", None)
    if look is None:
        return tensor.data_ptr()
    start: int = look(tensor)  # of its memory, which a view may begin behind
    return start + int(tensor.storage_offset()) * tensor.itemsize


def shared_until_written(tensor: torch.Tensor) -> torch.Tensor:
    """Return a detached clone that takes no memory until it or the original is written to.

    torch copies the memory at the first write to either, from Python or from a kernel; a write to
    an address that was taken before shows in both. A plain clone if torch has no ``_lazy_clone``
    that does this, of a subclass, and of a tensor that is quantized or not on the CPU, or whose
    memory is not torch's own, or numpy has it too: a file's, another process's, a loaded program's,
    whose copying at a write ends the process (torch 2.13). Not for a tensor that may be resized:
    torch 2.13 cannot write to it afterwards.
    """
    storage = tensor.untyped_storage() if _is_torchs_own(tensor) else None
    is_own = storage is not None and storage.resizable() and not storage.is_shared()
    is_own = is_own and not tensor.is_pinned()
    if not is_own or not _shares_until_written():
        return tensor.detach().clone()
    return _lazily_cloned(tensor)


def _is_torchs_own(tensor: torch.Tensor) -> bool:
    """Return True for a tensor on the CPU that has one memory, and no class of somebody else's."""
    kinds = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
    is_plain = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_nested)
    return type(tensor) in kinds and is_plain and tensor.device.type == "cpu"


def _lazily_cloned(tensor: torch.Tensor) -> torch.Tensor:
    shared: torch.Tensor = torch._lazy_clone(tensor.detach())
    return shared


@functools.cache
def _shares_until_written() -> bool:
    """Return True if torch can clone lazily, and a write to one of the tensors shows in no other.

    Tried once per process: nothing documents it.
    """
    if not hasattr(torch, "_lazy_clone"):
        return False
    tensor = torch.zeros(4)
    one, other = _lazily_cloned(tensor), _lazily_cloned(tensor)
    if len({address_of(each) for each in (tensor, one, other)}) > 1:
        return False
    one[1:].add_(1)
    tensor.data.numpy()[0] = 2
    values = [each.tolist() for each in (tensor, one, other)]
    return values == [[2, 0, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]


def has_memory_alone(tensor: torch.Tensor) -> bool:
    """Return True if no other tensor has the memory of this one. False if torch does not tell."""
    holders = getattr(torch._C, "_storage_Use_Count", None)
    if holders is None:
        return False
    storage = tensor.untyped_storage()
    is_alone: bool = holders(storage._cdata) == len((tensor, storage))
    return is_alone


def end_sharing(tensors: Iterable[torch.Tensor]) -> None:
    """Have tensors share their memory with no other any more.

    It stays where it is if the others are gone, and is copied if they are not.
    """
    is_shared = getattr(torch._C, "_is_cow_tensor", lambda _: True)
    for tensor in tensors:
        if _is_torchs_own(tensor) and is_shared(tensor):
            tensor.data_ptr()


@contextlib.contextmanager
def kept_shared(tensors: Iterable[torch.Tensor]) -> Iterator[None]:
    """Keep the memory of tensors shared until written in the block, also if asked for its address.

    For writers of files: torch has one address to read from and to write to, and copies the memory
    when it gives that. In the block a write would show in all tensors that share the memory. Does
    nothing for other tensors, and if torch does not tell which share theirs.
    """
    is_shared = getattr(torch._C, "_is_cow_tensor", None)
    look = getattr(torch._C, "_data_address", None)
    if is_shared is None or look is None:
        yield
        return
    own = [(each, each.data) for each in tensors if _is_torchs_own(each) and is_shared(each)]
    memories: dict[int, torch.UntypedStorage] = {}
    try:
        for tensor, data in own:
            number, size = memory_of(data), data.untyped_storage().nbytes()
            if number not in memories:
                plain = (ctypes.c_ubyte * size).from_address(look(data))
                memories[number] = torch.frombuffer(plain, dtype=torch.uint8).untyped_storage()
            place = data.storage_offset(), data.size(), data.stride()
            tensor.data = torch.empty(0, dtype=data.dtype).set_(memories[number], *place)
        yield
    finally:
        for tensor, data in own:
            tensor.data = data


def is_printing(frame: FrameType | None) -> bool:
    """Return True if a frame is inside the printing of a tensor.

    No number that this reads gets into a program. The text of an error may hold a tensor, and while
    a trace runs torch warns of each of its numbers. False if torch has no ``torch._tensor_str``.
    """
    printing = getattr(sys.modules.get("torch._tensor_str"), "__file__", None)
    while frame is not None:
        if frame.f_code.co_filename == printing:
            return True
        frame = frame.f_back
    return False


_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
# What torch.nn.Module keeps in vars() for itself, beside its hooks.
_BOOKKEEPING = (
    "_parameters",
    "_buffers",
    "_modules",
    "training",
    "_non_persistent_buffers_set",
    "_is_full_backward_hook",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
    "_initializing",
    "_compiled_call_impl",
    "_c",
    "_concrete_type",
)
# The names in a module's vars() that are torch's and not its author's.
MODULE_FIELDS = frozenset({*_HOOKS, *_BOOKKEEPING})


def hooks_of(module: torch.nn.Module) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Return the ids of a module's hooks, by register.

    Empty if torch names its registers otherwise. Reads ``vars()`` alone: no code of the module's
    class runs.
    """
    own = vars(module)
    return tuple([(name, tuple(own[name])) for name in _HOOKS if own.get(name)])


def global_hooks() -> list[Any]:
    """Return the hooks that run for every module; none if torch names their registers otherwise."""
    registers = [getattr(torch.nn.modules.module, f"_global{name}", None) for name in _HOOKS]
    return [hook for held in registers if isinstance(held, dict) for hook in held.values()]


def hook_registers(module: torch.nn.Module) -> list[dict[int, Any]]:
    """Return the registers of a module's hooks; none if torch names them otherwise."""
    own = vars(module)
    return [own[name] for name in _HOOKS if isinstance(own.get(name), dict)]


def parameters_of(module: torch.nn.Module) -> Mapping[str, torch.Tensor | None]:
    """Return a module's own parameters, also those that are None."""
    found: Mapping[str, torch.Tensor | None] = vars(module).get("_parameters", {})
    return found


def buffers_of(module: torch.nn.Module) -> Mapping[str, torch.Tensor | None]:
    """Return a module's own buffers, also those that are None (not of a ScriptModule)."""
    if isinstance(module, torch.jit.ScriptModule):
        return dict(module.named_buffers(recurse=False))
    found: Mapping[str, torch.Tensor | None] = vars(module).get("_buffers", {})
    return found


def non_persistent_of(module: torch.nn.Module) -> frozenset[str]:
    """Return the names of a module's own buffers that ``state_dict`` leaves out.

    Empty for a ScriptModule, which knows none, and if torch keeps them elsewhere.
    """
    return frozenset(vars(module).get("_non_persistent_buffers_set", ()))


def children_of(module: torch.nn.Module) -> Mapping[str, torch.nn.Module | None]:
    """Return a module's own submodules, also those that are None (not of a ScriptModule)."""
    if isinstance(module, torch.jit.ScriptModule):
        return dict(module.named_children())
    found: Mapping[str, torch.nn.Module | None] = vars(module).get("_modules", {})
    return found


def uncompiled(thing: Any) -> Any:
    """Return the module or function that ``torch.compile`` wrapped, or the thing itself.

    Told by the wrapper's type, because a module may answer to any name.
    """
    if isinstance(thing, FunctionType):
        return getattr(thing, "_torchdynamo_orig_callable", thing)
    cls = type(thing)
    wrapped = cls.__name__ == "OptimizedModule" and cls.__module__.startswith("torch._dynamo")
    return getattr(thing, "_orig_mod", thing) if wrapped else thing


def compiles_itself(thing: Any) -> bool:
    """Return True for a module whose ``compile()`` was called. Its copies are not compiled."""
    return isinstance(thing, torch.nn.Module) and vars(thing).get("_compiled_call_impl") is not None


# -- operators -----------------------------------------------------------------------------------


def is_operator(function: Any) -> bool:
    """Return True for an operator of the dispatcher (``aten.add.Tensor``), which has a schema."""
    return isinstance(function, torch._ops.OpOverload)


def kernels_of(operator: Any) -> list[FunctionType] | None:
    """Return the user's functions in a custom operator that a decorator of torch.library has made.

    None for any other object.
    """
    made = getattr(torch.library, "CustomOpDef", None)
    if made is None or not isinstance(operator, made):
        return None
    held = list(vars(operator).values())
    held += [each for kept in held if isinstance(kept, dict) for each in kept.values()]
    functions = [each for each in held if isinstance(each, FunctionType)]
    # torch wraps what it is given.
    cells = [cell for each in functions for cell in each.__closure__ or ()]
    inner = [cell.cell_contents for cell in cells if cell != CellType()]
    functions += [each for each in inner if isinstance(each, FunctionType)]
    own = {id(each): each for each in functions if is_users(each.__code__.co_filename)}
    return list(own.values())


def is_higher_order(function: Any) -> bool:
    """Return True for torch.cond and its kin, which take functions and have no schema."""
    return isinstance(function, torch._ops.HigherOrderOperator)


def schema_of(operator: Any) -> Any:
    """Return an operator's schema: its name, its arguments, which of them it writes to.

    None if it has no schema.
    """
    return getattr(operator, "_schema", None)


def overloads_of(namespace: str, name: str) -> list[str]:
    """Return the overloads of an operator that this process knows, "default" among them."""
    packet = getattr(getattr(torch.ops, namespace), name, None)
    if not isinstance(packet, torch._ops.OpOverloadPacket):
        return []
    return list(packet.overloads())  # type: ignore[no-untyped-call]


def python_definition(name: str) -> Callable[..., Any] | None:
    """Return the function under ``torch.library.custom_op``, or None.

    The dispatcher knows only torch's own line of such an operator.
    """
    custom_ops = getattr(getattr(torch, "_library", None), "custom_ops", None)
    definition = getattr(custom_ops, "OPDEFS", {}).get(name)
    found: Callable[..., Any] | None = getattr(definition, "_init_fn", None)
    return found


def names_in_tensors() -> frozenset[str]:
    """Return the classes and functions that the pickle of a plain tensor names.

    These are among those that torch.load(weights_only=True) admits, and run no code of the file's.
    Before 2.10 torch.export.load reads the example inputs with weights_only=False:
    https://github.com/pytorch/pytorch/pull/158247
    """
    storages = [name for name in vars(torch) if name.endswith("Storage")]
    rebuild = ("_rebuild_tensor_v2", "_rebuild_parameter")
    return frozenset(
        [
            "collections.OrderedDict",
            *(f"torch._utils.{name}" for name in rebuild),
            *(f"torch.{name}" for name in storages),
        ]
    )


def registered_at(name: str) -> tuple[str, int] | None:
    """Return the file and line that registered an operator, also in C++; None if unknown."""
    dump = getattr(torch._C, "_dispatch_dump", None)
    text = dump(name) if dump is not None else ""
    match = re.search(r"^debug: registered at (.+):(\d+)$", text, re.MULTILINE)
    return (match[1], int(match[2])) if match is not None else None


def decomposition_of(operator: Any) -> Callable[..., Any] | None:
    """Return a function that computes an operator with simpler ones, as torch.compile needs it.

    The function may call itself by way of others, and may return NotImplemented. None if torch
    knows none.
    """
    table = getattr(getattr(torch, "_decomp", None), "decomposition_table", {})
    found: Callable[..., Any] | None = table.get(operator, getattr(operator, "decompose", None))
    return found


def aten_of_prim(operator: Any) -> Callable[..., Any] | None:
    """Return the function that computes one of torch's ``prims`` with an ATen operator.

    Decompositions are made of prims. To call one itself imports torch._dynamo: seconds. None for an
    operator that is no prim.
    """
    return getattr(operator, "impl_aten", None)


def forget_decompositions(operator: Any) -> None:
    """Clear what an operator's overload remembers of how it is decomposed.

    torch.onnx.export swaps decompositions without clearing that cache. Does nothing if torch has
    no such cache.
    """
    cache = getattr(operator, "_dispatch_cache", None)
    if cache is not None:
        cache.clear()


# The translations of each opset, and how many operators there were when they were collected.
_translations: dict[int, tuple[int, dict[Any, Any]]] = {}


def forget_onnx_matches() -> None:
    """Have the optimizer of ``torch.onnx.export`` forget the graph that it looked at last.

    Its rules keep it, and with it the weights, until another graph comes. Does nothing if
    onnxscript keeps its rules elsewhere.
    """
    rewriter = sys.modules.get("onnxscript.rewriter")
    for rule in getattr(rewriter, "_DEFAULT_REWRITE_RULES", ()):
        kept = vars(getattr(rule, "_matcher", None) or rule)
        kept.update(dict.fromkeys(_OF_ONE_MATCH & kept.keys()))


# What a rule of onnxscript sets anew before it looks at a node.
_OF_ONE_MATCH = frozenset({"_current_node", "_match", "_graph", "_tracer"})


@contextlib.contextmanager
def onnx_translations_kept() -> Iterator[None]:
    """Have ``torch.onnx.export`` collect its translations once per process in the block.

    It parses the source of all 550 of them for each export, 0.3 s. They are collected again once
    another operator is registered, which some are waiting for. Does nothing if torch collects them
    otherwise.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        own = vars(ONNXRegistry)["from_torchlib"]
        count_operators = torch._C._dispatch_get_all_op_names
    except (ImportError, KeyError, AttributeError):
        yield
        return

    def from_torchlib(cls: Any, opset_version: int | None = None) -> Any:
        given = () if opset_version is None else (opset_version,)
        made, operators = cls(), len(count_operators())
        found = _translations.get(opset_version or 0)
        if found is None or found[0] != operators:
            whole = own.__func__(cls, *given)
            # Looking for operators may have registered some.
            found = _translations[opset_version or 0] = len(count_operators()), whole.functions
        made._opset_version = opset_version or made.opset_version
        made.functions = {target: list(each) for target, each in found[1].items()}
        return made

    ONNXRegistry.from_torchlib = classmethod(from_torchlib)
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = own


# -- modes ---------------------------------------------------------------------------------------

Handle = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


def dispatch_mode(handle: Handle) -> Any:
    """Return a context manager that hands each ATen operator of its block to ``handle``.

    None if torch has no such mode. https://docs.pytorch.org/docs/stable/notes/extending.html
    documents the mode, and imports it from a private module.
    """
    try:
        from torch.utils._python_dispatch import TorchDispatchMode
    except ImportError:
        return None

    class Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        # torch.cond and its kin refuse a mode that does not say so.
        supports_higher_order_operators = True

        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            return False  # else the first operator imports torch._dynamo: more than a second

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            return handle(func, args, kwargs or {})

    return Mode()  # type: ignore[no-untyped-call]


def innermost_function_mode() -> Any:
    """Return the torch function mode that sees an operation first; None if none is known."""
    current = getattr(torch.overrides, "_get_current_function_mode", None)
    return current() if current is not None else None


def is_tracing() -> bool:
    """Return True within torch.jit.trace. Always False if torch does not say."""
    answer = getattr(torch.jit, "is_tracing", None)
    return answer is not None and bool(answer())


def is_transforming() -> bool:
    """Return True within torch.func's grad, vmap and jacrev. Always False if torch does not say."""
    level = getattr(torch._C._functorch, "maybe_current_level", None)
    return level is not None and level() is not None


# By these code asks whether it is being exported, in which mode it runs, or with how many threads.
_QUERIES = (
    "torch.jit.is_tracing",
    "torch.jit.is_scripting",
    "torch._C._get_tracing_state",
    "torch.compiler.is_compiling",
    "torch.compiler.is_exporting",
    "torch.onnx.is_in_onnx_export",
    "torch.is_grad_enabled",
    "torch.is_inference_mode_enabled",
    "torch.get_num_threads",
)


def export_queries() -> Mapping[str, tuple[Any, str]]:
    """Return the functions by which code asks how it is run: exported, in a mode, with threads.

    By name: the module that has the function, and its name there. Those that torch lacks are left
    out.
    """
    found = {}
    for name in _QUERIES:
        _, *parts, attribute = name.split(".")
        owner: Any = torch
        for part in parts:
            owner = getattr(owner, part, None)
        if hasattr(owner, attribute):
            found[name] = (owner, attribute)
    return found


def default_device() -> torch.device | None:
    """Return the device that the user set as torch's default, None for the CPU.

    torch 2.9 raises if the default was set to None before.
    """
    try:
        device = torch.get_default_device()
    except AttributeError:
        return None
    return None if device.type == "cpu" else device


def set_default_device(device: torch.device | None) -> None:
    """Set torch's default device. None is the CPU, without a mode that makes torch slower.

    Leaves torch as it was before its default was set: torch 2.9 cannot name a default that is None.
    """
    torch.set_default_device(device)
    if device is None and hasattr(torch, "_GLOBAL_DEVICE_CONTEXT"):
        with contextlib.suppress(AttributeError):
            del torch._GLOBAL_DEVICE_CONTEXT.device_context


def dynamo_is_loaded() -> bool:
    """Return True if this process has imported torch.compile's machinery."""
    return "torch._dynamo" in sys.modules


# -- pytrees -------------------------------------------------------------------------------------


def registered_nodes() -> Mapping[type, Any]:
    """Return torch's table of registered pytree nodes; empty if torch has none."""
    import torch.utils._pytree as torch_pytree

    return getattr(torch_pytree, "SUPPORTED_NODES", {})


def flatten_registered(value: Any) -> tuple[list[Any], Any] | None:
    """Return the leaves of a value and its structure as torch's pytrees see it; None for a leaf."""
    import torch.utils._pytree as torch_pytree

    leaves, structure = torch_pytree.tree_flatten(value)
    return None if structure.is_leaf() else (leaves, structure)


def unflatten(leaves: Sequence[Any], structure: Any) -> Any:
    """Return the value of this structure with these leaves."""
    import torch.utils._pytree as torch_pytree

    return torch_pytree.tree_unflatten(list(leaves), structure)


def parts_of_structure(structure: Any) -> list[Any]:
    """Return the structures of a container's items."""
    parts = getattr(structure, "children", None)  # a method in newer versions of torch
    return list(structure.children_specs if parts is None else parts())


def text_of_structure(structure: Any) -> str | None:
    """Return a structure as text; None if a class of it is registered without a name."""
    import torch.utils._pytree as torch_pytree

    try:
        return torch_pytree.treespec_dumps(structure)
    except (NotImplementedError, TypeError, ValueError):
        return None


def structure_of_text(text: str) -> Any:
    """Return the structure that a text describes.

    Raises KeyError if a class of it is not registered in this process. May import what the text
    names: pass only texts that this package wrote.
    """
    import torch.utils._pytree as torch_pytree

    try:
        return torch_pytree.treespec_loads(text)
    except NotImplementedError as error:
        raise KeyError(str(error)) from None


def class_of_files(name: str) -> tuple[type | None, Any]:
    """Return the class with this name in files, and the function that flattens it, or Nones."""
    pytree = getattr(torch.utils, "_pytree", None)
    cls = getattr(pytree, "SERIALIZED_TYPE_TO_PYTHON_TYPE", {}).get(name)
    node = getattr(pytree, "SUPPORTED_NODES", {}).get(cls)
    return cls, getattr(node, "flatten_fn", None)


# -- TorchScript ---------------------------------------------------------------------------------


def script_attributes(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield a ScriptModule's attributes by name; nothing for a loaded one, which hides them."""
    try:
        names = list(module._concrete_type.get_attributes())
    except Exception:
        return
    for name in names:
        try:
            yield name, module._c.getattr(name)
        except Exception:  # noqa: S112  # of a type that Python does not see
            continue


def script_attribute(module: Any, name: str) -> Any:
    """Return one attribute of a ScriptModule.

    Raises RuntimeError if Python has no type for it, as for an enum that is not imported.
    """
    return module._c.getattr(name)


def script_code(module: Any) -> str:
    """Return the source that TorchScript prints of a ScriptModule; empty for another module."""
    code: str = getattr(getattr(module, "_c", None), "code", "")
    return code


def script_methods(module: Any) -> Iterator[tuple[str, Any]]:
    """Yield the compiled methods of a ScriptModule by name; none for another module."""
    list_names = getattr(getattr(module, "_c", None), "_method_names", None)
    for name in list_names() if list_names is not None else ():
        yield name, module._c._get_method(name)


def with_calls_inlined(graph: Any) -> Any:
    """Return a graph with its calls resolved, or the graph itself if torch cannot do it.

    For the graph of a fork, whose calls ``inlined_graph`` leaves as they are.
    """
    inline = getattr(torch._C, "_jit_pass_inline", None)
    if inline is None:
        return graph
    copy = graph.copy()
    inline(copy)
    return copy


def is_tensor_type(kind: Any) -> bool:
    """Return True for the type of a tensor in a TorchScript graph, which may know its dims."""
    return isinstance(kind, torch._C.TensorType)


def forget_script_types() -> None:
    """Drop TorchScript's cache of compiled module types, if torch has it.

    A class whose compilation failed stays there half made, and its next compilation fails for
    another reason.
    """
    recursive = getattr(torch.jit, "_recursive", None)
    store = getattr(getattr(recursive, "concrete_type_store", None), "type_store", None)
    if store is not None:
        store.clear()


# -- refusals ------------------------------------------------------------------------------------


def places_of(error: BaseException) -> list[str]:
    """Return the places in the user's code that an exporter knew and its exception does not say.

    As texts with ``File "model.py", line 12``, from the frames of the exception: what
    torch.jit.script was about to compile (``loc``, a ``SourceRange``), and the node that the ONNX
    exporter translated (``node``). Empty if there are no such variables. The innermost comes first.
    """
    found: list[str] = []
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "torch" not in frame.f_code.co_filename:
            continue
        loc, node = frame.f_locals.get("loc"), frame.f_locals.get("node")
        if type(loc).__name__ == "SourceRange":
            found.append(str(loc))
        stack = node.meta.get("stack_trace") if isinstance(node, torch.fx.Node) else None
        found += [stack] if isinstance(stack, str) else []
    return found[::-1]


@contextlib.contextmanager
def drafts_recorded() -> Iterator[None]:
    """Let torch.export.draft_export record what it goes past, though torch's loggers are silent.

    It reads the records of the logger ``torch.__trace``, and leaves the file of its handler open:
    that is closed afterwards. Handlers of others get none of the records: pytest would print them.
    """
    logger = logging.getLogger("torch.__trace")
    level, before, during = logger.level, set(logger.handlers), set[logging.Handler]()
    others = [each for each in logger.handlers if not type(each).__module__.startswith("torch.")]

    def remember_handlers(_: logging.LogRecord) -> bool:
        during.update(logger.handlers)
        return True

    logger.addFilter(remember_handlers)
    logger.setLevel(logging.DEBUG)
    for handler in others:
        logger.removeHandler(handler)
    try:
        yield
    finally:
        for handler in others:
            logger.addHandler(handler)
        logger.setLevel(level)
        logger.removeFilter(remember_handlers)
        for handler in during - before:
            handler.close()


def draft_failures(program: Any) -> list[tuple[str, str, SourceLine | None]]:
    """Return what torch.export.draft_export went past: the kind, the operator or expression, where.

    The kind is the name of torch's ``FailureType``. Empty if the program has no ``_report``.
    """
    report = getattr(program, "_report", None)
    # The report only has the names that no earlier draft of this process had.
    interned = getattr(sys.modules.get("torch._logging.structured"), "INTERN_TABLE", {})
    files = {number: name for name, number in interned.items()}
    files |= getattr(report, "str_to_filename", None) or {}
    found: list[tuple[str, str, SourceLine | None]] = []
    for failure in getattr(report, "failures", None) or ():
        data = failure.data
        stack = [
            source_line(files[frame["filename"]], frame["line"], frame["loc"])
            for frame in data.get("user_stack") or ()
            if is_users(files.get(frame["filename"], "<unknown>"))
        ]
        what = str(data.get("op") or data.get("expr", ""))
        found.append((failure.failure_type.name, what, stack[-1] if stack else None))
    return found


# -- sizes: the ShapeEnv of a torch.export -------------------------------------------------------
# Its fields have comments in torch/fx/experimental/symbolic_shapes.py. If one is missing, the
# answer is empty.


def shape_environment(program: Any) -> Any:
    """Return the ShapeEnv of an ExportedProgram; None if no node of it has a tensor."""
    for node in program.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return getattr(mode, "shape_env", None)
    return None


def environment_of(errors: Iterable[BaseException]) -> Any:
    """Return the ShapeEnv of a refused export, from the frames of its exceptions, or None."""
    for error in errors:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            mode = frame.f_locals.get("fake_mode")
            if getattr(mode, "shape_env", None) is not None:
                return mode.shape_env  # type: ignore[union-attr]
    return None


def guards_of(environment: Any) -> list[tuple[Any, SourceLine | None]]:
    """Return the guards on sizes (sympy relations), each with the user's line.

    Includes the assertions that the ONNX exporter makes in their place, which know no line.
    """
    guards = getattr(environment, "guards", None) or ()
    deferred = getattr(environment, "deferred_runtime_asserts", None) or {}
    return [(guard.expr, _line_of(guard.sloc)) for guard in guards] + [
        (item.expr, None) for items in deferred.values() for item in items
    ]


def ranges_of(environment: Any) -> dict[Any, Any]:
    """Return the interval of each symbol, for an environment that has no program."""
    return dict(getattr(environment, "var_to_range", None) or {})


def sources_of(environment: Any) -> dict[Any, str]:
    """Return for each symbol the axis it was made for, in torch's words: ``L['x'].size()[0]``."""
    found = getattr(environment, "var_to_sources", None) or {}
    names = {symbol: sources[0].name for symbol, sources in found.items() if sources}
    # A method in some versions of torch, an attribute in others.
    return {symbol: name() if callable(name) else name for symbol, name in names.items()}


def range_lines(environment: Any, symbol: Any) -> tuple[SourceLine | None, SourceLine | None]:
    """Return the user's lines that gave a symbol its lower and its upper bound."""
    lines = (getattr(environment, "var_to_range_sloc", None) or {}).get(symbol)
    return (_line_of(lines.lower), _line_of(lines.upper)) if lines is not None else (None, None)


def frozen_lines(environment: Any) -> dict[str, SourceLine]:
    """Return the user's line at which each axis (``L['x'].size()[0]``) became a number."""
    replaced = getattr(environment, "replacements", None) or {}
    lines = getattr(environment, "replacements_slocs", None) or {}
    ranges = ranges_of(environment)
    found: dict[str, SourceLine | None] = {}
    for symbol, source in sources_of(environment).items():
        if getattr(replaced.get(symbol), "is_Integer", False) and symbol in lines:
            found[source] = _line_of(lines[symbol])
        elif symbol in ranges and ranges[symbol].lower == ranges[symbol].upper:
            found[source] = range_lines(environment, symbol)[1]
    return {source: line for source, line in found.items() if line is not None}


_USER_LINE = re.compile(r"(.*)  # (.+):(\d+) in \w+", re.DOTALL)


def _line_of(sloc: Any) -> SourceLine | None:
    """Return the user's line of torch's SLoc; None for a line of torch's own."""
    frame = getattr(sloc, "framework_loc", None)
    if isinstance(frame, traceback.FrameSummary) and (
        is_users(frame.filename) or is_models(frame.filename)
    ):
        return source_line(frame.filename, frame.lineno or 0, frame.line or "")
    match = _USER_LINE.match(getattr(sloc, "maybe_user_loc", None) or "")
    if match is None:
        return None
    # torch leaves out the folders that the file shares with torch's own.
    paths = (folder / match[2] for folder in Path(torch.__file__).parents)
    path = next((str(path) for path in paths if path.is_file()), match[2])
    return source_line(path, int(match[3]), match[1])
