"""Give every test pytester and the scripts of this checkout, and torch one thread."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
import torch

pytest_plugins = ["pytester"]
SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def in_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield the program in C++ that serves files, compiled once for all workers of a run."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to compile the program in C++")
    from pytest_torchexport.sandbox import cpp

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("CXX", raising=False)
        patched.setenv("TORCH_EXTENSIONS_DIR", str(folder / "compiled"))
        program = cpp.program()
        assert isinstance(program, Path), program
        yield program


@pytest.fixture
def load_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a file of scripts/, which is not a package, by its name."""

    def load(file: str) -> ModuleType:
        name = Path(file).stem.replace("-", "_")
        loader = SourceFileLoader(name, str(SCRIPTS / file))
        module = module_from_spec(spec_from_loader(name, loader))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.syspath_prepend(SCRIPTS)
        monkeypatch.setitem(sys.modules, name, module)
        loader.exec_module(module)
        return module

    return load
