"""Files that attack whoever loads them, and files that are merely broken: what a judge of artifacts must survive.

Apart from the zoo because nothing here has an eager model to be faithful to: each builder writes one file into
``directory`` and returns the path to load. All are small, written within a second, and the same every time;
the only thing that a payload ever does is to create ``directory/PWNED``. Where a file can be called, it takes
one float tensor ``x`` of shape ``(n, 3)``.

What torch and ONNX Runtime do with each of them is in its docstring: torch 2.13, ONNX Runtime 1.31, a plain
interpreter on Linux x86-64.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn
from zoo import rows

MARKER = "PWNED"
FLOAT_BYTES = 4
# More than the sandbox may ever be given: the claim alone must be refused, or the reader dies of it.
BOMB_BYTES = 9 << 30
Builder = Callable[[Path], Path]


class Payload:
    """Unpickled, it creates a file and becomes a harmless value, so that the reader notices nothing."""

    def __init__(self, marker: Path, disguise: str) -> None:
        self.source = f"open({str(marker)!r}, 'w').close() or {disguise}"

    def __reduce__(self) -> Any:
        return eval, (self.source,)


# -- healthy files, to be tampered with -----------------------------------------------------------------


def healthy_pt(directory: Path) -> Path:
    """A scripted ``nn.Linear``."""
    path = directory / "model.pt"
    torch.jit.script(_linear()).save(str(path))
    return path


def healthy_pt2(directory: Path) -> Path:
    """An exported ``nn.Linear``."""
    path = directory / "model.pt2"
    torch.export.save(torch.export.export(_linear(), (torch.ones(4, 3),)), path)
    return path


def healthy_onnx(directory: Path) -> Path:
    """``x + weight``, in one file."""
    return _onnx(directory, [_node("Add", ["x", "weight"], ["y"])], [_embedded("weight", [3], 12)])


def _linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 2).eval()


# -- pickles --------------------------------------------------------------------------------------------


def pickle_in_sample_inputs(directory: Path) -> Path:
    """A ``.pt2`` whose example inputs are code: ``torch.export.load`` runs it, says nothing, and the program works."""
    payload = Payload(directory / MARKER, "((__import__('torch').ones(4, 3),), {})")
    return _rewritten(healthy_pt2(directory), {"data/sample_inputs/model.pt": saved(payload)})


def pickle_in_weights(directory: Path) -> Path:
    """A ``.pt2`` that says of a weight that it is pickled: the code runs, and the program works."""
    path = healthy_pt2(directory)
    config = json.loads(_entry(path, "data/weights/model_weights_config.json"))
    config["config"]["bias"]["use_pickle"] = True
    payload = Payload(
        directory / MARKER, "__import__('torch').nn.Parameter(__import__('torch').zeros(2))"
    )
    return _rewritten(
        path,
        {
            "data/weights/model_weights_config.json": json.dumps(config).encode(),
            "data/weights/weight_1": saved(payload),
        },
    )


def pickle_in_constants(directory: Path) -> Path:
    """The same with a constant that no program asks for: it is unpickled all the same."""
    constant = {"path_name": "tensor_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    payload = Payload(directory / MARKER, "__import__('torch').zeros(2)")
    return _rewritten(
        healthy_pt2(directory),
        {
            "data/constants/model_constants_config.json": json.dumps(
                {"config": {"unused": constant}}
            ).encode(),
            "data/constants/tensor_0": saved(payload),
        },
    )


def pickled(dump: Callable[[Any], bytes]) -> Builder:
    """A pickle named ``.pt``: ``torch.jit.load`` and ``torch.load`` refuse it, ``weights_only=False`` runs it."""

    def write(path: Path) -> None:
        path.write_bytes(dump(Payload(path.parent / MARKER, "{}")))

    return _built(f"pickled by {dump.__name__}", ".pt", write)


def pickle_in_torchscript(directory: Path) -> Path:
    """A TorchScript archive whose ``data.pkl`` names ``builtins.eval``: torch's own unpickler knows no such type."""
    payload = pickle.dumps(Payload(directory / MARKER, "{}"), protocol=2)
    return _rewritten(healthy_pt(directory), {"data.pkl": payload})


# -- archives that are more than they seem --------------------------------------------------------------


