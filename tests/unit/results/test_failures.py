"""results/failures.py: one class per kind, found by its name."""

from __future__ import annotations

import pytest

from pytest_torchexport.results import failures


def test_every_failure_has_a_title_and_is_found_by_its_name():
    names = [name for name in failures.__all__ if name not in ("Failure", "by_name")]
    for name in names:
        cls = failures.by_name(name)
        assert cls is getattr(failures, name)
        assert cls.title
        assert issubclass(cls, AssertionError)
    assert len({failures.by_name(name).title for name in names}) == len(names)


def test_an_unknown_failure_is_a_key_error():
    with pytest.raises(KeyError):
        failures.by_name("Nothing")
