"""results/source_line.py: whose a file is."""

from __future__ import annotations

import sys

import pytest

from pytest_torchexport.results.source_line import is_models, is_users


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of the user's that is on the path, into which pip also installed a library."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    record = tmp_path / "einlib-0.4.dist-info" / "RECORD"
    record.parent.mkdir()
    record.write_text("einlib/__init__.py,sha256=47DE,0\neinlib/api.py,,\nonefile.py,,\n")
    return tmp_path


def test_a_file_that_was_installed_is_a_librarys_wherever_it_lies(folder):
    installed = ("einlib/_src/api.py", "onefile.py")
    users = ("net.py", "einlib.py", "package/einlib/api.py")
    assert not any(is_users(str(folder / name)) for name in installed)
    assert all(is_users(str(folder / name)) for name in users)


@pytest.mark.parametrize(
    ("path", "users", "models"),
    [
        ("<string>", False, False),
        ("/usr/lib/python3.11/random.py", False, False),
        ("/project/lib/python/models/net.py", True, False),
        ("/x/lib/python3.11/site-packages/timm/layers.py", False, True),
        ("/x/lib/python3.11/site-packages/my_models.py", False, True),
        ("/x/site-packages/torch/nn/__init__.py", False, False),
        ("/x/site-packages/onnxruntime/a.py", False, False),
    ],
)
def test_a_library_may_hold_models_unless_it_runs_or_exports_them(path, users, models):
    assert (is_users(path), is_models(path)) == (users, models)
