"""plugin/terminal.py: why an item is a skip, and the words on an item that takes long."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from sample import verdict

from pytest_torchexport.plugin import terminal
from pytest_torchexport.plugin.terminal import Progress, why_skipped


@pytest.mark.parametrize(
    ("statuses", "reason"),
    [
        ({"trace": ["passed", "passed"]}, ""),
        ({"trace": ["skipped"]}, "of trace"),
        ({"trace": ["passed", "skipped"]}, "1 of 2 not judged: Net: of trace"),
        ({"trace": ["passed"], "onnx": ["skipped"]}, ""),
        ({"trace": ["passed", "skipped"], "onnx": ["skipped"]}, "2 of 3 not judged: Net: of trace"),
        ({}, ""),
    ],
)
def test_an_item_is_skipped_if_no_target_judged_all_its_subjects(statuses, reason):
    verdicts = [
        verdict(target, status, reason=f"of {target}")
        for target, each in statuses.items()
        for status in each
    ]
    assert why_skipped(verdicts) == reason


def config(verbosity=0):
    return SimpleNamespace(
        pluginmanager=SimpleNamespace(hasplugin=lambda name: name == "terminalreporter"),
        get_verbosity=lambda: verbosity,
        get_terminal_writer=lambda: SimpleNamespace(hasmarkup=True),
    )


@pytest.fixture
def screen(tmp_path, monkeypatch):
    path = tmp_path / "terminal"
    path.touch()
    monkeypatch.setattr(terminal, "TERMINAL", path)
    monkeypatch.setattr(terminal, "REFRESH_SECONDS", 0.01)
    return path


def shown(screen, text):
    """Wait until the text is on the screen."""
    end = time.monotonic() + 60
    while text not in screen.read_text():
        assert time.monotonic() < end


def test_the_words_on_a_step_change_while_it_runs_and_go_when_the_item_ends(screen):
    progress = Progress(config())
    progress("export")
    shown(screen, " export, 0 s")
    progress("drawn calls", 3, 100)
    shown(screen, " drawn calls 3 of 100, 0 s")
    progress.close()
    last = screen.read_text()
    assert last == f"{terminal.SAVE}{terminal.CUT}{terminal.ERASE}{terminal.WRAP}{terminal.RESTORE}"


def test_a_quick_item_and_a_quiet_run_write_nothing(screen, monkeypatch):
    quiet = Progress(config(verbosity=-1))
    quiet("export")
    monkeypatch.setattr(terminal, "REFRESH_SECONDS", 60.0)
    quick = Progress(config())
    quick("export")
    for progress in (quiet, quick):
        progress.close()
    assert not screen.read_text()


def test_without_a_terminal_nothing_is_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(terminal, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(terminal, "TERMINAL", tmp_path / "none" / "tty")
    progress = Progress(config())
    progress("export")
    progress.close()
