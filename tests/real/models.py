"""Well-known models of libraries, tiny and randomly initialized; nothing is downloaded.

Each entry of MODELS builds one model and its example. Libraries are imported inside the builders,
so that this file loads without them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Nothing below needs the hub. If a library starts to ask it, it fails instead of downloading.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

VOCABULARY = 32
POSITIONS = 64
IMAGE = 32


@cache
def stub_torchvision() -> torch.library.Library | None:
    """Make ``import torchvision`` work beside a CPU build of torch.

    PyPI's torchvision is built for CUDA: beside a CPU torch its library does not load, and its
    import fails on two operators that it expects there. Nothing here uses them, so declaring them
    is enough. timm and the models of transformers import torchvision. The result is cached, because
    operators vanish with their Library.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return None
    try:
        # _C.so, and from 0.29 _C_stable.so
        torch.ops.load_library(next(Path(spec.submodule_search_locations[0]).glob("_C*.so")))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None


class Text(nn.Module):
    """A transformers model as deployed: it takes two tensors and returns one of its outputs."""

    def __init__(self, model: nn.Module, field: str) -> None:
        super().__init__()
        self.model = model
        self.field = field

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask)
        return getattr(output, self.field)


class Pixels(nn.Module):
    """A transformers vision model: it takes pixels and returns hidden states."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).last_hidden_state


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=POSITIONS,
    )
    return Text(BertModel(config, add_pooling_layer=False), "last_hidden_state")


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=POSITIONS,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return Text(GPT2LMHeadModel(config), "logits")


def t5_encoder() -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        use_cache=False,
    )
    return Text(T5EncoderModel(config), "last_hidden_state")


def vit() -> nn.Module:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=IMAGE,
        patch_size=8,
    )
    return Pixels(ViTModel(config, add_pooling_layer=False))


def timm_model(name: str, **options: Any) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, num_classes=10, **options)


def torchvision_model(name: str) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None, num_classes=10)


def text_example(batch: int = 2) -> tuple[Tensor, ...]:
    """Return token ids and a mask that pads on the right; no row is masked entirely."""
    ids = torch.randint(0, VOCABULARY, (batch, 7))
    lengths = torch.tensor([7, 4]).repeat(batch // 2)
    return ids, (torch.arange(7) < lengths[:, None]).long()


def padded_on_the_right(attention_mask: Tensor) -> dict[str, Tensor]:
    """Return the mask with the ones of each row moved to the front."""
    return {"attention_mask": attention_mask.sort(dim=1, descending=True).values}


def image_example(batch: int = 2) -> tuple[Tensor, ...]:
    return (torch.randn(batch, 3, IMAGE, IMAGE),)


@dataclass(frozen=True)
class Model:
    """A way to make one model: which library it needs, and which calls are legal."""

    library: str
    raw: Callable[[], nn.Module]
    text: bool = False

    def build(self, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, tuple[Tensor, ...]]:
        """Return the model in eval mode and its example, the same in every process.

        Half-precision weights are rounded from float32, as in deployment; batch norms have the
        statistics of float32.
        """
        stub_torchvision()
        example = text_example if self.text else image_example
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.raw().eval()
            calibrate(model, example(64))
            inputs = (x.to(dtype) if x.is_floating_point() else x for x in example())
            return model.to(dtype), tuple(inputs)

    @property
    def options(self) -> dict[str, Any]:
        """The input spec: batch varies, and for text the length, up to the number of positions."""
        if not self.text:
            return {"dims": {"batch": (1, 4)}}
        return {
            "shapes": dict.fromkeys(("input_ids", "attention_mask"), "batch sequence"),
            "dims": {"batch": (1, 4), "sequence": (1, POSITIONS)},
            "map": padded_on_the_right,
        }


def calibrate(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Give batch norms the statistics of one batch.

    With the initial statistics some of these networks ignore their input in eval mode: activations
    shrink to nothing. The batch must be large: the last maps are 1 x 1 here, and statistics of a
    few samples are so near singular that eager drifts from its own float64 run by 1e-3.
    """
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the cumulative mean, which for one batch is that batch's
        norm.reset_running_stats()
        norm.train()
    with torch.no_grad():
        model(*inputs)
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()


MODELS = {
    "bert": Model("transformers", bert, text=True),
    "gpt2": Model("transformers", gpt2, text=True),
    "t5_encoder": Model("transformers", t5_encoder, text=True),
    "vit": Model("transformers", vit),
    "timm_resnet10t": Model("timm", partial(timm_model, "resnet10t")),
    "timm_vit_tiny": Model(
        "timm", partial(timm_model, "vit_tiny_patch16_224", img_size=IMAGE, depth=2)
    ),
    "timm_convnext_atto": Model("timm", partial(timm_model, "convnext_atto")),
    "timm_mobilenetv3_small_050": Model("timm", partial(timm_model, "mobilenetv3_small_050")),
    "resnet18": Model("torchvision", partial(torchvision_model, "resnet18")),
    "mobilenet_v3_small": Model("torchvision", partial(torchvision_model, "mobilenet_v3_small")),
    "squeezenet1_1": Model("torchvision", partial(torchvision_model, "squeezenet1_1")),
    "shufflenet_v2_x0_5": Model("torchvision", partial(torchvision_model, "shufflenet_v2_x0_5")),
}
