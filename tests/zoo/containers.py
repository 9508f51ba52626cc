"""Container types for inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class TypedPair(NamedTuple):
    left: Tensor
    right: Tensor


@dataclass
class Batch:
    x: Tensor
    y: Tensor


@dataclass
class Known:
    x: Tensor
    y: Tensor


torch.export.register_dataclass(Known, serialized_type_name="zoo.Known")
