"""__main__.py: the commands, and that those on reports start without torch."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from sample import RUN

from pytest_torchexport import __main__ as program
from pytest_torchexport import __version__
from pytest_torchexport.commands import COMMANDS, say
from pytest_torchexport.results import json


def test_the_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        program.main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in COMMANDS)


def test_the_console_script_finds_modules_in_the_current_directory(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pytest-torchexport", "--version"])
    monkeypatch.setattr(sys, "path", ["/somewhere/bin", *sys.path[1:]])
    with pytest.raises(SystemExit) as end:
        program.script()
    assert (end.value.code, sys.path[0]) == (0, "")
    assert capsys.readouterr().out == f"pytest-torchexport {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["rendr"]])
def test_anything_else_is_a_usage_error(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        program.main(arguments)
    assert end.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_a_command_runs_in_an_interpreter_without_torch_and_pytest(tmp_path):
    (tmp_path / "a.json").write_text(json.render(RUN))
    code = (
        "import sys, runpy\n"
        "sys.argv = ['x', 'render', 'a.json', '--report=markdown:a.md', '--report=json:b.json']\n"
        "try: runpy.run_module('pytest_torchexport', run_name='__main__')\n"
        "except SystemExit as end: print('STATUS', end.code)\n"
        "print('LOADED', {'torch', 'numpy', 'onnx', 'hypothesis', '_pytest'} & {*sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-2:] == ["STATUS 1", "LOADED set()"], done.stderr
    assert json.read((tmp_path / "b.json").read_text()) == RUN


@pytest.mark.parametrize("arguments", ["render a.json --report=json:-", "diff a.json a.json"])
def test_a_command_whose_pipe_is_closed_ends_without_a_word(arguments, tmp_path):
    """``| head``: a long output is cut while it is written, a short one when Python ends."""
    (tmp_path / "a.json").write_text(json.render(RUN))
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "pytest_torchexport", *arguments.split()],
        cwd=tmp_path,
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
    )
    os.close(write)
    assert b"Error" not in done.stderr
    assert done.returncode == 141


def test_a_stream_that_lacks_a_character_gets_its_escape():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    say(["naïve \x1b"], stream)
    stream.flush()
    assert raw.getvalue() == b"na\\xefve <U+001B>\n"
