"""sandbox/libraries.py: where torch is installed, also outside of its interpreter's own."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

from pytest_torchexport.sandbox import process


def test_a_torch_that_no_isolated_interpreter_finds_is_there_all_the_same(tmp_path):
    """As with ``pip install --user``, and paths that a cluster or a build system gives."""
    site, own = tmp_path / "site", tmp_path / "own"
    for name, requires in (("torch", "Requires-Dist: beside>1\n"), ("beside", ""), ("other", "")):
        info = site / name / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{requires}"
        )
    own.mkdir()
    code = (
        "from pytest_torchexport.sandbox.libraries import library_directories; "
        "print(*library_directories(), sep='\\n')"
    )
    root = pathlib.Path(process.__file__).parents[2]
    paths = [site / "torch", site / "other", site / "beside", own, root]
    for given, expected in ((paths, [site / "torch", site / "beside"]), ([root], [])):
        found = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, given))},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert found.split() == list(map(str, expected))
