"""A failing call of a module, to be diagnosed."""

from __future__ import annotations

import pytest

from pytest_torchexport import check_export
from pytest_torchexport.diagnosis import diagnose
from pytest_torchexport.results.diagnosis import NOTHING


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
