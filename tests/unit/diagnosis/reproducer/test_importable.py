"""diagnosis/reproducer/importable.py: names from which another process imports the same thing."""

import importlib
import subprocess
import sys

import pytest
import torch

from pytest_torchexport.diagnosis.reproducer.importable import Importable
from pytest_torchexport.diagnosis.reproducer.values import Inexpressible


class Own:
    class Inner:
        pass


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose code lies in two folders, imported here."""
    (tmp_path / "src" / "cakes").mkdir(parents=True)
    (tmp_path / "src" / "cakes" / "__init__.py").write_text("")
    (tmp_path / "src" / "cakes" / "layers.py").write_text("class Layer: pass\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_cakes.py").write_text("from cakes import layers\nclass Net: pass\n")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path / "src")
    monkeypatch.syspath_prepend(tmp_path / "tests")
    importlib.invalidate_caches()
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_public_names_of_torch_are_used(tmp_path):
    names = Importable(tmp_path)
    assert [
        names.name(x) for x in (torch.nn.Linear, torch.relu, torch.nn.functional.gelu, dict)
    ] == [
        "torch.nn.Linear",
        "torch.relu",
        "torch.nn.functional.gelu",
        "dict",
    ]
    assert names.project() == ""


def test_a_script_finds_the_folders_of_the_project(project):
    net = importlib.import_module("test_cakes").Net
    names = Importable(project)
    assert names.name(net) == "test_cakes.Net"
    text = names.project()
    assert str(project) not in text
    script = project / ".torchexport" / "item" / "script.py"
    script.parent.mkdir(parents=True)
    start = "import sys\nfrom pathlib import Path\nHERE = Path(__file__).parent\n"
    script.write_text(f"{start}{text}\nprint(test_cakes.Net, test_cakes.layers.Layer)\n")
    command = [sys.executable, "-I", str(script)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    assert ran.stdout == "<class 'test_cakes.Net'> <class 'cakes.layers.Layer'>\n"


def test_a_nested_class_has_its_whole_name(tmp_path):
    assert Importable(tmp_path).name(Own.Inner) == f"{__name__}.Own.Inner"


def test_what_another_process_cannot_import_is_refused(project):
    module = importlib.import_module("test_cakes")
    module.Net.__module__ = "elsewhere"
    with pytest.raises(Inexpressible, match="'Net' cannot be imported from elsewhere"):
        Importable(project).name(module.Net)
    with pytest.raises(Inexpressible, match="defined inside"):
        Importable(project).name(lambda: 1)
    layer = importlib.import_module("cakes.layers").Layer
    sys.modules["pies"] = sys.modules["cakes.layers"]
    layer.__module__ = "pies"
    with pytest.raises(Inexpressible, match="pies cannot be imported under that name"):
        Importable(project).name(layer)
