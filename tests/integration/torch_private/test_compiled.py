"""torch_private/compiled.py: this torch compiles packages, and has the loader that starts no program."""

import pytest
import torch

from pytest_torchexport.torch_private import compiled
from pytest_torchexport.torch_private.compiled import load_package, package_compiler


def test_torch_compiles_packages():
    assert package_compiler() is torch._inductor.aoti_compile_and_package


def test_a_file_without_a_package_is_refused_in_torchs_words(tmp_path):
    program = torch.export.export(torch.nn.ReLU(), (torch.ones(2, 3),))
    torch.export.save(program, tmp_path / "model.pt2")
    with pytest.raises(RuntimeError, match="Failed to find a generated cpp file or so file"):
        load_package(tmp_path / "model.pt2")


def test_a_torch_without_the_loader_compiles_none(monkeypatch):
    monkeypatch.delattr(torch._C._aoti, "AOTIModelPackageLoader")
    assert package_compiler() is None


def test_executorch_has_what_loads_its_files():
    pytest.importorskip("executorch", reason="executorch is not installed: tox -e runtimes")
    assert compiled.executorch_runtime().__name__ == compiled.EXECUTORCH


def test_an_executorch_without_the_loader_cannot_be_loaded(monkeypatch):
    monkeypatch.setattr(compiled, "EXECUTORCH", "math")
    with pytest.raises(ImportError, match="math lacks one of _load_for_executorch_from_buffer"):
        compiled.executorch_runtime()
