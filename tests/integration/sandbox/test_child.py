"""sandbox/child.py: what a child finds in its process."""

from __future__ import annotations

import os

from in_sandbox import close, run


def test_what_serving_imports_is_imported_first(load):
    session = load("MODULES", "wave", imports=("wave",))
    assert run(session).value.tolist() == [1, 1]


def test_what_serving_imports_is_found_where_the_session_finds_it(load, tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    (own / "served_ops.py").write_text("import served_helper\n")
    (own / "served_helper.py").write_text("")
    monkeypatch.syspath_prepend(own)
    blocked = ("served_ops", "served_helper")
    problem = load("ADD", imports=("served_ops",), blocked=blocked).problem
    assert "torchexport_runtime_imports names served_ops, which cannot be imported" in str(problem)
    assert "No module named 'served_helper'" in str(problem)
    served = ("served_ops", "served_helper")
    assert load("ADD", imports=served, blocked=blocked).problem is None


def test_a_runtime_import_that_does_not_exist_is_told(load):
    assert "no_such_ops_library" in str(load("ADD", imports=("no_such_ops_library",)).problem)


def test_the_test_session_is_not_known_there(load):
    session = load("MODULES", "conftest test_child in_sandbox specs")
    assert run(session).value.tolist() == [0, 0]


def test_nothing_of_the_users_environment_is_there(load, monkeypatch):
    monkeypatch.setenv("SECRET", "token")
    close()
    outcome = run(load("ENVIRONMENT"))
    assert outcome.value["secret"] == ""
    assert outcome.value["home"] != os.path.expanduser("~")  # noqa: PTH111  # as a shell sees it


def test_it_works_in_a_directory_of_its_own(load, tmp_path):
    value = run(load("WHERE")).value
    assert value["cwd"] == str(tmp_path)
    assert value["tmp"] == str(tmp_path)
