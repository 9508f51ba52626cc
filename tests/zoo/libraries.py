"""Modules of public libraries that branch, for the benchmark of the search on code of others.

The modules and their witnesses were chosen by reading the libraries' sources, before the search
had met any of them. A library is imported when its module is built: the last tag is its package.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from zoo.row import Example, call, climbed, coins, margin, normal, row, section, seeded, whole

# -- transformers -----------------------------------------------------------------------------------

section("libraries", "transformers")


@row(
    "bart layer in half precision",
    call(normal(2, 4, 8, dtype=torch.float16), None),
    call(torch.full((2, 4, 8), 60000.0).half() * coins(2, 4, 8), None),
    shapes={"hidden_states": "batch time 8"},
    dims={"batch": (1, 3), "time": (1, 8)},
    values={"hidden_states": (-65000.0, 65000.0)},
)
def bart_layer() -> nn.Module:
    from transformers import BartConfig
    from transformers.models.bart.modeling_bart import BartEncoderLayer

    config = BartConfig(d_model=8, encoder_attention_heads=2, encoder_ffn_dim=16)
    config._attn_implementation = "eager"
    return BartEncoderLayer(config).half()


LONGFORMER = {
    "shapes": dict.fromkeys(("input_ids", "attention_mask", "global_attention_mask"), "batch time"),
    "dims": {"batch": (1, 3), "time": (2, 24)},
    "values": {
        "input_ids": (3, 31),
        "attention_mask": [0, 1],
        "global_attention_mask": [0, 1],
    },
}


def after(size: int, *shape: int) -> Tensor:
    """Return ones, with zeros from a position of the last axis on."""
    mask = torch.ones(shape, dtype=torch.int64)
    mask[..., size:] = 0
    return mask


def ids(batch: int, time: int) -> Tensor:
    return whole(3, 31, batch, time)


def for_longformer(time: int, *places: int) -> Callable[[], Example]:
    attended = torch.zeros(2, time, dtype=torch.int64)
    attended[0, list(places)] = 1
    return call(
        input_ids=ids(2, time),
        attention_mask=after(time, 2, time),
        global_attention_mask=attended,
    )


@row(
    for_longformer(8),
    for_longformer(8, 0),
    for_longformer(6),
    for_longformer(6, 1, 3),
    **LONGFORMER,
)
def longformer() -> nn.Module:
    from transformers import LongformerConfig, LongformerModel

    config = LongformerConfig(
        attention_window=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, vocab_size=32, max_position_embeddings=40,
    )  # fmt: skip
    return LongformerModel(config, add_pooling_layer=False)


def for_fsmt(last: int) -> Callable[[], Example]:
    decoder = ids(2, 5)
    decoder[1, -1] = last
    return call(input_ids=ids(2, 6), attention_mask=after(6, 2, 6), decoder_input_ids=decoder)


@row(
    for_fsmt(9),
    for_fsmt(1),
    shapes={
        "input_ids": "batch time",
        "attention_mask": "batch time",
        "decoder_input_ids": "batch out",
    },
    dims={"batch": (1, 3), "time": (2, 9), "out": (2, 9)},
    values={"input_ids": (1, 31), "attention_mask": [0, 1], "decoder_input_ids": (1, 31)},
)
def fsmt() -> nn.Module:
    from transformers import FSMTConfig, FSMTModel

    config = FSMTConfig(
        langs=["en", "de"], src_vocab_size=32, tgt_vocab_size=32, d_model=8, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_position_embeddings=40, use_cache=False,
    )  # fmt: skip
    return FSMTModel(config)


MASKED = {
    "shapes": {"input_ids": "batch time", "attention_mask": "batch time"},
    "dims": {"batch": (1, 3), "time": (2, 24)},
    "values": {"input_ids": (3, 31), "attention_mask": [0, 1]},
}


@row(
    call(input_ids=ids(2, 8), attention_mask=after(8, 2, 8)),
    call(input_ids=ids(2, 4), attention_mask=after(4, 2, 4)),
    call(input_ids=ids(2, 6), attention_mask=after(6, 2, 6)),
    call(input_ids=ids(2, 8), attention_mask=after(5, 2, 8)),
    call(input_ids=ids(2, 16), attention_mask=after(9, 2, 16)),
    **MASKED,
)
def reformer() -> nn.Module:
    from transformers import ReformerConfig, ReformerModel

    config = ReformerConfig(
        attn_layers=["local", "lsh"], attention_head_size=4, axial_pos_embds=False, hash_seed=0,
        feed_forward_size=16, hidden_size=8, local_attn_chunk_length=4, lsh_attn_chunk_length=4,
        max_position_embeddings=64, num_attention_heads=2, num_buckets=2, num_hashes=1,
        vocab_size=32, is_decoder=False, use_cache=False,
    )  # fmt: skip
    return ReformerModel(config)


def spread(module: nn.Module) -> nn.Module:
    """Draw the weights anew from a normal distribution, as wide as that of a trained model."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@row(
    call(pixel_values=normal(1, 3, 16, 16)),
    call(pixel_values=torch.zeros(1, 3, 16, 16)),
    call(pixel_values=normal(1, 3, 24, 24) * 4),
    call(pixel_values=normal(1, 3, 16, 16) * 0.01),
    shapes={"pixel_values": "1 3 height width"},
    dims={"height": [16, 24, 32], "width": [16, 24, 32]},
)
def superpoint() -> nn.Module:
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    config = SuperPointConfig(
        encoder_hidden_sizes=[4, 4, 8, 8], decoder_hidden_size=8, descriptor_decoder_dim=8,
        keypoint_threshold=0.3, max_keypoints=4, border_removal_distance=1,
    )  # fmt: skip
    return spread(SuperPointForKeypointDetection(config))


