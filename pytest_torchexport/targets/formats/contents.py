"""What a program says of itself, as plain text: what saving and loading must leave as it is.

Separate because it knows nothing of files and processes. The artifact in memory and the one that was loaded
elsewhere are each described on their own, and the two descriptions are compared key by key; so only what
torch keeps for a healthy program may be said here. Values are told by digests: nothing here holds a tensor.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pytest_torchexport.inputs.pytrees import bits_of, flatten, is_plain
from pytest_torchexport.targets.formats.sizes import Bounds, Facts, facts_of

Pairs = Iterable[tuple[str, str]]

# Tensors are hashed in parts of this many elements, so that weights are never in memory twice.
PART = 2**22
# A longer text is told by its beginning and its digest.
SHOWN = 80


def _described(**topics: Callable[[], Pairs]) -> dict[str, str]:
    """The answers on each topic; why there is none, where an odd program refuses to say."""
    found: dict[str, str] = {}
    for topic, answer in topics.items():
        try:
            found.update(answer())
        except Exception as error:
            found[topic] = f"not readable: {type(error).__name__}"
    return found


# -- TorchScript -------------------------------------------------------------------------------------


def of_torchscript(program: Any) -> dict[str, str]:
    """Methods, modes, tensors and other attributes of a ScriptModule or ScriptFunction. Never raises."""
    if not isinstance(program, torch.nn.Module):
        return _described(methods=lambda: _of_function(program))
    tensors = _Tensors()
    return _described(
        parameters=lambda: tensors.told(
            "parameter", program.named_parameters(remove_duplicate=False)
        ),
        buffers=lambda: tensors.told("buffer", program.named_buffers(remove_duplicate=False)),
        modes=lambda: _of_modes(program),
        methods=lambda: _of_methods(program, tensors),
        attributes=lambda: _of_attributes(program, tensors),
    )


def _of_function(function: Any) -> Pairs:
    # torch.jit.save makes a function the only method of a new module, which is in training mode and has lost
    # the defaults.
    yield "training", "True"
    yield _method("forward", function.schema.arguments, function, defaults=False)
    yield from _of_constants("forward", function, _Tensors())


def _parts(program: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """The module and all inside it, by path."""
    yield from program.named_modules(remove_duplicate=False)


def _of_modes(program: torch.nn.Module) -> Pairs:
    for path, part in _parts(program):
        mode = getattr(part, "training", None)  # a frozen one has none
        if mode is not None:
            yield f"training{_of(path)}", str(mode)


def _of(path: str) -> str:
    return f" of {path}" if path else ""


def _joined(*names: str) -> str:
    return ".".join(filter(None, names))


def _of_methods(program: torch.nn.Module, tensors: _Tensors) -> Pairs:
    for path, part in _parts(program):
        for name, method in _compiled(part):
            yield _method(_joined(path, name), method.schema.arguments[1:], method)
            yield from _of_constants(_joined(path, name), method, tensors)


def _method(
    name: str, arguments: Iterable[Any], method: Any, *, defaults: bool = True
) -> tuple[str, str]:
    taken = ", ".join(_argument(item, defaults) for item in arguments)
    returned = ", ".join(_type(item.type) for item in method.schema.returns)
    return f"method {name}", f"({taken}) -> {returned}"


def _argument(argument: Any, defaults: bool) -> str:
    told = defaults and argument.has_default_value()
    default = f" = {argument.default_value!r}" if told else ""
    # Saving numbers what has one name twice (an attention's x, x, x), and what has none in the source is counted
    # anew when a module is made of a function.
    name = re.sub(r"_?\d+$", "", argument.name)
    return f"{name}: {_type(argument.type)}{default}"


def _of_constants(name: str, method: Any, tensors: _Tensors) -> Pairs:
    # Printing numbers them anew, and one that occurs twice may become one: they are told together.
    texts = sorted({tensors.text(value) for value in _constants(method)})
    if texts:
        yield f"constants of {name}", _short("; ".join(texts))


def _type(kind: Any) -> str:
    return _unmangled(kind.annotation_str)


def _unmangled(text: str) -> str:
    """A type's name without the numbers that tell the types of one process apart."""
    return re.sub(r"___torch_mangle_\d+\.", "", text).replace("__torch__.", "")


def _of_attributes(program: torch.nn.Module, tensors: _Tensors) -> Pairs:
    for path, part in _parts(program):
        registered = _registered(part)
        for name, kind in _declared(part):
            if name not in registered and name != "training":
                value = _value(_attribute(part, name), tensors)
                yield f"attribute {_joined(path, name)}", f"{kind}{value}"


def _registered(part: torch.nn.Module) -> set[str]:
    parameters = part.named_parameters(recurse=False, remove_duplicate=False)
    buffers = part.named_buffers(recurse=False, remove_duplicate=False)
    return {name for name, _ in (*parameters, *buffers)}


