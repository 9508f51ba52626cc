"""The key of a verdict: a digest of all that it depends on, the same in every process.

That is the subject, the calls, options and settings; the content of the user's files behind them
and behind the test, with what their modules hold now; versions, machine and torch's settings. An
object counts as what ``pickle`` would store of it, but for code, which counts as its files: these,
and what they import, are read as text, so that an import inside a function counts before it has
run. What pickle refuses, and what only the running program could tell (an import by a computed
name, a text that is executed) has no key.
"""

from __future__ import annotations

import ast
import builtins
import functools
import hashlib
import importlib.machinery
import importlib.util
import inspect
import os
import pickle
import platform
import re
import sys
import types
import weakref
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy

from pytest_torchexport.config.plan import Plan
from pytest_torchexport.config.settings import OF_A_RUN, TABLE
from pytest_torchexport.config.validate import CPP, is_path
from pytest_torchexport.eager.fingerprint import attributes_of, names_in
from pytest_torchexport.inputs.pytrees import Call, hash_of, is_plain
from pytest_torchexport.inputs.strategies import examples, least_examples
from pytest_torchexport.outcomes import cuda
from pytest_torchexport.outcomes.subject import unwrapped
from pytest_torchexport.outcomes.torch_state import GradMode, settings_now, under_autocast
from pytest_torchexport.results.failures import SpecError
from pytest_torchexport.results.source_line import is_users
from pytest_torchexport.sandbox import cpp, interpreter
from pytest_torchexport.torch_private.dispatcher import is_operator, kernels_of
from pytest_torchexport.torch_private.memory import memory_of
from pytest_torchexport.torch_private.modules import global_hooks

# Settings that change no verdict of a pass.
_WITHOUT_EFFECT = frozenset({*OF_A_RUN, "cache", "ship"})
# The modules that Python itself imports.
_RUN_AT_START = ("sitecustomize", "usercustomize")
# The beginnings of the names of variables that torch, ONNX Runtime and their libraries read.
_VARIABLES = (
    *("TORCH", "PYTORCH", "ATEN", "ONNX", "ORT"),
    *("OMP_", "GOMP_", "KMP_", "MKL", "DNNL", "ONEDNN", "OPENBLAS", "BLIS_", "GOTO_"),
    *("CUDA", "CUBLAS", "CUDNN", "NVIDIA_", "NCCL_", "LD_"),
)
# Without those that say where files are kept: torch sets them itself when it is first asked.
_PLACES = ("TORCHINDUCTOR_CACHE_DIR", "TORCH_HOME", "CUDA_CACHE_PATH")
# What Python puts into each module.
_OF_MODULES = {*vars(types.ModuleType("")), "__builtins__", "__cached__", "__file__", "__path__"}
# Code with one of these may look up any global.
_WHOLE_SCOPE = frozenset({"globals", "vars", "eval", "exec"})


class NoKey(Exception):
    """Something that a verdict depends on cannot be compared with another run. The text says it."""


def key_of(thing: Any, given: Sequence[Call], plan: Plan) -> str:
    """Return the digest of all that a verdict depends on. Raises NoKey.

    The seed is no part of it: a verdict is one of the draws of its seed, and stays so.
    """
    subject = _of_check(thing, given, plan)
    # A test's body may change torch as its parameters say: each item has a verdict of its own.
    subject.add([plan.nodeid, plan.target, plan.named])
    # The test's file and the conftests above it: they may change what they import.
    test = (plan.root or Path()) / plan.nodeid.partition("::")[0]
    folders = [each for each in test.parents if plan.root and each.is_relative_to(plan.root)]
    files = [test, *(folder / "conftest.py" for folder in folders)] if plan.nodeid else []
    of_test = closure(
        [*plan.settings.runtime_imports, *plan.plugins, *_RUN_AT_START],
        filter(Path.is_file, files),
    )
    modules = subject.modules | {name for name, source in of_test.items() if source.registers}

    # What the modules hold may lead to further ones.
    while True:
        sources = closure(modules, ())
        used: set[str] = set()
        for each in (sources | of_test).values():
            any_module = (module.rpartition(".")[2] for module in sys.modules)
            used.update(any_module if each.used is None else each.used)
        held = Digest()
        for name in sorted(sources):
            held.add(_held_by(sys.modules.get(name), used))
        if held.modules <= modules:
            break
        modules |= held.modules
    sources |= of_test
    texts = [f"{name}:{source.digest}" for name, source in sorted(sources.items())]
    texts += [f"{name}={value}" for name, value in variables(sources.values())]
    return subject.digest(held.digest(), *texts, *surroundings(plan.device))


