"""Run the commands of tox's types, docs and lint as tests of pytest.

So they run beside the tests, in one installation and on whichever core is free: `tox -e tests` names this file.
"""

from __future__ import annotations

import configparser
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LEFT_OUT = (
    # It writes the pages that tests/test_docs.py compares.
    "python docs/make_reference.py",
    # Its theme takes longer to install than all the rest takes to run; another one finds the same links.
    "mkdocs build --strict --site-dir {env_tmp_dir}/site",
)
TOX = configparser.ConfigParser(interpolation=None)
TOX.read(ROOT / "tox.ini", encoding="utf-8")
COMMANDS = [
    command
    for environment in ("types", "docs", "lint")
    for command in TOX[f"testenv:{environment}"]["commands"].strip().splitlines()
    if command not in LEFT_OUT
]


@pytest.mark.parametrize("command", COMMANDS)
def test_passes(command, tmp_path):
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        shlex.split(command.replace("{env_tmp_dir}", str(tmp_path))),
        cwd=ROOT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