def bomb_pt(directory: Path) -> Path:
    """Nine gigabytes of zeros deflated to nine megabytes, as a TorchScript module's weight. With enough memory it
    loads, in half a minute, and works.
    """
    return _inflated(healthy_pt(directory), "data/0")


def bomb_pt2(directory: Path) -> Path:
    """The same as an exported program's weight."""
    return _inflated(healthy_pt2(directory), "data/weights/weight_0")


def boast_pt(directory: Path) -> Path:
    """An archive that says of a weight of 24 bytes that it is a terabyte."""
    return _claimed(healthy_pt(directory), "data/0", 1 << 40)


def traversal_pt(directory: Path) -> Path:
    """An archive with an entry that is to be unpacked outside of it. torch unpacks nothing."""
    return _rewritten(healthy_pt(directory), _outside(directory, "extra"))


def traversal_pt2(directory: Path) -> Path:
    """The same in a ``.pt2``."""
    return _rewritten(healthy_pt2(directory), _outside(directory, "data/extra"))


def traversal_compiled_pt2(directory: Path) -> Path:
    """The same among the files of a compiled model: ``torch.export.load`` writes it, outside, and then fails."""
    folder = "data/aotinductor/model"
    metadata = {f"{folder}/model.wrapper_metadata.json": b'{"AOTI_DEVICE_KEY": "cpu"}'}
    entries = metadata | _outside(directory, folder)
    return _rewritten(healthy_pt2(directory), entries)


def _outside(directory: Path, folder: str) -> dict[str, bytes]:
    up = "/".join([".."] * 20)
    return {f"{folder}/{up}{directory / MARKER}": b"written outside of the archive"}


def _inflated(path: Path, entry: str) -> Path:
    """The archive with an entry that really inflates to BOMB_BYTES."""
    size = 64 << 20
    compressor = zlib.compressobj(9, wbits=-15)
    # Flushed so that the next block needs nothing of the one before: copies of it make a stream.
    block = compressor.compress(bytes(size)) + compressor.flush(zlib.Z_FULL_FLUSH)
    data = block * (BOMB_BYTES // size) + compressor.flush()
    return _claimed(_rewritten(path, {entry: data}), entry, BOMB_BYTES)


def _claimed(path: Path, entry: str, size: int) -> Path:
    """The archive with an entry of which its directory says that it inflates to that size."""
    with zipfile.ZipFile(path, "a") as archive:
        info = archive.getinfo(f"{_root(archive)}/{entry}")
        info.file_size, info.compress_type = size, zipfile.ZIP_DEFLATED
        archive.comment = b" "  # has the directory written anew
    return path


# -- files that are no such file ------------------------------------------------------------------------


def truncated(build: Builder, kept: float) -> Builder:
    """The builder's file without its end."""

    def cut(directory: Path) -> Path:
        path = build(directory)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * kept)])
        return path

    cut.__name__ = f"{build.__name__}_{kept:.1%}"
    return cut


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
NO_SUCH_FILE: Mapping[str, Callable[[Path], Any]] = {
    "empty": Path.touch,  # for ONNX Runtime that is a model without a graph
    "text": lambda path: path.write_bytes(POINTER),  # as in a Git checkout without large files
    "folder": Path.mkdir,
    "symlink loop": lambda path: path.symlink_to(path.name),
    "pipe": os.mkfifo,  # whoever opens it, to load it or to hash it, waits for ever
}


def no_such_file(what: str, suffix: str) -> Builder:
    """Something else under a model's name."""
    return _built(f"{what}{suffix}", suffix, NO_SUCH_FILE[what])


def _built(name: str, suffix: str, make: Callable[[Path], Any]) -> Builder:
    def build(directory: Path) -> Path:
        path = directory / f"model{suffix}"
        make(path)
        return path

    build.__name__ = name
    return build


# -- ONNX: weights that lie elsewhere -------------------------------------------------------------------


def _secret(directory: Path) -> Path:
    """A file that is long enough to be read as the weight."""
    path = directory / "secret"
    path.write_bytes(b"a secret of 64 bytes that must not come out".ljust(64))
    return path


def _beside(
    location: str, prepare: Callable[[Path], Any] = lambda _: None, **place: int
) -> Builder:
    """A model in a directory of its own whose weight lies elsewhere; above it lies a secret."""

    def build(directory: Path) -> Path:
        inner = directory / "model"
        inner.mkdir()
        _secret(directory)
        prepare(inner)
        return _external(inner, location, **place)

    build.__name__ = f"external {location} {place or ''}"
    return build