ATTEMPTS = 5000


def drawn(make: Callable[[torch.Generator], Tensor], holds: Callable[[Tensor], bool]) -> Tensor:
    """Return the first of many draws that has a property."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(ATTEMPTS):
        value = make(generator)
        if holds(value):
            return value
    raise AssertionError("no draw has the property")


def stops_at(rounds: int) -> Callable[[], Example]:
    """Return a witness on which the head emits its end after so many rounds."""

    def witness() -> Example:
        head = seeded(table_head)()

        def holds(x: Tensor) -> bool:
            with torch.no_grad():
                return head(x)[0].shape[1] == rounds

        return (drawn(lambda g: torch.randn(1, 9, 6, generator=g) * 8, holds),), {}

    return witness


@row(
    normal(1, 9, 6),
    stops_at(2),
    shapes={"hidden_states": "1 9 6"},
    values={"hidden_states": (-40.0, 40.0)},
)
def table_head() -> nn.Module:
    from transformers import SLANetConfig
    from transformers.models.slanet.modeling_slanet import SLANetSLAHead

    config = SLANetConfig(
        out_channels=5, hidden_size=8, post_conv_out_channels=6, max_text_length=4
    )
    return spread(SLANetSLAHead(config))


IMAGE = {
    "shapes": {"pixel_values": "batch 3 height width"},
    "dims": {"batch": (1, 2), "height": (8, 32), "width": (8, 32)},
}


@row(
    call(pixel_values=normal(1, 3, 16, 16)),
    *tuple(
        call(pixel_values=normal(1, 3, *size))
        for size in ((18, 16), (16, 18), (17, 19), (32, 32), (16, 32))
    ),
    shapes=IMAGE["shapes"],
    dims={"batch": (1, 2), "height": (16, 40), "width": (16, 40)},
)
def swin() -> nn.Module:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4
    )
    return SwinModel(config, add_pooling_layer=False)


class Calls(nn.Module):
    """A user's module that calls a function of a library."""

    def __init__(self, function: Callable[..., Any], **arguments: Any) -> None:
        super().__init__()
        self.function, self.arguments = function, arguments

    def forward(self, x: Tensor) -> Any:
        return self.function(x, **self.arguments)


class CallsWithTwo(Calls):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.function(x, y, **self.arguments)