def key_here(thing: Any, given: Sequence[Call], plan: Plan) -> str:
    """Return the digest of all that eager depends on, in this process alone. Raises NoKey.

    The target is no part of it, and neither are files: code that is loaded stays as it is. A part
    of a library counts as the object that it is: a test may have put another in its place.
    """
    subject = _of_check(thing, given, plan)
    subject.add([plan.seed, _environment(), str(Path.cwd()), sys.argv])
    names, modules = set(subject.names), set(subject.modules)
    while True:
        scopes = [vars(sys.modules[name]) for name in sorted(modules) if _is_loaded_users(name)]
        held = Digest()
        for scope in scopes:
            # What code looks up: a module may hold much that no model of it uses.
            every = scope.keys() if names & _WHOLE_SCOPE else names & scope.keys()
            held.add({name: scope[name] for name in sorted(every) if name not in _OF_MODULES})
        if held.names <= names and held.modules <= modules:
            break
        names |= held.names
        modules |= held.modules
    loaded = [sys.modules[name] for name in modules if name in sys.modules]
    parts = _parts([builtins, torch.Tensor, *scopes, *loaded], names)
    return subject.digest(held.digest(), repr(sorted(parts.items())), *surroundings(plan.device))


def _is_loaded_users(name: str) -> bool:
    """Return True for a module of the user's; what a prompt or a notebook runs has no file."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return name == "__main__" or (isinstance(file, str) and is_users(file))


def _parts(scopes: Iterable[Any], names: set[str]) -> dict[tuple[str, str], int]:
    """Return which object each name is in modules, and in those that these lead to."""
    found: dict[tuple[str, str], int] = {}
    known: set[int] = set()
    waiting = [*scopes]
    while waiting:
        scope = waiting.pop()
        if id(scope) in known:
            continue
        known.add(id(scope))
        held = scope if isinstance(scope, dict) else vars(scope)
        for name in names & held.keys():
            if isinstance(held[name], types.ModuleType):
                waiting.append(held[name])
            elif not isinstance(scope, dict):  # what the user's modules hold has a digest
                found[scope.__name__, name] = id(held[name])
    return found


def _of_check(thing: Any, given: Sequence[Call], plan: Plan) -> Digest:
    """Return the digest of a subject, its calls, the options and settings."""
    subject = Digest()
    subject.add([*unwrapped(thing), global_hooks()])
    subject.add([(call.args, dict(call.kwargs)) for call in given])
    drawn = least_examples(plan), examples(plan)
    subject.add([plan.device, bool(plan.why_isolated), drawn, vars(plan.options)])
    try:
        subject.add(plan.after_export())  # the code behind the names
    except SpecError as error:
        raise NoKey(str(error)) from None
    names = (row.name for row in TABLE if row.name not in _WITHOUT_EFFECT)
    subject.add([(name, getattr(plan.settings, name)) for name in names])
    if CPP in plan.settings.serve_on:  # its name says which compiler made it, or why none did
        subject.add(str(cpp.program()))
    pythons = filter(is_path, plan.settings.serve_on)
    subject.add([interpreter.versions((plan.root or Path.cwd()) / path) for path in pythons])
    return subject


def _held_by(module: types.ModuleType | None, used: Container[str]) -> dict[str, Any]:
    """Return a module's globals without tests, fixtures and marks, which no model runs.

    And without those of a package's modules that another test imported: no file uses their names.
    """
    scope = vars(module) if module is not None else {}
    package = scope.get("__name__")
    return {
        name: value
        for name, value in scope.items()
        if not name.startswith(("__", "test", "Test"))
        and not type(value).__module__.startswith("_pytest.")
        and (name in used or value is not sys.modules.get(f"{package}.{name}"))
    }


# -- objects ---------------------------------------------------------------------------------------


class Digest(pickle.Pickler):
    """A digest of what pickle stores.

    ``modules``: those of the classes and functions in it. ``names``: those that their code uses.
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        super().__init__(types.SimpleNamespace(write=self._hash.update), protocol=5)
        self._storages: dict[int, int] = {}
        self.modules: set[str] = set()
        self.names: set[str] = set()
        self._forms: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
            (type, self._class),
            (types.FunctionType, self._function),
            (torch.Tensor, self._tensor),
            ((torch.nn.Module, torch.jit.ScriptFunction), _of_module),
            # Not by its name: a class need not have the function that an instance was given.
            (types.MethodType, lambda it: _named("method", [it.__func__, it.__self__])),
            (types.BuiltinMethodType, lambda it: _named("method", [it.__name__, it.__self__])),
            (types.ModuleType, self._imported),
            ((property, staticmethod, classmethod, functools.cached_property), _of_descriptor),
            (weakref.ref, lambda reference: _named("weak reference", [reference()])),
            (torch.library.Library, lambda library: _named(f"library {library.ns}")),
            (SearchStrategy, _of_strategy),
        )

    def add(self, value: Any) -> None:
        """Add a value and all in it. Raises NoKey."""
        try:
            self.dump(value)
        except NoKey:
            raise
        except RecursionError:
            raise NoKey(f"a {type(value).__name__}, which is nested too deeply") from None
        except Exception as error:  # whatever an object's own code raises
            raise NoKey(f"what pickle refuses ({error})") from None

    def digest(self, *more: str) -> str:
        """Return the digest of what was added, and of some texts."""
        for text in more:
            self._hash.update(f"{len(text)}:{text}".encode(errors="surrogatepass"))
        return self._hash.hexdigest()

    def persistent_id(self, value: Any) -> Any:
        """Return a token for a value of which pickle's own form is not the same everywhere.

        If two equal texts or tuples are one object is up to the interpreter, which joins constants.
        The order of a set is another in each process.
        """
        kind = type(value)
        if kind is str:
            return value.encode(errors="surrogatepass")
        if kind is bytes:
            return ["bytes", value.hex()]
        if kind is tuple:
            return ["tuple", *value]
        if kind in (set, frozenset):
            digests = []
            for member in value:
                inner = Digest()
                inner.add(member)
                self.modules |= inner.modules
                self.names |= inner.names
                digests.append(inner.digest())
            return [kind.__name__, sorted(digests)]
        return None

    def reducer_override(self, value: Any) -> Any:
        """Return an object's form: a text that names it, and then its content."""
        if value is _Named:
            return NotImplemented
        for kinds, reduced in self._forms:
            if isinstance(value, kinds):
                return reduced(value)
        if is_operator(value):
            return _named(f"operator {value}")
        kernels = kernels_of(value)
        if kernels is not None:
            return _named(f"operator {value}", kernels)
        memory, kind = getattr(value, "cache_info", None), type(value)
        if memory is not None and hasattr(value, "__wrapped__"):
            code = getattr(value.__wrapped__, "__code__", None)
            if code is not None and memory().currsize and not _READS.isdisjoint(names_in(code)):
                raise NoKey(f"what {value.__wrapped__.__qualname__} has read and remembers")
            return _named("remembers", [value.__wrapped__])
        if _is_of_library(kind) or all(getattr(kind, n) is getattr(object, n) for n in _COPIES):
            return NotImplemented
        made = value.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
        made = (made,) if isinstance(made, str) else made
        items = [list(part) for part in made[3:5] if part is not None]
        # A copy of it may lack attributes that a global has.
        return _named("object", [kind, made[:3], items, dict(attributes_of(value))])

    def _class(self, cls: type) -> Any:
        self.modules.add(cls.__module__)
        name = f"class {cls.__module__}.{cls.__qualname__}"
        if _is_of_library(cls):
            return _named(name, {name: it for name, it in vars(cls).items() if _is_users(it)})
        held = {
            name: value
            for name, value in sorted(vars(cls).items())
            # Of the others with underscores, those that are no functions are Python's own.
            if (not name.startswith(("__", "_abc_")) or isinstance(value, types.FunctionType))
            and not isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
        }
        return _named(name, [type(cls), cls.__mro__[1:], held])

    def _function(self, function: types.FunctionType) -> Any:
        self.modules.add(function.__module__ or "")
        code = function.__code__
        self.names.update(names_in(code))
        name = f"function {function.__module__}.{function.__qualname__}"
        # Not by its own name alone: a wrapper of the user's function has that of the function.
        is_global = "<locals>" not in code.co_qualname or _is_of_library(function)
        if _is_library(code.co_filename) and is_global:
            return _named(name)
        cells = [cell.cell_contents for cell in function.__closure__ or () if cell != _EMPTY]
        attributes = {name: it for name, it in vars(function).items() if name != "pytestmark"}
        defaults = [function.__defaults__, function.__kwdefaults__]
        return _named(name, [_shape_of(code), defaults, cells, attributes])

    def _tensor(self, tensor: torch.Tensor) -> Any:
        if type(tensor) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
            raise NoKey(f"a tensor of the class {type(tensor).__name__}")
        if not is_plain(tensor) and not tensor.is_meta:
            raise NoKey("a tensor that is sparse, nested or quantized")
        facts: list[Any] = [type(tensor).__name__, str(tensor.dtype), str(tensor.device)]
        facts += [list(tensor.shape), tensor.stride(), tensor.requires_grad, tensor.is_leaf]
        if not tensor.is_meta:
            storage = memory_of(tensor)
            shared = self._storages.setdefault(storage, len(self._storages)) if storage else -1
            facts += [tensor.storage_offset(), shared, hash_of(tensor)]
        return _named("tensor", [facts, vars(tensor)])

    def _imported(self, module: types.ModuleType) -> Any:
        self.modules.add(module.__name__)
        return _named(f"imported {module.__name__}")


