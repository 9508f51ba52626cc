"""The examples of the rows of pytest_torchexport/targets/upstream as modules."""

from __future__ import annotations

import importlib.util
import itertools
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import nn

PREAMBLE = """\
import copy, dataclasses, math, random
from math import inf, nan
from typing import Dict, List, NamedTuple, Optional, Tuple
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
"""
_NUMBERS = itertools.count()


def example(text: str, folder: Path) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return the module of an example and the call, each example in a file of its own.

    An example is a whole ``Net``, or its methods; without a ``CALL`` it is called with ones.
    """
    body, mark, call = text.partition("\nCALL = ")
    if "class Net" not in body:
        body = "class Net(nn.Module):\n" + textwrap.indent(body, "    ")
    name = f"upstream_example_{next(_NUMBERS)}"
    path = folder / f"{name}.py"
    path.write_text(f"{PREAMBLE}\n{body}\n{mark}{call}", encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Net().eval(), getattr(module, "CALL", (torch.ones(2, 3),))
