"""Modules of public libraries that branch, for the rows of ``branches.py`` on code of others.

The modules and their witnesses were chosen by reading the libraries' sources, before the search
had met any of them. A row whose library is not installed is left out.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from real.models import stub_torchvision
from zoo.branches import climbed, margin
from zoo.row import Example, Row, call, coins, normal, row, seeded, whole

# The attempts at a witness that is found by drawing.
ATTEMPTS = 5000


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


class CallsWithThree(Calls):
    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Any:
        return self.function(x, y, z, **self.arguments)


def drawn(make: Callable[[torch.Generator], Tensor], holds: Callable[[Tensor], bool]) -> Tensor:
    """Return the first of many draws that has a property."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(ATTEMPTS):
        value = make(generator)
        if holds(value):
            return value
    raise AssertionError("no draw has the property")


def spread(module: nn.Module) -> nn.Module:
    """Draw the weights anew from a normal distribution, as wide as that of a trained model."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


# -- transformers ----------------------------------------------------------------------------------


def bart_layer() -> nn.Module:
    from transformers import BartConfig
    from transformers.models.bart.modeling_bart import BartEncoderLayer

    config = BartConfig(d_model=8, encoder_attention_heads=2, encoder_ffn_dim=16)
    config._attn_implementation = "eager"
    return BartEncoderLayer(config).half()


def longformer() -> nn.Module:
    from transformers import LongformerConfig, LongformerModel

    config = LongformerConfig(
        attention_window=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, vocab_size=32, max_position_embeddings=40,
    )  # fmt: skip
    return LongformerModel(config, add_pooling_layer=False)


def fsmt() -> nn.Module:
    from transformers import FSMTConfig, FSMTModel

    config = FSMTConfig(
        langs=["en", "de"], src_vocab_size=32, tgt_vocab_size=32, d_model=8, encoder_layers=1,
        decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, max_position_embeddings=40, use_cache=False,
    )  # fmt: skip
    return FSMTModel(config)


def reformer() -> nn.Module:
    from transformers import ReformerConfig, ReformerModel

    config = ReformerConfig(
        attn_layers=["local", "lsh"], attention_head_size=4, axial_pos_embds=False, hash_seed=0,
        feed_forward_size=16, hidden_size=8, local_attn_chunk_length=4, lsh_attn_chunk_length=4,
        max_position_embeddings=64, num_attention_heads=2, num_buckets=2, num_hashes=1,
        vocab_size=32, is_decoder=False, use_cache=False,
    )  # fmt: skip
    return ReformerModel(config)


def superpoint() -> nn.Module:
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    config = SuperPointConfig(
        encoder_hidden_sizes=[4, 4, 8, 8], decoder_hidden_size=8, descriptor_decoder_dim=8,
        keypoint_threshold=0.3, max_keypoints=4, border_removal_distance=1,
    )  # fmt: skip
    return spread(SuperPointForKeypointDetection(config))


def table_head() -> nn.Module:
    from transformers import SLANetConfig
    from transformers.models.slanet.modeling_slanet import SLANetSLAHead

    config = SLANetConfig(
        out_channels=5, hidden_size=8, post_conv_out_channels=6, max_text_length=4
    )
    return spread(SLANetSLAHead(config))


def stops_at(rounds: int) -> Callable[[], Example]:
    """Return a witness on which the head emits its end after so many rounds."""

    def witness() -> Example:
        head = seeded(table_head)()

        def holds(x: Tensor) -> bool:
            with torch.no_grad():
                return head(x)[0].shape[1] == rounds

        return (drawn(lambda g: torch.randn(1, 9, 6, generator=g) * 8, holds),), {}

    return witness


def swin() -> nn.Module:
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4
    )
    return SwinModel(config, add_pooling_layer=False)


def length_regulator() -> nn.Module:
    from transformers.models.fastspeech2_conformer.modeling_fastspeech2_conformer import (
        length_regulator,
    )

    return CallsWithTwo(length_regulator)


def visual_embeddings() -> nn.Module:
    from transformers import VisualBertConfig
    from transformers.models.visual_bert.modeling_visual_bert import VisualBertEmbeddings

    config = VisualBertConfig(
        vocab_size=32, hidden_size=8, visual_embedding_dim=4, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    return VisualBertEmbeddings(config)


def mixture() -> nn.Module:
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = MixtralConfig(
        hidden_size=8, intermediate_size=8, num_local_experts=4, num_experts_per_tok=1
    )
    config._experts_implementation = "eager"
    return spread(MixtralSparseMoeBlock(config))


def distilbert() -> nn.Module:
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(vocab_size=32, dim=8, hidden_dim=16, n_layers=1, n_heads=2)
    return DistilBertModel(config)


def encodec_conv() -> nn.Module:
    from transformers import EncodecConfig
    from transformers.models.encodec.modeling_encodec import EncodecConv1d

    return EncodecConv1d(EncodecConfig(), 2, 3, kernel_size=7, stride=2)


def dinov2() -> nn.Module:
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        image_size=16, patch_size=4, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    return Dinov2Model(config)


def big_bird() -> nn.Module:
    from transformers import BigBirdConfig, BigBirdModel

    config = BigBirdConfig(
        vocab_size=32, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, block_size=2, num_random_blocks=1,
        use_cache=False,
    )  # fmt: skip
    return BigBirdModel(config, add_pooling_layer=False)


MASKED = {
    "shapes": {"input_ids": "batch time", "attention_mask": "batch time"},
    "dims": {"batch": (1, 3), "time": (2, 24)},
    "values": {"input_ids": (3, 31), "attention_mask": [0, 1]},
}
IMAGE = {
    "shapes": {"pixel_values": "batch 3 height width"},
    "dims": {"batch": (1, 2), "height": (8, 32), "width": (8, 32)},
}


def ids(batch: int, time: int) -> Tensor:
    return whole(3, 31, batch, time)


def after(size: int, *shape: int) -> Tensor:
    """Return ones, with zeros from a position of the last axis on."""
    mask = torch.ones(shape, dtype=torch.int64)
    mask[..., size:] = 0
    return mask


LONGFORMER = {
    "shapes": dict.fromkeys(("input_ids", "attention_mask", "global_attention_mask"), "batch time"),
    "dims": {"batch": (1, 3), "time": (2, 24)},
    "values": {
        "input_ids": (3, 31),
        "attention_mask": [0, 1],
        "global_attention_mask": [0, 1],
    },
}


def for_longformer(time: int, *places: int) -> Callable[[], Example]:
    attended = torch.zeros(2, time, dtype=torch.int64)
    attended[0, list(places)] = 1
    return call(
        input_ids=ids(2, time),
        attention_mask=after(time, 2, time),
        global_attention_mask=attended,
    )


def for_fsmt(last: int) -> Callable[[], Example]:
    decoder = ids(2, 5)
    decoder[1, -1] = last
    return call(input_ids=ids(2, 6), attention_mask=after(6, 2, 6), decoder_input_ids=decoder)


def for_visual(alignment: Tensor) -> Callable[[], Example]:
    return call(input_ids=ids(2, 5), visual_embeds=normal(2, 3, 4), image_text_alignment=alignment)


ALIGNED = torch.tensor([[[0, 1], [1, -1], [2, 3]], [[4, -1], [0, -1], [1, 2]]])


def same_expert() -> Example:
    """Return tokens that all go to one expert."""
    return (normal(1, 1, 8).repeat(2, 3, 1),), {}


def transformers_rows() -> Iterator[Row]:
    yield row(
        "bart layer in half precision", bart_layer,
        call(normal(2, 4, 8, dtype=torch.float16), None),
        witnesses=(call(torch.full((2, 4, 8), 60000.0).half() * coins(2, 4, 8), None),),
        shapes={"hidden_states": "batch time 8"}, dims={"batch": (1, 3), "time": (1, 8)},
        values={"hidden_states": (-65000.0, 65000.0)},
    )  # fmt: skip
    yield row(
        "longformer", longformer, for_longformer(8),
        witnesses=(for_longformer(8, 0), for_longformer(6), for_longformer(6, 1, 3)),
        **LONGFORMER,
    )  # fmt: skip
    yield row(
        "fsmt", fsmt, for_fsmt(9), witnesses=(for_fsmt(1),),
        shapes={
            "input_ids": "batch time", "attention_mask": "batch time",
            "decoder_input_ids": "batch out",
        },
        dims={"batch": (1, 3), "time": (2, 9), "out": (2, 9)},
        values={
            "input_ids": (1, 31), "attention_mask": [0, 1], "decoder_input_ids": (1, 31),
        },
    )  # fmt: skip
    yield row(
        "reformer", reformer, call(input_ids=ids(2, 8), attention_mask=after(8, 2, 8)),
        witnesses=(
            call(input_ids=ids(2, 4), attention_mask=after(4, 2, 4)),
            call(input_ids=ids(2, 6), attention_mask=after(6, 2, 6)),
            call(input_ids=ids(2, 8), attention_mask=after(5, 2, 8)),
            call(input_ids=ids(2, 16), attention_mask=after(9, 2, 16)),
        ),
        **MASKED,
    )  # fmt: skip
    yield row(
        "superpoint", superpoint, call(pixel_values=normal(1, 3, 16, 16)),
        witnesses=(
            call(pixel_values=torch.zeros(1, 3, 16, 16)),
            call(pixel_values=normal(1, 3, 24, 24) * 4),
            call(pixel_values=normal(1, 3, 16, 16) * 0.01),
        ),
        shapes={"pixel_values": "1 3 height width"},
        dims={"height": [16, 24, 32], "width": [16, 24, 32]},
    )  # fmt: skip
    yield row(
        "table head", table_head, call(normal(1, 9, 6)),
        witnesses=(stops_at(2),),
        shapes={"hidden_states": "1 9 6"}, values={"hidden_states": (-40.0, 40.0)},
    )  # fmt: skip
    yield row(
        "swin", swin, call(pixel_values=normal(1, 3, 16, 16)),
        witnesses=tuple(
            call(pixel_values=normal(1, 3, *size))
            for size in ((18, 16), (16, 18), (17, 19), (32, 32), (16, 32))
        ),
        shapes=IMAGE["shapes"],
        dims={"batch": (1, 2), "height": (16, 40), "width": (16, 40)},
    )  # fmt: skip
    yield row(
        "length regulator", length_regulator, call(normal(2, 4, 3), whole(1, 3, 2, 4)),
        witnesses=(
            call(normal(2, 4, 3), torch.zeros(2, 4, dtype=torch.int64)),
            call(normal(1, 4, 3), whole(0, 3, 1, 4)),
        ),
        shapes={"x": "batch time 3", "y": "batch time"},
        dims={"batch": (1, 3), "time": (1, 6)}, values={"y": (0, 4)},
    )  # fmt: skip
    yield row(
        "visual embeddings", visual_embeddings, for_visual(ALIGNED),
        witnesses=(for_visual(ALIGNED.abs()), for_visual(ALIGNED.clamp(max=-1))),
        shapes={
            "input_ids": "batch 5", "visual_embeds": "batch 3 4",
            "image_text_alignment": "batch 3 2",
        },
        dims={"batch": (1, 3)}, values={"image_text_alignment": (-1, 4)},
    )  # fmt: skip
    yield row(
        "mixture", mixture, call(normal(2, 3, 8)),
        witnesses=(same_expert, call(normal(1, 1, 8)), call(normal(4, 6, 8))),
        shapes={"hidden_states": "batch time 8"}, dims={"batch": (1, 4), "time": (1, 6)},
    )  # fmt: skip
    yield row(
        "distilbert", distilbert, call(input_ids=ids(2, 6), attention_mask=after(6, 2, 6)),
        witnesses=(call(input_ids=ids(2, 6), attention_mask=after(4, 2, 6)),),
        **MASKED,
    )  # fmt: skip
    yield row(
        "encodec conv", encodec_conv, call(normal(1, 2, 16)),
        witnesses=tuple(call(normal(1, 2, size)) for size in (2, 5, 6, 7, 17)),
        shapes={"hidden_states": "batch 2 time"}, dims={"batch": (1, 2), "time": (1, 24)},
    )  # fmt: skip
    yield row(
        "dinov2", dinov2, call(pixel_values=normal(1, 3, 16, 16)),
        witnesses=(
            call(pixel_values=normal(1, 3, 8, 8)),
            call(pixel_values=normal(1, 3, 8, 32)),
            call(pixel_values=normal(1, 3, 24, 12)),
        ),
        shapes=IMAGE["shapes"],
        dims={"batch": (1, 2), "height": range(8, 33, 4), "width": range(8, 33, 4)},
    )  # fmt: skip
    yield row(
        "big bird", big_bird, call(input_ids=ids(1, 18), attention_mask=after(18, 1, 18)),
        witnesses=(
            call(input_ids=ids(1, 8), attention_mask=after(8, 1, 8)),
            call(input_ids=ids(1, 17), attention_mask=after(17, 1, 17)),
            call(input_ids=ids(1, 9), attention_mask=after(9, 1, 9)),
        ),
        **MASKED,
    )  # fmt: skip


# -- timm and torchvision --------------------------------------------------------------------------


def tiny_vit() -> nn.Module:
    from timm.models.tiny_vit import TinyVit

    return TinyVit(
        num_classes=4, embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2),
        window_sizes=(2, 2, 4, 2),
    )  # fmt: skip


def swin_2d() -> nn.Module:
    from torchvision.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        patch_size=[2, 2], embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=[4, 4],
        num_classes=4, stochastic_depth_prob=0.0,
    )  # fmt: skip


def swin_3d() -> nn.Module:
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    return SwinTransformer3d(
        patch_size=[2, 2, 2], embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=[2, 4, 4],
        num_classes=4, stochastic_depth_prob=0.0,
    )  # fmt: skip


def center_crop() -> nn.Module:
    from torchvision.transforms.v2 import CenterCrop

    return CenterCrop((12, 10))


def resizes() -> nn.Module:
    from torchvision.transforms.v2 import Resize

    return Resize(8, max_size=12)


def sharpness() -> nn.Module:
    from torchvision.transforms.v2.functional import adjust_sharpness

    return Calls(adjust_sharpness, sharpness_factor=2.0)


def masks_to_boxes() -> nn.Module:
    from torchvision.ops import masks_to_boxes

    return Calls(masks_to_boxes)


def detector_resize() -> nn.Module:
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    return GeneralizedRCNNTransform(16, 24, [0.5] * 3, [0.2] * 3, size_divisible=8)


def images(shapes: str, *, least: int = 4, most: int = 32) -> dict[str, Any]:
    dims = {"batch": (1, 2), "height": (least, most), "width": (least, most)}
    return {"shapes": {"x": shapes}, "dims": dims}


def timm_rows() -> Iterator[Row]:
    yield row(
        "tiny vit", tiny_vit, call(normal(1, 3, 32, 32)),
        witnesses=(
            call(normal(1, 3, 64, 64)), call(normal(1, 3, 48, 32)), call(normal(1, 3, 64, 96)),
        ),
        shapes={"x": "batch 3 height width"},
        dims={"batch": (1, 2), "height": range(32, 97, 16), "width": range(32, 97, 16)},
    )  # fmt: skip


def torchvision_rows() -> Iterator[Row]:
    yield row(
        "torchvision swin", swin_2d, call(normal(1, 3, 16, 16)),
        witnesses=tuple(
            call(normal(1, 3, *size)) for size in ((8, 8), (8, 16), (16, 8), (24, 32))
        ),
        **images("batch 3 height width", least=8),
    )  # fmt: skip
    yield row(
        "video swin", swin_3d, call(normal(1, 3, 4, 16, 16)),
        witnesses=tuple(
            call(normal(1, 3, *size)) for size in ((8, 16, 16), (8, 8, 8), (4, 8, 16), (4, 16, 8))
        ),
        shapes={"x": "1 3 time height width"},
        dims={"time": (2, 8), "height": (4, 24), "width": (4, 24)},
    )  # fmt: skip
    crops = ((16, 8), (8, 16), (8, 8), (12, 10))
    yield row(
        "center crop", center_crop, call(normal(3, 16, 16)),
        witnesses=tuple(call(normal(3, *size)) for size in crops),
        shapes={"inputs[0]": "3 height width"}, dims={"height": (4, 32), "width": (4, 32)},
    )  # fmt: skip
    yield row(
        "resize", resizes, call(normal(3, 16, 12)),
        witnesses=tuple(call(normal(3, *size)) for size in ((10, 20), (8, 8), (12, 8), (30, 10))),
        shapes={"inputs[0]": "3 height width"}, dims={"height": (4, 32), "width": (4, 32)},
    )  # fmt: skip
    yield row(
        "sharpness", sharpness, call(normal(2, 3, 8, 8).abs()),
        witnesses=(call(normal(2, 3, 2, 8).abs()), call(normal(2, 3, 8, 1).abs())),
        **images("batch 3 height width", least=1),
    )  # fmt: skip
    yield row(
        "masks to boxes", masks_to_boxes, call(coins(2, 5, 6)),
        witnesses=(call(coins(1, 5, 6)), call(torch.zeros(0, 5, 6, dtype=torch.bool))),
        shapes={"x": "masks 5 6"}, dims={"masks": (0, 4)},
        map=lambda x: {"x": x | (torch.arange(6) == 0)},
    )  # fmt: skip


# -- kornia ----------------------------------------------------------------------------------------


def canny() -> nn.Module:
    from kornia.filters import Canny

    return Canny()


def matcher(mode: str) -> nn.Module:
    from kornia.feature import DescriptorMatcher

    return DescriptorMatcher(mode, 0.8)


def components() -> nn.Module:
    from kornia.contrib.connected_components import connected_components_union_find

    return Calls(connected_components_union_find)


def distances() -> nn.Module:
    from kornia.contrib import distance_transform

    return Calls(distance_transform)


def quadratic() -> nn.Module:
    from kornia.geometry.solvers import solve_quadratic

    return Calls(solve_quadratic)


def cubic() -> nn.Module:
    from kornia.geometry.solvers import solve_cubic

    return Calls(solve_cubic)


def cubics(*rows: tuple[float, float, float, float]) -> Callable[[], Example]:
    return call(torch.tensor(rows, dtype=torch.float32))


def connected(*rows: str) -> Callable[[], Example]:
    """Return an image in which ``x`` is foreground."""
    return call(torch.tensor([[[[float(mark == "x") for mark in row] for row in rows]]]))


SPIRAL = (
    "xxxxxxxx", ".......x", "xxxxxx.x", "x....x.x", "x.xx.x.x", "x.x..x.x", "x.xxxx.x", "x......x",
)  # fmt: skip


def kornia_rows() -> Iterator[Row]:
    ramp = torch.linspace(0, 1, 12).repeat(1, 1, 12, 1)
    step = (torch.arange(12) > 5).float().repeat(1, 1, 12, 1)
    yield row(
        "canny", canny, call(torch.full((1, 1, 12, 12), 0.5)),
        witnesses=(call(step), call(step * ramp.mT), call(torch.rand(1, 1, 12, 12))),
        shapes={"input": "batch 1 height width"},
        dims={"batch": (1, 2), "height": (4, 16), "width": (4, 16)}, values={"input": (0.0, 1.0)},
    )  # fmt: skip
    pair = {"shapes": {"desc1": "n 4", "desc2": "m 4"}, "dims": {"n": (1, 6), "m": (1, 6)}}
    for mode in ("snn", "smnn"):
        yield row(
            f"matcher {mode}", partial(matcher, mode), call(normal(5, 4), normal(4, 4)),
            witnesses=(
                call(normal(5, 4), normal(5, 4) + 0.01),
                call(normal(5, 4), torch.ones(4, 4)),
                call(normal(1, 4), normal(4, 4)),
                call(normal(4, 4), normal(1, 4)),
            ),
            **pair,
        )  # fmt: skip
    yield row(
        "components", components, connected("........", "...xx...", "...xx...", "........"),
        witnesses=(connected(*SPIRAL), connected("x......x", "........"), connected("........")),
        shapes={"x": "1 1 height width"}, dims={"height": (1, 8), "width": (1, 8)},
        values={"x": [0.0, 1.0]},
    )  # fmt: skip
    dots = torch.zeros(1, 1, 20, 20)
    dots[..., ::4, ::4] = 1
    corner = torch.zeros(1, 1, 20, 20)
    corner[..., 0, 0] = 1
    yield row(
        "distances", distances, call(dots), witnesses=(call(corner), call(corner * 0)),
        shapes={"x": "1 1 height width"}, dims={"height": (4, 24), "width": (4, 24)},
        values={"x": [0.0, 1.0]},
    )  # fmt: skip
    yield row(
        "quadratic", quadratic, call(normal(3, 3)),
        witnesses=(call(normal(3, 3) * 1e-22), call(normal(3, 3) * 1e19), call(normal(3, 3) * 0)),
        shapes={"x": "batch 3"}, dims={"batch": (1, 4)}, values={"x": (-1e30, 1e30)},
    )  # fmt: skip
    yield row(
        "cubic", cubic, cubics((1, 0, 0, 1)),
        witnesses=(
            cubics((1, -6, 11, -6)),  # three roots
            cubics((0, 1, -3, 2)),  # of second degree
            cubics((0, 0, 2, -4)),  # of first degree
            cubics((0, 0, 0, 1)),
            cubics((1, 0, 0, 0)),  # a triple root
            cubics((1, -4, 5, -2)),  # a double root
            cubics((1e-6, 1, -3, 2)),  # a root far from the others
        ),
        shapes={"x": "batch 4"}, dims={"batch": (1, 4)}, values={"x": (-10.0, 10.0)},
    )  # fmt: skip


# -- torchmetrics ----------------------------------------------------------------------------------


def matthews() -> nn.Module:
    from torchmetrics.functional.classification import binary_matthews_corrcoef

    return CallsWithTwo(binary_matthews_corrcoef, validate_args=False)


def specificity() -> nn.Module:
    from torchmetrics.functional.classification import binary_specificity_at_sensitivity

    return CallsWithTwo(
        binary_specificity_at_sensitivity, min_sensitivity=0.9, thresholds=5, validate_args=False
    )


def ranking() -> nn.Module:
    from torchmetrics.functional.classification import multilabel_ranking_average_precision

    return CallsWithTwo(multilabel_ranking_average_precision, num_labels=4, validate_args=False)


def mallows() -> nn.Module:
    from torchmetrics.functional.clustering import fowlkes_mallows_index

    return CallsWithTwo(fowlkes_mallows_index)


def mutual() -> nn.Module:
    from torchmetrics.functional.clustering import normalized_mutual_info_score

    return CallsWithTwo(normalized_mutual_info_score)


def reciprocal_rank() -> nn.Module:
    from torchmetrics.functional.retrieval import retrieval_reciprocal_rank

    return CallsWithTwo(retrieval_reciprocal_rank, top_k=3)


def precision_curve() -> nn.Module:
    from torchmetrics.functional.classification import binary_precision_recall_curve

    return CallsWithTwo(binary_precision_recall_curve, thresholds=4, validate_args=False)


def surface() -> nn.Module:
    from torchmetrics.functional.segmentation.utils import surface_distance

    return CallsWithTwo(surface_distance, spacing=[1, 1])


def overlap() -> nn.Module:
    from torchmetrics.functional.detection import intersection_over_union

    return CallsWithTwo(intersection_over_union, iou_threshold=0.5)


def correlation() -> nn.Module:
    from torchmetrics.functional.regression import pearson_corrcoef

    return CallsWithTwo(pearson_corrcoef)


def labels(*numbers: int) -> Tensor:
    return torch.tensor(numbers)


def torchmetrics_rows() -> Iterator[Row]:
    scored = {
        "shapes": {"x": "n", "y": "n"},
        "dims": {"n": (2, 8)},
        "values": {"x": (0.0, 1.0), "y": (0, 1)},
    }
    truth = labels(0, 1, 0, 1, 1, 0)

    def guess(*numbers: float) -> Callable[[], Example]:
        return call(torch.tensor(numbers), truth)

    sure = truth.float()
    yield row(
        "matthews", matthews, guess(0.2, 0.7, 0.6, 0.4, 0.9, 0.3),
        witnesses=(
            call(sure, truth), call(1 - sure, truth), call(sure * 0 + 1, truth),
            call(sure * 0, truth), call(sure, truth * 0), call(sure, truth * 0 + 1),
            call(sure * 0, truth * 0),
        ),
        **scored,
    )  # fmt: skip
    yield row(
        "specificity", specificity, guess(0.2, 0.7, 0.6, 0.4, 0.9, 0.3),
        witnesses=(call(sure, truth), call(sure, truth * 0)),
        **scored,
    )  # fmt: skip
    yield row(
        "precision curve", precision_curve, guess(0.2, 0.7, 0.6, 0.4, 0.9, 0.3),
        witnesses=(call(sure, truth * 0), call(sure, truth * 0 + 1)),
        **scored,
    )  # fmt: skip
    yield row(
        "ranking", ranking, call(normal(3, 4), whole(0, 1, 3, 4)),
        witnesses=(
            call(normal(3, 4), torch.zeros(3, 4).long()),
            call(normal(3, 4), torch.ones(3, 4).long()),
            call(normal(1, 4), whole(0, 1, 1, 4)),
        ),
        shapes={"x": "n 4", "y": "n 4"}, dims={"n": (1, 5)}, values={"y": (0, 1)},
    )  # fmt: skip
    clustered = {
        "shapes": {"x": "n", "y": "n"},
        "dims": {"n": (2, 10)},
        "values": {"x": (0, 5), "y": (0, 5)},
    }
    example = call(labels(0, 0, 1, 1, 2), labels(0, 0, 1, 2, 2))
    apart = call(labels(0, 1, 2, 3, 4), labels(0, 0, 1, 1, 2))
    one = call(labels(0, 0, 0, 0, 0), labels(0, 0, 1, 1, 2))
    both = call(labels(0, 0, 0, 0, 0), labels(1, 1, 1, 1, 1))
    yield row("mallows", mallows, example, witnesses=(apart, one), **clustered)
    yield row("mutual information", mutual, example, witnesses=(apart, one, both), **clustered)
    yield row(
        "reciprocal rank", reciprocal_rank, call(torch.tensor([0.2, 0.3, 0.5, 0.4]), truth[:4]),
        witnesses=(
            call(torch.tensor([0.2, 0.3, 0.5, 0.4]), truth[:4] * 0),
            call(torch.tensor([0.2, 0.3]), labels(0, 1)),
        ),
        **scored,
    )  # fmt: skip
    mask = coins(6, 6)
    yield row(
        "surface distance", surface, call(mask, mask.flip(0)),
        witnesses=(call(mask, mask & ~mask), call(mask & ~mask, mask)),
        shapes={"x": "6 6", "y": "6 6"},
    )  # fmt: skip
    boxes = torch.tensor([[0.0, 0, 4, 4], [2, 2, 5, 6], [1, 1, 3, 8]])
    yield row(
        "overlap", overlap, call(boxes, boxes + 0.5),
        witnesses=(call(boxes[:0], boxes), call(boxes, boxes[:0]), call(boxes[:0], boxes[:0])),
        shapes={"x": "n 4", "y": "m 4"}, dims={"n": (0, 4), "m": (0, 4)},
    )  # fmt: skip
    yield row(
        "correlation", correlation, call(normal(6), normal(6, seed=1)),
        witnesses=(call(torch.ones(6), normal(6)), call(normal(6), torch.ones(6))),
        shapes={"x": "n", "y": "n"}, dims={"n": (2, 8)},
    )  # fmt: skip


# -- smaller libraries -----------------------------------------------------------------------------


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


def switch() -> nn.Module:
    from labml_nn.transformers.feed_forward import FeedForward
    from labml_nn.transformers.switch import SwitchFeedForward

    return SwitchFeedForward(
        capacity_factor=1.25, drop_tokens=True, is_scale_prob=True, n_experts=3,
        expert=FeedForward(4, 8, 0.0), d_model=4,
    )  # fmt: skip


def to_expert(place: int) -> Callable[[], Example]:
    return climbed(switch, normal(5, 2, 4), lambda m, x: margin(m.switch(x.flatten(0, 1)), place))


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


def triplets() -> nn.Module:
    from pytorch_metric_learning.losses import TripletMarginLoss

    return TripletMarginLoss(margin=0.2)


def contrasts() -> nn.Module:
    from pytorch_metric_learning.losses import ContrastiveLoss

    return ContrastiveLoss(pos_margin=0.1, neg_margin=0.9)


def local_attention() -> nn.Module:
    from local_attention import LocalAttention

    return LocalAttention(
        window_size=4, causal=True, look_backward=1, autopad=True, dim=4, exact_windowsize=True
    )


def unet() -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8, in_channels=2, out_channels=2, layers_per_block=1,
        block_out_channels=(8, 16), norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip


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


def video_upsample() -> nn.Module:
    from diffusers.models.upsampling import CogVideoXUpsample3D

    return CogVideoXUpsample3D(2, 2, compress_time=True)


def audio_codec() -> nn.Module:
    from diffusers import AutoencoderOobleck

    model = AutoencoderOobleck(
        encoder_hidden_size=4, downsampling_ratios=[2, 2], channel_multiples=[1, 2],
        decoder_channels=4, decoder_input_channels=2, audio_channels=1,
    )  # fmt: skip
    model.enable_slicing()
    return model


def nflows_rows() -> Iterator[Row]:
    yield row(
        "spline", spline, call(normal(4) * 0.3, normal(4, 2)),
        witnesses=(call(normal(4) + 9, normal(4, 2)),),
        shapes={"x": "n", "condition": "n 2"}, dims={"n": (1, 6)},
    )  # fmt: skip


def torchdiffeq_rows() -> Iterator[Row]:
    steps = torch.tensor([0.0, 0.1, 0.1])
    yield row(
        "adaptive solver", partial(NeuralOde, "dopri5"), call(normal(3), steps),
        witnesses=(
            call(normal(3), steps * 40), call(normal(3) * 8, steps * 20),
            call(normal(3) * 0, steps),
        ),
        shapes={"x": "3", "times": "3"}, values={"times": (0.01, 5.0), "x": (-10.0, 10.0)},
    )  # fmt: skip


def labml_rows() -> Iterator[Row]:
    yield row(
        "switch", switch, call(normal(5, 2, 4)), witnesses=tuple(map(to_expert, range(3))),
        shapes={"x": "time batch 4"}, dims={"batch": (1, 3), "time": (1, 6)},
        values={"x": (-6.0, 6.0)},
    )  # fmt: skip


def torchcrf_rows() -> Iterator[Row]:
    def masked(*sizes: int) -> Callable[[], Example]:
        most = max(sizes)
        mask = torch.arange(most) < torch.tensor(sizes)[:, None]
        return call(normal(len(sizes), most, 4), mask)

    yield row(
        "tagger", crf, masked(5, 3),
        witnesses=(masked(5, 5), masked(1, 1), masked(2), masked(4, 1, 3)),
        shapes={"x": "batch time 4", "mask": "batch time"},
        dims={"batch": (1, 3), "time": (1, 6)},
        map=lambda mask: {"mask": mask | (torch.arange(mask.shape[1]) == 0)},
    )  # fmt: skip


def metric_learning_rows() -> Iterator[Row]:
    learned = {
        "shapes": {"embeddings": "n 4", "labels": "n"},
        "dims": {"n": (2, 6)},
        "values": {"labels": (0, 3)},
    }
    corners = torch.eye(4).repeat(2, 1)[:6]
    for name, build in (("triplets", triplets), ("contrasts", contrasts)):
        yield row(
            name, build, call(normal(6, 4), labels(0, 1, 0, 1, 2, 2)),
            witnesses=(
                call(normal(4, 4), labels(0, 1, 2, 3)),
                call(normal(6, 4), labels(1, 1, 1, 1, 1, 1)),
                call(corners, labels(0, 1, 2, 3, 0, 1)),
                call(corners[:4], labels(0, 1, 2, 3)),
            ),
            **learned,
        )  # fmt: skip


def local_attention_rows() -> Iterator[Row]:
    def same(size: int) -> Callable[[], Example]:
        return call(*(normal(2, size, 4, seed=seed) for seed in range(3)))

    yield row(
        "local attention", local_attention, same(8), witnesses=(same(4), same(7), same(2)),
        shapes=dict.fromkeys("qkv", "batch time 4"), dims={"batch": (1, 2), "time": (1, 12)},
    )  # fmt: skip


def diffusers_rows() -> Iterator[Row]:
    def noised(*size: int) -> Callable[[], Example]:
        return call(
            sample=normal(1, 2, *size), timestep=torch.tensor(3),
            encoder_hidden_states=normal(1, 3, 8),
        )  # fmt: skip

    yield row(
        "unet", unet, noised(8, 8), witnesses=(noised(7, 8), noised(8, 5), noised(9, 9)),
        shapes={
            "sample": "batch 2 height width", "timestep": "", "encoder_hidden_states": "batch 3 8",
        },
        dims={"batch": (1, 2), "height": (4, 12), "width": (4, 12)}, values={"timestep": (0, 999)},
    )  # fmt: skip
    yield row(
        "autoencoder", autoencoder, call(sample=normal(1, 3, 16, 16)),
        witnesses=(
            call(sample=normal(2, 3, 16, 16)), call(sample=normal(1, 3, 16, 24)),
            call(sample=normal(1, 3, 24, 16)), call(sample=normal(2, 3, 32, 32)),
        ),
        shapes={"sample": "batch 3 height width"},
        dims={"batch": (1, 3), "height": range(8, 33, 4), "width": range(8, 33, 4)},
    )  # fmt: skip
    yield row(
        "video upsample", video_upsample, call(normal(1, 2, 4, 3, 3)),
        witnesses=(call(normal(1, 2, 5, 3, 3)), call(normal(1, 2, 1, 3, 3))),
        shapes={"inputs": "1 2 time 3 3"}, dims={"time": (1, 9)},
    )  # fmt: skip
    yield row(
        "audio codec", audio_codec, call(sample=normal(1, 1, 16)),
        witnesses=(call(sample=normal(1, 1, 20)), call(sample=normal(2, 1, 16))),
        shapes={"sample": "batch 1 time"}, dims={"batch": (1, 3), "time": range(8, 33, 4)},
    )  # fmt: skip


# By the package that a row's module comes from, which the search follows.
BY_PACKAGE: dict[str, Callable[[], Iterator[Row]]] = {
    "transformers": transformers_rows,
    "timm": timm_rows,
    "torchvision": torchvision_rows,
    "kornia": kornia_rows,
    "torchmetrics": torchmetrics_rows,
    "nflows": nflows_rows,
    "torchdiffeq": torchdiffeq_rows,
    "labml_nn": labml_rows,
    "torchcrf": torchcrf_rows,
    "pytorch_metric_learning": metric_learning_rows,
    "local_attention": local_attention_rows,
    "diffusers": diffusers_rows,
}


def library_rows() -> Iterator[tuple[Row, str]]:
    """Yield the rows of the installed libraries, each with the package that it is of."""
    stub_torchvision()
    for package, rows in BY_PACKAGE.items():
        if importlib.util.find_spec(package) is not None:
            yield from ((row, package) for row in rows())