@row(
    call(normal(2, 4, 3), whole(1, 3, 2, 4)),
    call(normal(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64)),
    call(normal(1, 4, 3), whole(0, 3, 1, 4)),
    shapes={"x": "batch time 3", "y": "batch time"},
    dims={"batch": (1, 3), "time": (1, 6)},
    values={"y": (0, 4)},
)
def length_regulator() -> nn.Module:
    from transformers.models.fastspeech2_conformer.modeling_fastspeech2_conformer import (
        length_regulator,
    )

    return CallsWithTwo(length_regulator)


ALIGNED = torch.tensor([[[0, 1], [1, -1], [2, 3]], [[4, -1], [0, -1], [1, 2]]])


def for_visual(alignment: Tensor) -> Callable[[], Example]:
    return call(input_ids=ids(2, 5), visual_embeds=normal(2, 3, 4), image_text_alignment=alignment)


@row(
    for_visual(ALIGNED),
    for_visual(ALIGNED.abs()),
    for_visual(ALIGNED.clamp(max=-1)),
    shapes={
        "input_ids": "batch 5",
        "visual_embeds": "batch 3 4",
        "image_text_alignment": "batch 3 2",
    },
    dims={"batch": (1, 3)},
    values={"image_text_alignment": (-1, 4)},
)
def visual_embeddings() -> nn.Module:
    from transformers import VisualBertConfig
    from transformers.models.visual_bert.modeling_visual_bert import VisualBertEmbeddings

    config = VisualBertConfig(
        vocab_size=32, hidden_size=8, visual_embedding_dim=4, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return VisualBertEmbeddings(config)


def same_expert() -> Example:
    """Return tokens that all go to one expert."""
    return (normal(1, 1, 8).repeat(2, 3, 1),), {}


@row(
    normal(2, 3, 8),
    same_expert,
    normal(1, 1, 8),
    normal(4, 6, 8),
    shapes={"hidden_states": "batch time 8"},
    dims={"batch": (1, 4), "time": (1, 6)},
)
def mixture() -> nn.Module:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=8, intermediate_size=8, num_local_experts=4, num_experts_per_tok=1
    )
    config._experts_implementation = "eager"
    return spread(MixtralSparseMoeBlock(config))


@row(
    call(input_ids=ids(2, 6), attention_mask=after(6, 2, 6)),
    call(input_ids=ids(2, 6), attention_mask=after(4, 2, 6)),
    **MASKED,
)
def distilbert() -> nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(vocab_size=32, dim=8, hidden_dim=16, n_layers=1, n_heads=2)
    return DistilBertModel(config)


@row(
    normal(1, 2, 16),
    *tuple(call(normal(1, 2, size)) for size in (2, 5, 6, 7, 17)),
    shapes={"hidden_states": "batch 2 time"},
    dims={"batch": (1, 2), "time": (1, 24)},
)
def encodec_conv() -> nn.Module:
    from transformers import EncodecConfig
    from transformers.models.encodec.modeling_encodec import EncodecConv1d

    return EncodecConv1d(EncodecConfig(), 2, 3, kernel_size=7, stride=2)


@row(
    call(pixel_values=normal(1, 3, 16, 16)),
    call(pixel_values=normal(1, 3, 8, 8)),
    call(pixel_values=normal(1, 3, 8, 32)),
    call(pixel_values=normal(1, 3, 24, 12)),
    shapes=IMAGE["shapes"],
    dims={"batch": (1, 2), "height": range(8, 33, 4), "width": range(8, 33, 4)},
)
def dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        image_size=16, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    return Dinov2Model(config)


@row(
    call(input_ids=ids(1, 18), attention_mask=after(18, 1, 18)),
    call(input_ids=ids(1, 8), attention_mask=after(8, 1, 8)),
    call(input_ids=ids(1, 17), attention_mask=after(17, 1, 17)),
    call(input_ids=ids(1, 9), attention_mask=after(9, 1, 9)),
    **MASKED,
)
def big_bird() -> nn.Module:
    from transformers import BigBirdConfig, BigBirdModel

    config = BigBirdConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, block_size=2, num_random_blocks=1,
        use_cache=False,
    )  # fmt: skip
    return BigBirdModel(config, add_pooling_layer=False)


# -- timm -------------------------------------------------------------------------------------------

section("libraries", "timm")


