"""Run a command in a folder of its own."""

from __future__ import annotations

import pytest

from pytest_torchexport import __main__ as program


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return the status of a command, and what it printed to both streams."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        try:
            status = program.main(arguments)
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run