class _Named:
    """The stand-in of an object in the digest."""


def _named(text: str, contents: Any = None) -> tuple[type[_Named], tuple[str], Any]:
    return _Named, (text,), contents


def _of_module(module: Any) -> Any:
    """Return a module's form: its hooks by their order.

    torch numbers hooks through all modules of a process.
    """
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise NoKey("a program of TorchScript")
    registers = {
        name: held
        for name, held in vars(module).items()
        if "hooks" in name and isinstance(held, dict) and all(type(key) is int for key in held)
    }
    numbers = sorted({number for held in registers.values() for number in held})
    ordered = {
        name: {numbers.index(number): hook for number, hook in held.items()}
        for name, held in registers.items()
    }
    return _named("module", [type(module), vars(module) | ordered])


def _of_descriptor(descriptor: Any) -> Any:
    parts = [getattr(descriptor, name, None) for name in ("fget", "fset", "func", "__func__")]
    return _named("descriptor", parts)


def _of_strategy(strategy: SearchStrategy[Any]) -> Any:
    # How it is written: what it holds changes when it is drawn from. The text of its functions is
    # in the files of the test.
    if " at 0x" in (text := repr(strategy)):
        raise NoKey(f"the strategy {text:.80}")
    return _named(f"strategy {text}")


_EMPTY = types.CellType()
_COPIES = ("__reduce__", "__reduce_ex__", "__getstate__")
# The names of functions that read a file.
_READS = frozenset(
    {
        *("open", "read_text", "read_bytes", "load", "load_file", "safe_open", "urlopen"),
        *("loadtxt", "genfromtxt", "fromfile", "from_file", "memmap", "read_csv", "read_parquet"),
    }
)