@row(
    normal(1, 3, 32, 32),
    normal(1, 3, 64, 64),
    normal(1, 3, 48, 32),
    normal(1, 3, 64, 96),
    shapes={"x": "batch 3 height width"},
    dims={"batch": (1, 2), "height": range(32, 97, 16), "width": range(32, 97, 16)},
)
def tiny_vit() -> nn.Module:
    from timm.models.tiny_vit import TinyVit

    return TinyVit(
        num_classes=4, embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2),
        window_sizes=(2, 2, 4, 2),
    )  # fmt: skip


# -- torchvision ------------------------------------------------------------------------------------

section("libraries", "torchvision")


def images(shapes: str, *, least: int = 4, most: int = 32) -> dict[str, Any]:
    dims = {"batch": (1, 2), "height": (least, most), "width": (least, most)}
    return {"shapes": {"x": shapes}, "dims": dims}


@row(
    "torchvision swin",
    normal(1, 3, 16, 16),
    *tuple(call(normal(1, 3, *size)) for size in ((8, 8), (8, 16), (16, 8), (24, 32))),
    **images("batch 3 height width", least=8),
)
def swin_2d() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        patch_size=[2, 2], embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=[4, 4],
        num_classes=4, stochastic_depth_prob=0.0,
    )  # fmt: skip


@row(
    "video swin",
    normal(1, 3, 4, 16, 16),
    *tuple(call(normal(1, 3, *size)) for size in ((8, 16, 16), (8, 8, 8), (4, 8, 16), (4, 16, 8))),
    shapes={"x": "1 3 time height width"},
    dims={"time": (2, 8), "height": (4, 24), "width": (4, 24)},
)
def swin_3d() -> nn.Module:
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    return SwinTransformer3d(
        patch_size=[2, 2, 2], embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=[2, 4, 4],
        num_classes=4, stochastic_depth_prob=0.0,
    )  # fmt: skip


crops = ((16, 8), (8, 16), (8, 8), (12, 10))


@row(
    normal(3, 16, 16),
    *tuple(call(normal(3, *size)) for size in crops),
    shapes={"inputs[0]": "3 height width"},
    dims={"height": (4, 32), "width": (4, 32)},
)
def center_crop() -> nn.Module:
    from torchvision.transforms.v2 import CenterCrop

    return CenterCrop((12, 10))


@row(
    "resize",
    normal(3, 16, 12),
    *tuple(call(normal(3, *size)) for size in ((10, 20), (8, 8), (12, 8), (30, 10))),
    shapes={"inputs[0]": "3 height width"},
    dims={"height": (4, 32), "width": (4, 32)},
)
def resizes() -> nn.Module:
    from torchvision.transforms.v2 import Resize

    return Resize(8, max_size=12)


@row(
    normal(2, 3, 8, 8).abs(),
    normal(2, 3, 2, 8).abs(),
    normal(2, 3, 8, 1).abs(),
    **images("batch 3 height width", least=1),
)
def sharpness() -> nn.Module:
    from torchvision.transforms.v2.functional import adjust_sharpness

    return Calls(adjust_sharpness, sharpness_factor=2.0)


@row(
    coins(2, 5, 6),
    coins(1, 5, 6),
    torch.zeros(0, 5, 6, dtype=torch.bool),
    shapes={"x": "masks 5 6"},
    dims={"masks": (0, 4)},
    map=lambda x: {"x": x | (torch.arange(6) == 0)},
)
def masks_to_boxes() -> nn.Module:
    from torchvision.ops import masks_to_boxes

    return Calls(masks_to_boxes)


# -- kornia -----------------------------------------------------------------------------------------

section("libraries", "kornia")

ramp = torch.linspace(0, 1, 12).repeat(1, 1, 12, 1)
step = (torch.arange(12) > 5).float().repeat(1, 1, 12, 1)


@row(
    torch.full((1, 1, 12, 12), 0.5),
    call(step),
    step * ramp.mT,
    torch.rand(1, 1, 12, 12),
    shapes={"input": "batch 1 height width"},
    dims={"batch": (1, 2), "height": (4, 16), "width": (4, 16)},
    values={"input": (0.0, 1.0)},
)
def canny() -> nn.Module:
    from kornia.filters import Canny

    return Canny()