# Reads ``../secret``: ONNX Runtime and onnx refuse to leave the model's directory.
external_above = _beside("../secret")
# A link beside the model that leads out of its directory, and a file in a linked folder.
external_symlink = _beside("weights", lambda inner: (inner / "weights").symlink_to("../secret"))
external_symlinked_folder = _beside(
    "folder/secret", lambda inner: (inner / "folder").symlink_to(inner.parent)
)
# The weights stayed behind: the commonest of all.
external_missing = _beside("weights")
# Half of the weights came along.
external_truncated = _beside("weights", lambda inner: (inner / "weights").write_bytes(bytes(6)))
# A link to a device that never ends.
external_endless = _beside("weights", lambda inner: (inner / "weights").symlink_to("/dev/zero"))
# A named pipe that nobody writes to. ONNX Runtime takes regular files alone.
external_pipe = _beside("weights", lambda inner: os.mkfifo(inner / "weights"))
# Begins a terabyte behind the end of its file, which is beside the model, and has a length below zero.
external_offset_beyond = _beside("secret", _secret, offset=1 << 40)
external_length_negative = _beside("secret", _secret, length=-12)


def external_absolute(directory: Path) -> Path:
    """Reads an absolute path."""
    return _external(directory, str(_secret(directory)))


def _external(directory: Path, location: str, **place: int) -> Path:
    weight = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[3])
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "length": 3 * FLOAT_BYTES, **place}.items():
        weight.external_data.add(key=key, value=str(value))
    return _onnx(directory, [_node("Add", ["x", "weight"], ["y"])], [weight])


# -- ONNX: claims, loops, and what the runtime dies of --------------------------------------------------


def claimed(*dims: int) -> Builder:
    """A weight of twelve bytes that says it has other dims: 2**40 numbers, or one dim below zero."""

    def build(directory: Path) -> Path:
        weight = _embedded("weight", list(dims), 12)
        return _onnx(directory, [_node("Add", ["x", "weight"], ["y"])], [weight])

    build.__name__ = f"claimed{dims}"
    return build


def allocates_at_once_onnx(directory: Path) -> Path:
    """Asks for four terabytes in one node."""
    zeros = _node("ConstantOfShape", ["size"], ["many"])
    return _onnx(
        directory,
        [zeros, _node("ReduceSum", ["many"], ["sum"]), _node("Add", ["x", "sum"], ["y"])],
        [helper.make_tensor("size", TensorProto.INT64, [1], [2**40])],
    )


def never_returns_onnx(directory: Path) -> Path:
    """A Loop without a trip count whose condition stays true."""
    return _looping(directory, _node("Identity", ["before"], ["after"]))


def allocates_without_end_onnx(directory: Path) -> Path:
    """The same with a value that doubles in each round."""
    return _looping(directory, _node("Concat", ["before", "before"], ["after"], axis=0))


def divides_out_of_range_onnx(directory: Path) -> Path:
    """The least int64 divided by -1, which the processor refuses: SIGFPE in the call."""
    least = helper.make_tensor("least", TensorProto.INT64, [1], [-(2**63)])
    # Of values that are known only in the call: else ONNX Runtime divides while it loads.
    nodes = [
        _node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        _node("Sub", ["whole", "whole"], ["none"]),
        _node("Add", ["none", "least"], ["numerator"]),
        _node("Add", ["none", "minus"], ["denominator"]),
        _node("Div", ["numerator", "denominator"], ["quotient"]),
        _node("Cast", ["quotient"], ["y"], to=TensorProto.FLOAT),
    ]
    return _onnx(
        directory, nodes, [least, helper.make_tensor("minus", TensorProto.INT64, [1], [-1])]
    )


def nested_functions_onnx(directory: Path) -> Path:
    """Twenty thousand functions, each calling the next: ONNX Runtime runs out of stack while it loads (SIGSEGV)."""
    depth = 20_000
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    inner = [helper.make_node(f"f{i + 1}", ["a"], ["b"], domain="local") for i in range(depth - 1)]
    functions = [
        helper.make_function("local", f"f{i}", ["a"], ["b"], [node], opsets)
        for i, node in enumerate([*inner, _node("Identity", ["a"], ["b"])])
    ]
    call = helper.make_node("f0", ["x"], ["y"], domain="local")
    return _onnx(directory, [call], [], functions)


