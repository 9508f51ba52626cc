"""Serve a file in an interpreter that has its runtime, and not this package.

    python serve.py FILE [SOURCE] < socket

SOURCE is Python that loads the file at ``path`` as ``artifact``, with torch. Without it, ONNX
Runtime loads the file. It reads calls and writes what they return as ``serve.cpp`` does. NAME.in
and NAME.out are pickled by torch; for ONNX Runtime they are arrays (``.npz``): the names of the
inputs and their values, and the outputs. Without FILE it prints the versions that it finds.

Runs on Python 3.8 and newer, with numpy or torch alone.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# numpy's names of ONNX Runtime's types, where they are not the same.
NAMES = {"float": "float32", "double": "float64"}


def versions() -> dict[str, str]:
    """Return the versions of Python and of the runtimes that can be imported here."""
    from importlib import metadata, util

    found = {"python": platform.python_version()}
    for name in ("onnxruntime", "torch"):
        if util.find_spec(name) is not None:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:  # onnxruntime-gpu and its like
                found[name] = str(getattr(__import__(name), "__version__", ""))
    return found


def of_onnx_runtime(path: str) -> Callable[[Path, int, bool], None]:
    """Return a function that makes a call of an ONNX file, from one path without suffix."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = {item.name: item.type[len("tensor(") : -1] for item in session.get_inputs()}

    def call(name: Path, _seed: int, _gradients: bool) -> None:
        with np.load(str(name.with_suffix(".in"))) as given:
            numbered = enumerate(given["arr_0"].tolist(), start=1)
            feeds = {each: given[f"arr_{n}"] for n, each in numbered if each in kinds}
        for each, value in feeds.items():
            if not value.ndim:  # a Python number, in the type that the file takes
                feeds[each] = value.astype(NAMES.get(kinds[each], kinds[each]))
        with name.with_suffix(".out").open("wb") as file:
            np.savez(file, *session.run(None, feeds))

    return call


def of_torch(path: str, source: str) -> Callable[[Path, int, bool], None]:
    """Return a function that makes a call of what the source loads."""
    import torch

    torch.set_num_threads(1)
    names: dict[str, Any] = {"torch": torch, "path": Path(path), "device": "cpu"}
    exec(compile(source, "serve", "exec"), names)  # noqa: S102  # of our own targets

    def call(name: Path, seed: int, gradients: bool) -> None:
        args, kwargs = torch.load(str(name.with_suffix(".in")))
        left = list(tensors((args, kwargs)))
        torch.manual_seed(seed)
        with torch.set_grad_enabled(gradients):
            value = names["artifact"](*args, **kwargs)
        torch.save((value, left, None), str(name.with_suffix(".out")))

    def tensors(value: Any) -> Iterator[Any]:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple, dict)):
            for item in value.values() if isinstance(value, dict) else value:
                yield from tensors(item)

    return call


def main(path: str, *source: str) -> None:
    channel = socket.socket(fileno=0)
    call = None
    for line in channel.makefile(encoding="utf-8"):
        anew, gradients, seed, name = line.split()[:4]
        try:
            if call is None or anew == "1":
                call = of_torch(path, *source) if source else of_onnx_runtime(path)
            call(Path(name), int(seed), gradients == "1")
        except Exception as error:
            text = f"{type(error).__name__}\n{error}"
            Path(name).with_suffix(".raised").write_text(text, encoding="utf-8", errors="replace")
        sys.stdout.flush()
        channel.sendall(b"\n")
    os._exit(0)  # the teardown of torch takes a quarter of a second


if __name__ == "__main__":
    if sys.argv[1:]:
        main(*sys.argv[1:])
    else:
        sys.stdout.write(json.dumps(versions()))
