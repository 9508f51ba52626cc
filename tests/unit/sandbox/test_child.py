"""sandbox/child.py: a server answers each request, also one that fails."""

from __future__ import annotations

import gc
import sys

from pytest_torchexport.sandbox import child


def test_what_a_server_imports_is_left_alone_by_the_collections_of_its_children(
    tmp_path, monkeypatch
):
    (tmp_path / "imported_by_a_server.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert child._served({"preload": ["imported_by_a_server"]}, [], None, {}) == {}
        module = sys.modules.pop("imported_by_a_server")
        assert all(kept is not module.__dict__ for kept in gc.get_objects())
    finally:
        gc.unfreeze()
    answer = child._served({"preload": ["no_such_module"]}, [], None, {})
    assert answer == {"error": "ModuleNotFoundError: No module named 'no_such_module'"}
