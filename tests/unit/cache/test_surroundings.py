"""cache/surroundings.py: other versions, files of packages and variables are other surroundings."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport.cache import surroundings as of_this_file
from pytest_torchexport.cache.surroundings import surroundings

RECORD = """layers/net.py,sha256=one,10
layers/__pycache__/net.cpython-311.pyc,,
../../../bin/layers,sha256=two,20
layers-1.0.dist-info/direct_url.json,sha256=three,30
"""


@pytest.fixture
def found(tmp_path, monkeypatch):
    """Install a package of one version, with a RECORD, and return the surroundings."""
    folder = tmp_path / "layers-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: layers\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    def install(record):
        (folder / "RECORD").write_text(record)
        of_this_file._process.cache_clear()
        return surroundings("cpu")

    yield install
    of_this_file._process.cache_clear()


def test_a_package_that_is_installed_anew_under_its_version_is_another(found):
    before = found(RECORD)
    assert any(each.startswith("layers==1.0") for each in before)
    assert found(RECORD) == before
    assert found(RECORD.replace("one", "four")) != before


@pytest.mark.parametrize("line", range(1, 4))
def test_where_and_how_a_package_was_installed_does_not_count(found, line):
    lines = RECORD.splitlines(keepends=True)
    assert found("".join(lines[:line] + lines[line + 1 :])) == found(RECORD)


@pytest.mark.parametrize("name", ["ONEDNN_DEFAULT_FPMATH_MODE", "NVIDIA_TF32_OVERRIDE", "TORCH_X"])
def test_variables_of_torch_and_its_libraries_count(monkeypatch, name):
    before = surroundings("cpu")
    monkeypatch.setenv(name, "1")
    assert surroundings("cpu") != before


def test_a_setting_of_torch_counts(monkeypatch):
    before = surroundings("cpu")
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.float64)
    assert surroundings("cpu") != before