def _shape_of(code: types.CodeType) -> list[Any]:
    """Return a function's code without its place: that of a text that was executed has no file."""
    constants = [_shape_of(each) if inspect.iscode(each) else each for each in code.co_consts]
    return [code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants]


def _is_library(file: str) -> bool:
    """Return True for a file of a library. Code that was made from a text has none."""
    return not file.startswith("<") and not is_users(file)


def _is_users(value: Any) -> bool:
    """Return True for a function of the user's: in a class of a library, it replaces another."""
    return isinstance(value, types.FunctionType) and not _is_library(value.__code__.co_filename)


def _is_of_library(thing: type | types.FunctionType) -> bool:
    """Return True if a library, or Python itself, has a class or function under its name."""
    module = sys.modules.get(thing.__module__)
    named: Any = module
    for name in thing.__qualname__.split("."):
        named = getattr(named, name, None)
    if named is not thing:
        return False  # made while the program runs, of what only it says
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return _is_library(file)
    return thing.__module__.partition(".")[0] in sys.stdlib_module_names


# -- files -----------------------------------------------------------------------------------------

# These import the module that a text names.
_IMPORT = frozenset(
    {"import_module", "importorskip", "__import__", "run_module", "resolve_name", "modules"}
)
# These run, or read of the environment, what no name tells.
_RUN_FILE = frozenset(
    {
        *("spec_from_file_location", "spec_from_loader", "exec_module", "load_module", "run_path"),
        *("SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader", "FileFinder"),
        *("walk_packages", "load_source", "meta_path", "path_hooks", "expandvars"),
    }
)
_RUN_TEXT = frozenset({"exec", "eval", "compile", "builtins", "__builtins__"})
_ENVIRONMENT = frozenset({"environ", "environb", "getenv", "getenvb"})
_FOLLOWED = _IMPORT | _RUN_FILE | _RUN_TEXT | _ENVIRONMENT
# These give torch a function that code calls by the name of an operator.
_REGISTER = re.compile(
    rb"torch\.library|custom_op|triton_op|register_kernel|register_fake|custom_translation_table"
)
# These reach an attribute by a name that they are given, which may be computed.
_BY_NAME = frozenset({"getattr", "vars", "attrgetter", "__dict__", "dir"})


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file's text: its digest, and what it mentions.

    ``imports``: absolute names, of modules and of what may be one. ``variables``: the environment
    variables that it reads; None: any. ``registers``: it gives torch functions of operators.
    ``used``: the names that may be those of attributes; None: any.
    """

    digest: str
    imports: frozenset[str]
    variables: frozenset[str] | None
    registers: bool
    used: frozenset[str] | None


def closure(modules: Iterable[str], files: Iterable[Path]) -> dict[str, Source]:
    """Return the user's files among modules, files, and all that they import, by module.

    Raises NoKey.
    """
    sources: dict[str, Source] = {}
    loaded = {getattr(each, "__file__", None): name for name, each in sys.modules.copy().items()}
    # The module of a conftest may have been replaced by the next one's, of the same name.
    waiting: list[tuple[str, str | None]] = [
        (loaded.get(str(path), f"{at}/{path.name}"), str(path)) for at, path in enumerate(files)
    ]
    waiting += _with_packages(modules)
    while waiting:
        name, file = waiting.pop()
        if file is None and name in sys.modules:
            file = getattr(sys.modules[name], "__file__", None)
        elif file is None:
            file = _not_imported(name, tuple(sys.path))
        if name in sources or not isinstance(file, str) or not is_users(file):
            continue
        path = Path(file)
        try:
            sources[name] = _parsed(path.read_bytes(), path.name, name)
        except (OSError, SyntaxError, ValueError, ImportError) as error:
            raise NoKey(f"{path.name}, which cannot be read ({error})") from None
        waiting += _with_packages(sources[name].imports)
    return sources


def variables(sources: Iterable[Source]) -> list[tuple[str, str | None]]:
    """Return the environment variables that files read, with their values."""
    read: set[str] = set()
    for source in sources:
        if source.variables is None:
            return [*_environment()]
        read |= source.variables
    return [(name, os.environ.get(name)) for name in sorted(read)]


def _environment() -> list[tuple[str, str]]:
    """Return all environment variables but pytest's, of each test, and places of caches."""
    return sorted(
        (name, value)
        for name, value in os.environ.items()
        if not name.startswith("PYTEST_") and name not in _PLACES
    )