pair = {"shapes": {"desc1": "n 4", "desc2": "m 4"}, "dims": {"n": (1, 6), "m": (1, 6)}}


def matcher(mode: str) -> nn.Module:
    from kornia.feature import DescriptorMatcher

    return DescriptorMatcher(mode, 0.8)


for mode in ("snn", "smnn"):
    row(
        f"matcher {mode}",
        call(normal(5, 4), normal(4, 4)),
        call(normal(5, 4), normal(5, 4) + 0.01),
        call(normal(5, 4), torch.ones(4, 4)),
        call(normal(1, 4), normal(4, 4)),
        call(normal(4, 4), normal(1, 4)),
        **pair,
    )(partial(matcher, mode))
SPIRAL = (
    "xxxxxxxx",
    ".......x",
    "xxxxxx.x",
    "x....x.x",
    "x.xx.x.x",
    "x.x..x.x",
    "x.xxxx.x",
    "x......x",
)


def connected(*rows: str) -> Callable[[], Example]:
    """Return an image in which ``x`` is foreground."""
    return call(torch.tensor([[[[float(mark == "x") for mark in row] for row in rows]]]))


@row(
    connected("........", "...xx...", "...xx...", "........"),
    connected(*SPIRAL),
    connected("x......x", "........"),
    connected("........"),
    shapes={"x": "1 1 height width"},
    dims={"height": (1, 8), "width": (1, 8)},
    values={"x": [0.0, 1.0]},
)
def components() -> nn.Module:
    from kornia.contrib.connected_components import connected_components_union_find

    return Calls(connected_components_union_find)


dots = torch.zeros(1, 1, 20, 20)
dots[..., ::4, ::4] = 1
corner = torch.zeros(1, 1, 20, 20)
corner[..., 0, 0] = 1


@row(
    dots,
    corner,
    corner * 0,
    shapes={"x": "1 1 height width"},
    dims={"height": (4, 24), "width": (4, 24)},
    values={"x": [0.0, 1.0]},
)
def distances() -> nn.Module:
    from kornia.contrib import distance_transform

    return Calls(distance_transform)


@row(
    normal(3, 3),
    normal(3, 3) * 1e-22,
    normal(3, 3) * 1e19,
    normal(3, 3) * 0,
    shapes={"x": "batch 3"},
    dims={"batch": (1, 4)},
    values={"x": (-1e30, 1e30)},
)
def quadratic() -> nn.Module:
    from kornia.geometry.solvers import solve_quadratic

    return Calls(solve_quadratic)


def cubics(*rows: tuple[float, float, float, float]) -> Callable[[], Example]:
    return call(torch.tensor(rows, dtype=torch.float32))


@row(
    cubics((1, 0, 0, 1)),
    cubics((1, -6, 11, -6)),
    cubics((0, 1, -3, 2)),
    cubics((0, 0, 2, -4)),
    cubics((0, 0, 0, 1)),
    cubics((1, 0, 0, 0)),
    cubics((1, -4, 5, -2)),
    cubics((1e-6, 1, -3, 2)),
    shapes={"x": "batch 4"},
    dims={"batch": (1, 4)},
    values={"x": (-10.0, 10.0)},
)
def cubic() -> nn.Module:
    from kornia.geometry.solvers import solve_cubic

    return Calls(solve_cubic)


# -- torchmetrics -----------------------------------------------------------------------------------

section("libraries", "torchmetrics")

scored = {
    "shapes": {"x": "n", "y": "n"},
    "dims": {"n": (2, 8)},
    "values": {"x": (0.0, 1.0), "y": (0, 1)},
}


