"""scripts/count: lines, names, numbers and circles of files that are known."""

from __future__ import annotations

import pytest


@pytest.fixture
def count(load_script, monkeypatch, tmp_path):
    module = load_script("count")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def test_functions_patterns_and_numbers_of_a_file(count, tmp_path):
    (tmp_path / "one.py").write_text(
        "import re\nLIMIT = 2 * 1.5\nNAMES = ('a',)\nON = True\nWORD = re.compile('w')\n"
        "def of(text):\n    async def inner(): ...\n    return re.search('x', text)\n"
    )
    files = count.python(".")
    assert count.lines(files) == 8
    assert (count.functions(files), count.patterns(files), count.constants(files)) == (2, 2, 1)


def test_files_that_import_each_other_for_a_type_are_a_circle(count, tmp_path):
    (tmp_path / "a.py").write_text("import b\nimport c\n")
    (tmp_path / "b.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import A\n"
    )
    (tmp_path / "c.py").write_text("")
    assert set(count.circle(count.python("."))) == {"a", "b"}
    (tmp_path / "b.py").write_text("")
    assert count.circle(count.python(".")) == []