def _value(value: Any, tensors: _Tensors) -> str:
    """`` = 3`` for what is made of plain values and tensors alone; of others the type is all there is."""
    leaves, _ = flatten(value)
    # By its very type: a member of an enumeration may be a str too, and is none where its class is not known.
    if not all(type(leaf) in _PLAIN or isinstance(leaf, torch.Tensor) for _, leaf in leaves):
        return ""
    texts = (
        f"{path}{' ' if path else ''}{tensors.text(leaf) if isinstance(leaf, torch.Tensor) else repr(leaf)}"
        for path, leaf in leaves
    )
    return f" = {_short(', '.join(texts))}"


_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.device)


# -- torch.export ------------------------------------------------------------------------------------


def of_exported(program: Any) -> dict[str, str]:
    """Signature, structures, ranges, tensors and module calls of an ExportedProgram. Never raises."""
    tensors = _Tensors()
    return _described(
        inputs=lambda: _of_specs("input", program, program.graph_signature.input_specs),
        outputs=lambda: _of_specs("output", program, program.graph_signature.output_specs),
        structures=lambda: (
            ("structure of inputs", _flat(program.call_spec.in_spec)),
            ("structure of outputs", _flat(program.call_spec.out_spec)),
        ),
        ranges=lambda: (
            (f"range of {symbol}", _interval(interval))
            for symbol, interval in program.range_constraints.items()
        ),
        state=lambda: (
            pair
            for name, value in program.state_dict.items()
            for pair in tensors.told(_kind(value), [(name, value)])
        ),
        constants=lambda: tensors.told("constant", program.constants.items()),
        modules=lambda: (
            # No names are written as None.
            (
                f"module {entry.fqn}",
                _flat(entry.signature).replace("arg_names=[]", "arg_names=None"),
            )
            for entry in program.module_call_graph
        ),
    )


def _kind(value: torch.Tensor) -> str:
    return "parameter" if isinstance(value, torch.nn.Parameter) else "buffer"


def _of_specs(kind: str, program: Any, specs: Iterable[Any]) -> Pairs:
    from torch.export.graph_signature import InputKind

    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    for number, item in enumerate(specs):
        name = getattr(item.arg, "name", "")
        # Of an object of C++ (TorchBind, a generator) the capture's stand-in is not saved.
        held = getattr(item.arg, "class_fqn", values.get(name))
        value = getattr(item.arg, "value", held)
        facts = (item.kind.name, type(item.arg).__name__, name, item.target, _fake(value))
        # Of a constant it is said in memory alone.
        buffer = item.kind == InputKind.BUFFER
        kept = f" persistent={item.persistent}" if buffer else ""
        yield f"{kind} {number}", " ".join(map(str, facts)) + kept


def _interval(interval: Any) -> str:
    # torch has two infinities, and a range of a float comes back with the other.
    return f"{interval.lower} to {interval.upper}".replace("int_oo", "oo")


def _fake(value: Any) -> str:
    """``float32[s77, 3]`` for a tensor of the capture. Its layout is not saved."""
    return _shape(value) if isinstance(value, torch.Tensor) else repr(value)


def _flat(thing: Any) -> str:
    """A repr on one line, without addresses."""
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(thing).split()))


def sizes_of(program: Any) -> dict[str, Any]:
    """The sizes and ranges of an ExportedProgram as plain JSON, for ``facts_from`` in another process. Never
    raises; an axis of which only an expression is known is None.
    """
    facts = facts_of(program)
    return {
        "axes": [
            None if shape is None else [_plain_size(size) for size in shape] for shape in facts.axes
        ],
        "ranges": {
            str(symbol): [bounds.low, bounds.high]
            for symbol, bounds in facts.ranges.items()
            if symbol.is_Symbol
        },
    }


def facts_from(data: Mapping[str, Any]) -> Facts:
    """What ``sizes_of`` said. Names become symbols and nothing is evaluated: who wrote them is not known."""
    import sympy  # type: ignore[import-untyped]

    def size(value: Any) -> Any:
        return sympy.Symbol(value) if isinstance(value, str) else _whole(value)

    return Facts(
        axes=tuple(
            None if shape is None else tuple(size(value) for value in shape)
            for shape in data["axes"]
        ),
        ranges={
            sympy.Symbol(str(name)): Bounds(_whole(low), _whole(high))
            for name, (low, high) in data["ranges"].items()
        },
    )


def _plain_size(size: Any) -> int | str | None:
    if isinstance(size, int):
        return size
    return str(size) if getattr(size, "is_Symbol", False) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


# -- tensors -----------------------------------------------------------------------------------------


class _Tensors:
    """Texts of tensors. One that goes by several names is hashed once."""

    def __init__(self) -> None:
        self._digests: dict[tuple[Any, ...], str] = {}

    def told(self, kind: str, named: Iterable[tuple[str, Any]]) -> Pairs:
        """``parameter fc.weight``: ``float32[3, 3] 1a2b... requires_grad`` each."""
        for name, value in named:
            tensor = isinstance(value, torch.Tensor)
            # Of a buffer torch.export keeps what a parameter says with which it shares its storage.
            grad = " requires_grad" if kind == "parameter" and value.requires_grad else ""
            yield f"{kind} {name}", self.text(value) + grad if tensor else type(value).__name__

    def text(self, tensor: torch.Tensor) -> str:
        """Its dtype, shape and digest. Not its device, which is for the one who loads to choose."""
        layout = "" if tensor.layout == torch.strided else f" {tensor.layout}"
        return f"{_shape(tensor)}{layout} {self._digest(tensor)}".replace("torch.", "")

    def _digest(self, tensor: torch.Tensor) -> str:
        if not is_plain(tensor):
            return _digest(tensor)
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj())
        if key not in self._digests:
            self._digests[key] = _digest(tensor)
        return self._digests[key]