def labels(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


truth = labels(0, 1, 0, 1, 1, 0)


def guess(*numbers: float) -> Callable[[], Example]:
    return call(torch.tensor(numbers), truth)


sure = truth.float()


@row(
    guess(0.2, 0.7, 0.6, 0.4, 0.9, 0.3),
    call(sure, truth),
    call(1 - sure, truth),
    call(sure * 0 + 1, truth),
    call(sure * 0, truth),
    call(sure, truth * 0),
    call(sure, truth * 0 + 1),
    call(sure * 0, truth * 0),
    **scored,
)
def matthews() -> nn.Module:
    from torchmetrics.functional.classification import binary_matthews_corrcoef

    return CallsWithTwo(binary_matthews_corrcoef, validate_args=False)


@row(guess(0.2, 0.7, 0.6, 0.4, 0.9, 0.3), call(sure, truth), call(sure, truth * 0), **scored)
def specificity() -> nn.Module:
    from torchmetrics.functional.classification import binary_specificity_at_sensitivity

    return CallsWithTwo(
        binary_specificity_at_sensitivity, min_sensitivity=0.9, thresholds=5, validate_args=False
    )


@row(
    guess(0.2, 0.7, 0.6, 0.4, 0.9, 0.3), call(sure, truth * 0), call(sure, truth * 0 + 1), **scored
)
def precision_curve() -> nn.Module:
    from torchmetrics.functional.classification import binary_precision_recall_curve

    return CallsWithTwo(binary_precision_recall_curve, thresholds=4, validate_args=False)


@row(
    call(normal(3, 4), whole(0, 1, 3, 4)),
    call(normal(3, 4), torch.zeros(3, 4).long()),
    call(normal(3, 4), torch.ones(3, 4).long()),
    call(normal(1, 4), whole(0, 1, 1, 4)),
    shapes={"x": "n 4", "y": "n 4"},
    dims={"n": (1, 5)},
    values={"y": (0, 1)},
)
def ranking() -> nn.Module:
    from torchmetrics.functional.classification import multilabel_ranking_average_precision

    return CallsWithTwo(multilabel_ranking_average_precision, num_labels=4, validate_args=False)


clustered = {
    "shapes": {"x": "n", "y": "n"},
    "dims": {"n": (2, 10)},
    "values": {"x": (0, 5), "y": (0, 5)},
}
example = call(labels(0, 0, 1, 1, 2), labels(0, 0, 1, 2, 2))
apart = call(labels(0, 1, 2, 3, 4), labels(0, 0, 1, 1, 2))
one = call(labels(0, 0, 0, 0, 0), labels(0, 0, 1, 1, 2))
both = call(labels(0, 0, 0, 0, 0), labels(1, 1, 1, 1, 1))


@row(example, apart, one, **clustered)
def mallows() -> nn.Module:
    from torchmetrics.functional.clustering import fowlkes_mallows_index

    return CallsWithTwo(fowlkes_mallows_index)


@row("mutual information", example, apart, one, both, **clustered)
def mutual() -> nn.Module:
    from torchmetrics.functional.clustering import normalized_mutual_info_score

    return CallsWithTwo(normalized_mutual_info_score)


@row(
    call(torch.tensor([0.2, 0.3, 0.5, 0.4]), truth[:4]),
    call(torch.tensor([0.2, 0.3, 0.5, 0.4]), truth[:4] * 0),
    call(torch.tensor([0.2, 0.3]), labels(0, 1)),
    **scored,
)
def reciprocal_rank() -> nn.Module:
    from torchmetrics.functional.retrieval import retrieval_reciprocal_rank

    return CallsWithTwo(retrieval_reciprocal_rank, top_k=3)


mask = coins(6, 6)


@row(
    "surface distance",
    call(mask, mask.flip(0)),
    call(mask, mask & ~mask),
    call(mask & ~mask, mask),
    shapes={"x": "6 6", "y": "6 6"},
)
def surface() -> nn.Module:
    from torchmetrics.functional.segmentation.utils import surface_distance

    return CallsWithTwo(surface_distance, spacing=[1, 1])


boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 5, 6], [1, 1, 3, 8]])


@row(
    call(boxes, boxes + 0.5),
    call(boxes[:0], boxes),
    call(boxes, boxes[:0]),
    call(boxes[:0], boxes[:0]),
    shapes={"x": "n 4", "y": "m 4"},
    dims={"n": (0, 4), "m": (0, 4)},
)
def overlap() -> nn.Module:
    from torchmetrics.functional.detection import intersection_over_union

    return CallsWithTwo(intersection_over_union, iou_threshold=0.5)


