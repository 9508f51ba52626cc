"""judge/log.py: the times of stages."""

from __future__ import annotations

from types import SimpleNamespace

from pytest_torchexport.judge import log


def test_a_stage_inside_another_counts_once(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 10.0, 20.0, 21.5])
    monkeypatch.setattr(log, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    item = log.ItemLog()
    with item.timed("parity"), item.timed("search"):
        pass
    assert item.seconds == {"search": 3.0, "parity": 7.0}
    with item.timed("parity"):
        pass
    assert item.seconds == {"search": 3.0, "parity": 8.5}