def _with_packages(modules: Iterable[str]) -> list[tuple[str, None]]:
    parts = (name.split(".") for name in modules)
    return [(".".join(each[: end + 1]), None) for each in parts for end in range(len(each))]


@functools.lru_cache(maxsize=4096)
def _not_imported(name: str, _path: tuple[str, ...]) -> str | None:
    """Return the file that an import would run; imports none of the packages around it."""
    parts = name.split(".")
    try:
        spec = importlib.util.find_spec(parts[0])
        for end in range(2, len(parts) + 1):
            folders = spec.submodule_search_locations if spec is not None else None
            spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), folders or ())
    except (ImportError, ValueError, AttributeError):
        return None
    return spec.origin if spec is not None else None


@functools.lru_cache(maxsize=4096)
def _parsed(data: bytes, file: str, name: str) -> Source:
    tree = ast.parse(data) if file.endswith(".py") else ast.Module([], [])
    package = name if file == "__init__.py" else name.rpartition(".")[0]
    imports: set[str] = set()
    variables: set[str | None] = set()
    # By node, the text that it is called with, indexed by or compared with.
    texts: dict[ast.AST, str] = {}
    for node in ast.walk(tree):  # what a node is in comes before it
        unknown: set[str] = set()
        match node:
            case (
                ast.Call(func=user, args=[ast.Constant(value=str(text)), *_])
                | ast.Subscript(value=user, slice=ast.Constant(value=str(text)))
                | ast.Compare(left=ast.Constant(value=str(text)), comparators=[user])
            ):
                texts[user] = texts[getattr(user, "value", user)] = text  # also environ.get("X")
            case ast.Subscript(value=user, slice=ast.Name(id="__name__")):  # sys.modules[__name__]
                texts[user] = name
            case ast.Import():
                imports.update(each.name for each in node.names)
            case ast.ImportFrom():
                written = "." * node.level + (node.module or "")
                base = importlib.util.resolve_name(written, package)
                imports |= {base, *(f"{base}.{each.name}" for each in node.names)}
                unknown = {each.name for each in node.names if each.asname} & _FOLLOWED
            case ast.Name() | ast.Attribute() if used := _followed(node):
                given = texts.get(node)
                if used in _ENVIRONMENT:
                    variables.add(given)
                elif given is not None and used in _IMPORT:
                    imports.add(importlib.util.resolve_name(given.replace(":", "."), package))
                else:
                    unknown = {used}
        if unknown:
            raise NoKey(
                f"{file}:{getattr(node, 'lineno', 0)}, which runs or imports what only it knows "
                f"({', '.join(sorted(unknown))})"
            )
    return Source(
        digest=_hash(data),
        imports=frozenset(imports),
        variables=None if None in variables else frozenset(filter(None, variables)),
        registers=_REGISTER.search(data) is not None,
        used=_attributes(tree) if file.endswith(".py") else None,
    )


