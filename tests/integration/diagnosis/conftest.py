"""A failing call of a module, diagnosed."""

from __future__ import annotations

import pytest
import torch

from pytest_torchexport import check_export
from pytest_torchexport.diagnosis import diagnose
from pytest_torchexport.results.diagnosis import NOTHING


@pytest.fixture
def causes_of():
    """Return the lines of the causes that a trace's failing call has, the module built from a fixed seed.

    Without gradients, unless ``under`` is another mode.
    """

    def of(module, *args, target="trace", under=torch.no_grad, **options):
        with under():
            found = check_export(
                module.eval(), args, target=target, checks=["parity"], max_examples=20, **options
            )
        assert found.failure == "OutputsDiffer", found
        assert found.diagnosis.not_examined == ()
        assert torch.backends.mha.get_fastpath_enabled()
        # The faults of these modules are made with questions about the export.
        causes = [item for item in found.diagnosis.causes if item.kind != "export-only branch"]
        return [line for cause in causes for line in (cause.text, *cause.details)]

    torch.manual_seed(0)
    return of


@pytest.fixture
def numbers():
    """Return random numbers of a shape, always the same."""
    return lambda *shape: torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def scene_of(monkeypatch):
    """Return the scene of a failing check, whose parts can be used while the fixture lives."""

    def of(thing, *args, target="trace", **options):
        scenes = []

        def diagnosed(_rows, scene, _budget):
            scenes.append(scene)
            return NOTHING

        monkeypatch.setattr(diagnose, "_diagnosed", diagnosed)
        found = check_export(
            thing, args, target=target, **{"checks": ["parity"], "max_examples": 5, **options}
        )
        assert found.status == "failed", found
        return scenes[0]

    return of
