"""Refuse exporters in unit tests, so that this folder stays fast: `tox -e unit`."""

from __future__ import annotations

import pytest
import torch

EXPORTERS = (
    (torch.jit, "trace"),
    (torch.jit, "script"),
    (torch.export, "export"),
    (torch.onnx, "export"),
)


def _refuse(*_: object, **__: object) -> None:
    raise AssertionError("a unit test runs an exporter: move it to tests/integration")


@pytest.fixture(autouse=True)
def _no_exporter():
    with pytest.MonkeyPatch.context() as patched:
        for owner, name in EXPORTERS:
            patched.setattr(owner, name, _refuse)
        yield