@row(
    call(normal(6), normal(6, seed=1)),
    call(torch.ones(6), normal(6)),
    call(normal(6), torch.ones(6)),
    shapes={"x": "n", "y": "n"},
    dims={"n": (2, 8)},
)
def correlation() -> nn.Module:
    from torchmetrics.functional.regression import pearson_corrcoef

    return CallsWithTwo(pearson_corrcoef)


# -- nflows -----------------------------------------------------------------------------------------

section("libraries", "nflows")


@row(
    call(normal(4) * 0.3, normal(4, 2)),
    call(normal(4) + 9, normal(4, 2)),
    shapes={"x": "n", "condition": "n 2"},
    dims={"n": (1, 6)},
)
def spline() -> nn.Module:
    from nflows.transforms.splines.rational_quadratic import unconstrained_rational_quadratic_spline

    class Spline(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(2, 11)

        def forward(self, x: Tensor, condition: Tensor) -> Tensor:
            widths, heights, slopes = self.net(condition).split([4, 4, 3], dim=-1)
            return unconstrained_rational_quadratic_spline(x, widths, heights, slopes)[0]

    return Spline()


# -- torchdiffeq ------------------------------------------------------------------------------------

section("libraries", "torchdiffeq")

steps = torch.tensor([0.0, 0.1, 0.1])


class Drift(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 3)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.net(y.sin()) * (1 + t)


class NeuralOde(nn.Module):
    def __init__(self, method: str) -> None:
        super().__init__()
        from torchdiffeq import odeint

        self.drift, self.solve = Drift(), partial(odeint, rtol=1e-3, atol=1e-4, method=method)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        return self.solve(self.drift, x, times.cumsum(0))


row(
    "adaptive solver",
    call(normal(3), steps),
    call(normal(3), steps * 40),
    call(normal(3) * 8, steps * 20),
    call(normal(3) * 0, steps),
    shapes={"x": "3", "times": "3"},
    values={"times": (0.01, 5.0), "x": (-10.0, 10.0)},
)(partial(NeuralOde, "dopri5"))


# -- labml_nn ---------------------------------------------------------------------------------------

section("libraries", "labml_nn")


def to_expert(place: int) -> Callable[[], Example]:
    return climbed(normal(5, 2, 4), lambda m, x: margin(m.switch(x.flatten(0, 1)), place))


@row(
    normal(5, 2, 4),
    *tuple(map(to_expert, range(3))),
    shapes={"x": "time batch 4"},
    dims={"batch": (1, 3), "time": (1, 6)},
    values={"x": (-6.0, 6.0)},
)
def switch() -> nn.Module:
    from labml_nn.transformers.feed_forward import FeedForward
    from labml_nn.transformers.switch import SwitchFeedForward

    return SwitchFeedForward(
        capacity_factor=1.25, drop_tokens=True, is_scale_prob=True, n_experts=3,
        expert=FeedForward(4, 8, 0.0), d_model=4,
    )  # fmt: skip


# -- torchcrf ---------------------------------------------------------------------------------------

section("libraries", "torchcrf")


def masked(*sizes: int) -> Callable[[], Example]:
    most = max(sizes)
    mask = torch.arange(most) < torch.tensor(sizes)[:, None]
    return call(normal(len(sizes), most, 4), mask)


@row(
    "tagger",
    masked(5, 3),
    masked(5, 5),
    masked(1, 1),
    masked(2),
    masked(4, 1, 3),
    shapes={"x": "batch time 4", "mask": "batch time"},
    dims={"batch": (1, 3), "time": (1, 6)},
    map=lambda mask: {"mask": mask | (torch.arange(mask.shape[1]) == 0)},
)
def crf() -> Any:
    from torchcrf import CRF

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.crf = CRF(4, batch_first=True)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            paths = self.crf.decode(x, mask)
            longest = max(len(path) for path in paths)
            return torch.tensor([path + [-1] * (longest - len(path)) for path in paths])

    return Tagger()


# -- pytorch_metric_learning ------------------------------------------------------------------------

section("libraries", "pytorch_metric_learning")

learned = {
    "shapes": {"embeddings": "n 4", "labels": "n"},
    "dims": {"n": (2, 6)},
    "values": {"labels": (0, 3)},
}
corners = torch.eye(4).repeat(2, 1)[:6]


def contrasts() -> nn.Module:
    from pytorch_metric_learning.losses import ContrastiveLoss

    return ContrastiveLoss(pos_margin=0.1, neg_margin=0.9)


def triplets() -> nn.Module:
    from pytorch_metric_learning.losses import TripletMarginLoss

    return TripletMarginLoss(margin=0.2)


for name, build in (("triplets", triplets), ("contrasts", contrasts)):
    row(
        name,
        call(normal(6, 4), labels(0, 1, 0, 1, 2, 2)),
        call(normal(4, 4), labels(0, 1, 2, 3)),
        call(normal(6, 4), labels(1, 1, 1, 1, 1, 1)),
        call(corners, labels(0, 1, 2, 3, 0, 1)),
        call(corners[:4], labels(0, 1, 2, 3)),
        **learned,
    )(build)


# -- local_attention --------------------------------------------------------------------------------

section("libraries", "local_attention")


def same(size: int) -> Callable[[], Example]:
    return call(*(normal(2, size, 4, seed=seed) for seed in range(3)))


@row(
    same(8),
    same(4),
    same(7),
    same(2),
    shapes=dict.fromkeys("qkv", "batch time 4"),
    dims={"batch": (1, 2), "time": (1, 12)},
)
def local_attention() -> nn.Module:
    from local_attention import LocalAttention

    return LocalAttention(
        window_size=4, causal=True, look_backward=1, autopad=True, dim=4, exact_windowsize=True
    )


# -- diffusers --------------------------------------------------------------------------------------

section("libraries", "diffusers")


def noised(*size: int) -> Callable[[], Example]:
    return call(
        sample=normal(1, 2, *size), timestep=torch.tensor(3),
        encoder_hidden_states=normal(1, 3, 8),
    )  # fmt: skip


@row(
    noised(8, 8),
    noised(7, 8),
    noised(8, 5),
    noised(9, 9),
    shapes={"sample": "batch 2 height width", "timestep": "", "encoder_hidden_states": "batch 3 8"},
    dims={"batch": (1, 2), "height": (4, 12), "width": (4, 12)},
    values={"timestep": (0, 999)},
)
def unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


@row(
    call(sample=normal(1, 3, 16, 16)),
    call(sample=normal(2, 3, 16, 16)),
    call(sample=normal(1, 3, 16, 24)),
    call(sample=normal(1, 3, 24, 16)),
    call(sample=normal(2, 3, 32, 32)),
    shapes={"sample": "batch 3 height width"},
    dims={"batch": (1, 3), "height": range(8, 33, 4), "width": range(8, 33, 4)},
)
def autoencoder() -> nn.Module:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(8, 8), norm_num_groups=4,
        latent_channels=2, sample_size=16, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )  # fmt: skip
    model.enable_slicing()
    model.enable_tiling()
    return model


@row(
    normal(1, 2, 4, 3, 3),
    normal(1, 2, 5, 3, 3),
    normal(1, 2, 1, 3, 3),
    shapes={"inputs": "1 2 time 3 3"},
    dims={"time": (1, 9)},
)
def video_upsample() -> nn.Module:
    from diffusers.models.upsampling import CogVideoXUpsample3D

    return CogVideoXUpsample3D(2, 2, compress_time=True)


@row(
    call(sample=normal(1, 1, 16)),
    call(sample=normal(1, 1, 20)),
    call(sample=normal(2, 1, 16)),
    shapes={"sample": "batch 1 time"},
    dims={"batch": (1, 3), "time": range(8, 33, 4)},
)
def audio_codec() -> nn.Module:
    from diffusers import AutoencoderOobleck

    model = AutoencoderOobleck(
        encoder_hidden_size=4, downsampling_ratios=[2, 2], channel_multiples=[1, 2],
        decoder_channels=4, decoder_input_channels=2, audio_channels=1,
    )  # fmt: skip
    model.enable_slicing()
    return model
