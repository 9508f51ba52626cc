"""sandbox/child.py: a server answers each request, also one that fails."""

from __future__ import annotations

import gc
import sys

import pytest

from pytest_torchexport.sandbox import child

SEEN = "import gc\ncollects = gc.isenabled()\n"


@pytest.fixture(autouse=True)
def _nothing_stays_frozen():
    yield
    gc.unfreeze()


@pytest.mark.parametrize("last", ["", "no_such_module"])
def test_imports_are_not_collected_and_what_comes_after_them_is(tmp_path, monkeypatch, last):
    (tmp_path / "imported_by_a_server.py").write_text(SEEN)
    monkeypatch.syspath_prepend(tmp_path)
    names = ["imported_by_a_server", *filter(None, [last])]
    answer = child._served({"preload": names}, [], None, {})
    module = sys.modules.pop("imported_by_a_server")
    assert last in answer.get("error", "")
    assert not module.collects
    assert gc.isenabled()
    assert all(kept is not module.__dict__ for kept in gc.get_objects())