def _attributes(tree: ast.Module) -> frozenset[str] | None:
    """Return the names that a file may use as those of attributes; None: any."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.update(re.findall(r"\w+", node.value))
        elif isinstance(node, ast.Name) and node.id in _BY_NAME:
            return None
    return None if found & _BY_NAME else frozenset(found)


def _followed(node: ast.Name | ast.Attribute) -> str:
    """Return the name of one of these functions, or of ``sys.modules``; empty for another."""
    if isinstance(node, ast.Name):
        stored = node.id in _RUN_TEXT and not isinstance(node.ctx, ast.Load)
        return node.id if node.id in _FOLLOWED and not stored else ""
    # ``net.eval()``, ``re.compile`` and ``net.modules()`` are others.
    is_other = node.attr in _RUN_TEXT or (
        node.attr == "modules" and getattr(node.value, "id", "") != "sys"
    )
    return node.attr if node.attr in _FOLLOWED and not is_other else ""


# -- the process -----------------------------------------------------------------------------------


def surroundings(device: str) -> tuple[str, ...]:
    """Return the versions and settings that a check on a device depends on."""
    # Of custom operators.
    native = {Path(library).name: library for library in map(str, torch.ops.loaded_libraries)}
    has_device = cuda.is_cuda(device) and torch.cuda.is_available()
    return (
        *process(),
        *settings_now(device),
        str(GradMode.current()),
        *under_autocast(),
        *sorted(f"{k}={v}" for k, v in _environment() if k.startswith(_VARIABLES)),
        *([torch.cuda.get_device_name(device)] if has_device else ()),
        str(torch.version.cuda),
        *sorted(f"{name}={_hash_of_file(library)}" for name, library in native.items()),
    )


@functools.cache  # a library stays as it was loaded while the process lives
def _hash_of_file(path: str) -> str:
    return _hash(Path(path).read_bytes())


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@functools.cache
def process() -> tuple[str, ...]:
    """Return the versions and settings that no test changes.

    Every installed distribution: any of them may be a part of the model, or hook into torch.
    """
    root = Path(__file__).parents[1]  # in its own repository, its version stays the same
    sources = [*root.rglob("*.py"), *root.rglob("*.cpp")]
    own = {f"{path.relative_to(root)}:{_hash(path.read_bytes())}" for path in sources}
    installed = set()
    for package in metadata.distributions():
        # What an installer wrote of its files: the version may stay the same while it is installed
        # anew, as tox does. Not scripts and notes of the installer, which hold the directory, nor
        # what it compiled.
        lines = (package.read_text("RECORD") or "").splitlines()
        files = [line for line in lines if not re.match(r"\.\.|/|.*\.(dist-info/|pyc,)", line)]
        digest = _hash("\n".join(sorted(files)).encode())
        installed.add(f"{package.metadata['Name']}=={package.version} {digest}")
    return (
        platform.python_version(),
        platform.python_implementation(),
        f"-O{sys.flags.optimize}",  # leaves out asserts
        platform.platform(),
        torch.backends.cpu.get_cpu_capability(),
        *sorted(own | installed),
    )
