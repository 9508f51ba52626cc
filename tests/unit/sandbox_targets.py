"""Targets for the clean process, each of which loads a file in its own bad way."""

# ruff: noqa: ARG005  # a bad artifact ignores what it is given

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


class Loads:
    """A target whose ``load`` is a function of the file's text."""

    def __init__(self, load):
        self._load = load

    def load(self, path, device):
        return self._load(Path(path).read_text())


def _add(text):
    number = float(text)
    return lambda x, **kwargs: {"y": x + number, "kwargs": kwargs}


def _crash(text):
    print("last words of the artifact")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGSEGV)


def _imports(text):
    module = __import__(text.strip())
    return lambda x: x + len(module.__name__)


def _hang(text):
    time.sleep(600)


def _raises(text):
    raise ValueError(f"cannot load {text}")


def _call_raises(text):
    def call(x):
        raise ValueError("cannot run")

    return call


def _counts(text):
    calls = []

    def call(x):
        calls.append(1)
        return x + len(calls)

    return call


def _object(text):
    return lambda x: object()


def _modules(text):
    return lambda x: x + sum(name in sys.modules for name in text.split())


def _environment(text):
    return lambda x: {"home": os.environ.get("HOME"), "secret": os.environ.get("SECRET", "")}


ADD = Loads(_add)
CRASH = Loads(_crash)
IMPORTS = Loads(_imports)
HANG = Loads(_hang)
HANG_IN_CALL = Loads(lambda text: lambda x: time.sleep(600))
RAISES = Loads(_raises)
CALL_RAISES = Loads(_call_raises)
COUNTS = Loads(_counts)
OBJECT = Loads(_object)
EXITS = Loads(lambda text: sys.exit(3))
KILLS_SERVER = Loads(lambda text: os.kill(os.getppid(), signal.SIGKILL))
MODULES = Loads(_modules)
ENVIRONMENT = Loads(_environment)
