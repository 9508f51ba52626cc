"""commands/bar.py: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import io
import sys

import pytest

from pytest_torchexport.commands.bar import ERASE, Bar


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar_is_on_a_terminal_alone(terminal, monkeypatch):
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "60")
    bar = Bar(2)
    monkeypatch.setattr(sys, "stderr", None)  # the engine puts another one there
    bar.begin("trace")
    bar.end()
    bar.begin("onnx")
    bar("again, at once")
    bar.end()
    shown = stream.getvalue()
    if not terminal:
        assert not shown
        return
    assert f"{ERASE}[....................] trace: start, 0 s" in shown
    assert f"{ERASE}[##########..........] onnx: start, 0 s" in shown
    assert "at once" not in shown
    assert shown.endswith(ERASE)
    assert all(len(part) < 60 for part in shown.split(ERASE))
