"""A container class, registered in the module that defines it."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass
class Boxes:
    corners: torch.Tensor
    scores: torch.Tensor


torch.export.register_dataclass(Boxes, serialized_type_name="boxes.Boxes")
