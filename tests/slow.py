"""Tests that are too slow for every change: `tox -e zoo` runs them, CI does not."""

from __future__ import annotations

import os

import pytest

# `tox -e zoo` sets TORCHEXPORT_ZOO=all: all rows and all real models on all targets.
EVERYTHING = os.environ.get("TORCHEXPORT_ZOO") == "all"
slow = pytest.mark.skipif(not EVERYTHING, reason="slow: tox -e zoo runs it")