def _looping(directory: Path, step: Any) -> Path:
    """``x`` carried through a Loop that nothing ends."""
    flag, number = TensorProto.BOOL, TensorProto.FLOAT
    body = helper.make_graph(
        [_node("Identity", ["go"], ["go_on"]), step],
        "body",
        [_value("i", TensorProto.INT64, []), _value("go", flag, []), _value("before", number)],
        [_value("go_on", flag, []), _value("after", number)],
    )
    forever = helper.make_tensor("forever", flag, [], [True])
    return _onnx(directory, [_node("Loop", ["", "forever", "x"], ["y"], body=body)], [forever])


def _onnx(directory: Path, nodes: list[Any], weights: list[Any], functions: Any = ()) -> Path:
    graph = helper.make_graph(
        nodes,
        "hostile",
        [_value("x", TensorProto.FLOAT, ["n", 3])],
        [_value("y", TensorProto.FLOAT, ["m", "k"])],
        initializer=weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)
    path = directory / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, outputs, **attributes)


def _value(name: str, dtype: int, shape: Any = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def _embedded(name: str, dims: list[int], size: int) -> TensorProto:
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims, raw_data=bytes(size))


# -- TorchScript that behaves badly ---------------------------------------------------------------------


Module = Callable[[], nn.Module]


def of_the_zoo(name: str) -> Module:
    """The model of a row whose script does harm, and whose eager model does not."""
    (build,) = (row.build for row in rows("dangerous") if row.name == name)
    return build


NeverReturns = of_the_zoo("hangs, scripted")
AllocatesWithoutEnd = of_the_zoo("allocates, scripted")
PrintsWithoutEnd = of_the_zoo("chatters, scripted")
ReadsBeyondTheEnd = of_the_zoo("reads beyond, scripted")
# TorchScript runs ``__setstate__`` in the load.
NeverLoads = of_the_zoo("own state, hangs")
DiesInTheLoad = of_the_zoo("own state, dies")
PrintsInTheLoad = of_the_zoo("own state, says an answer")


def spin(x: Tensor) -> Tensor:
    while bool(x.numel() > 0):
        x = x * 1.0
    return x


class WaitsForAChild(nn.Module):
    """Hangs in a task of another thread."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.jit.wait(torch.jit.fork(spin, x))


class AllocatesAtOnce(nn.Module):
    """Asks for four terabytes."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones([1024, 1024, 1024, 1024]).sum()


def scripted(make: Module) -> Builder:
    """The module as a TorchScript archive. It is never called here."""

    name = next(name for name, each in globals().items() if each is make)
    return _built(name, ".pt", lambda path: torch.jit.script(make()).save(str(path)))


def nested_source(directory: Path) -> Path:
    """A TorchScript archive whose source nests parentheses so deep that its parser runs out of stack (SIGSEGV)."""
    path = healthy_pt(directory)
    entry = _the_source(path)
    depth = 200_000
    source = _entry(path, entry).decode()
    start = source.index("input: Tensor")
    assert "return" in source[start:]
    head, tail = source[:start], source[start:]
    signature, _, _ = tail.partition("\n")
    body = f"{signature}\n    return {'(' * depth}input{')' * depth}\n"
    return _rewritten(path, {entry: (head + body).encode()})


# -- archives -------------------------------------------------------------------------------------------


def saved(value: Any) -> bytes:
    """The bytes of ``torch.save``."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _root(archive: zipfile.ZipFile) -> str:
    return archive.namelist()[0].partition("/")[0]


def _entry(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{_root(archive)}/{name}")


def _the_source(path: Path) -> str:
    """The archive's one file of code: a process's second ``Linear`` is "linear/___torch_mangle_0.py"."""
    with zipfile.ZipFile(path) as archive:
        start = f"{_root(archive)}/"
        (entry,) = (
            name.removeprefix(start)
            for name in archive.namelist()
            if name.startswith(f"{start}code/") and name.endswith(".py")
        )
    return entry


def _rewritten(path: Path, entries: Mapping[str, bytes]) -> Path:
    """The archive with these entries replaced or added. Nothing is compressed, as torch wants it."""
    with zipfile.ZipFile(path) as archive:
        root = _root(archive)
        kept = {name: archive.read(name) for name in archive.namelist()}
    kept |= {f"{root}/{name}": data for name, data in entries.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in kept.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return path