def _shape(tensor: torch.Tensor) -> str:
    shape = "nested" if tensor.is_nested else ", ".join(map(str, tensor.shape))
    return f"{tensor.dtype}[{shape}]".replace("torch.", "")


def _digest(tensor: torch.Tensor) -> str:
    if tensor.is_meta:
        return "without values"
    digest = hashlib.blake2b(digest_size=8)
    try:
        _feed(digest, tensor.detach())
    except (
        Exception
    ) as error:  # a tensor of a kind that is neither of torch's plain ones nor known here
        return f"not readable: {type(error).__name__}"
    return digest.hexdigest()


def _feed(digest: Any, tensor: torch.Tensor) -> None:
    """Hash a tensor's values, part by part; those that are no plain tensors by the tensors they are made of."""
    if tensor.is_quantized:
        digest.update(f"{tensor.qscheme()} {_quantization(tensor)}".encode())
        _feed(digest, tensor.int_repr())
    elif tensor.layout == torch.sparse_coo:
        _feed(digest, tensor.coalesce().indices())
        _feed(digest, tensor.coalesce().values())
    else:
        for part in _in_parts(tensor):
            digest.update(bits_of(part))


def _quantization(tensor: torch.Tensor) -> str:
    if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        return f"{tensor.q_scale()} {tensor.q_zero_point()}"
    scales, zeros = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
    return f"{scales.tolist()} {zeros.tolist()} {tensor.q_per_channel_axis()}"


def _in_parts(tensor: torch.Tensor) -> Iterable[torch.Tensor]:
    """Its values in their order, in views that are small enough to be copied."""
    rows = tensor.reshape(-1) if tensor.is_contiguous() else tensor
    if rows.numel() <= PART:
        return (rows,)
    return torch.split(rows, max(1, PART * rows.shape[0] // rows.numel()))


def _short(text: str) -> str:
    if len(text) <= SHOWN:
        return text
    return f"{text[:SHOWN]}... {hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}"


# -- TorchScript's private parts ---------------------------------------------------------------------


_DECLARED = re.compile(r'^  (?:(\w+)|__annotations__\["(.+?)"\]) [:=] (.+)$')


def _declared(part: Any) -> Iterator[tuple[str, str]]:
    """The attributes and constants of a compiled module with their types, from its printed class, which a
    loaded one has as well. Nothing where torch prints none.
    """
    for line in getattr(getattr(part, "_c", None), "code", "").splitlines():
        if line.startswith("  def "):
            return
        found = _DECLARED.match(line)
        if found is not None and found[1] not in ("__parameters__", "__buffers__"):
            yield found[1] or found[2], _unmangled(found[3])


def _attribute(part: Any, name: str) -> Any:
    """An attribute's value; an object that says nothing where Python has no type for it, as for an enum
    whose class is not there.
    """
    try:
        return part._c.getattr(name)
    except Exception:
        return object()


def _compiled(part: Any) -> Iterator[tuple[str, Any]]:
    """The compiled methods of a module."""
    list_names = getattr(getattr(part, "_c", None), "_method_names", None)
    for name in list_names() if list_names is not None else ():
        yield name, part._c._get_method(name)


def _constants(method: Any) -> list[torch.Tensor]:
    """The tensors that are constants of its graph, as are the weights of a frozen module. Without scalars:
    what a trace holds as a number is a tensor once it is loaded.
    """
    values = [
        node.t("value")
        for node in method.graph.findAllNodes("prim::Constant")
        # What nothing uses is not saved.
        if node.hasAttribute("value") and node.kindOf("value") == "t" and node.output().uses()
    ]
    return [value for value in values if value.dim() > 0]


# -- files of the user's in an archive -----------------------------------------------------------------


def given_extras(files: Mapping[str, str | bytes]) -> dict[str, str]:
    """Names and digests of what ``_extra_files`` (``extra_files`` of torch.export) is to save."""
    encoded = {
        name: data.encode() if isinstance(data, str) else bytes(data)
        for name, data in files.items()
    }
    return {f"extra file {name}": _digest_of(data) for name, data in encoded.items()}


def extras_of(path: Path) -> dict[str, str]:
    """The same of a saved archive: ``NAME/extra/...`` in torch's zip files."""
    with zipfile.ZipFile(path) as archive:
        parts = ((name.split("/", 2), name) for name in archive.namelist())
        return {
            f"extra file {pieces[2]}": _digest_of(archive.read(name))
            for pieces, name in parts
            if len(pieces) == 3 and pieces[1] == "extra"
        }


def _digest_of(data: bytes) -> str:
    return f"{len(data)} bytes, {hashlib.blake2b(data, digest_size=8).hexdigest()}"
