"""Draw random networks of torch.nn layers from a seed, as source, each with one known fault.

They are source, because TorchScript compiles source, and so that a person can read a network that
was judged wrongly: `python benchmarks/faults.py --show 17`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import sys
import textwrap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FAULTS = (
    "a size frozen",
    "an axis swapped",
    "a weight element off by 1 %",
    "an output dropped",
    "two outputs exchanged",
    "a cast to a narrower dtype",
    "a constant folded at the example",
    "a mask ignored",
    "an epsilon left out",
    "a state update dropped",
)
FROZEN, SWAPPED, WEIGHT, DROPPED, EXCHANGED, CAST, FOLDED, MASK, EPSILON, STATE = FAULTS
# Those that a step of their own has.
SITED = (FROZEN, SWAPPED, FOLDED, EPSILON, STATE)

# Sizes of the example and the ranges declared for them.
EXAMPLE = {"batch": 3, "time": 6, "length": 12, "height": 10, "width": 10}
RANGES = {"batch": (1, 5), "time": (2, 9), "length": (8, 16), "height": (8, 13), "width": (8, 13)}
WORDS = 11
ACTIVATIONS = [
    "ReLU()",
    "Tanh()",
    "GELU()",
    "SiLU()",
    "ELU()",
    "Sigmoid()",
    "Softplus()",
    "LeakyReLU(0.1)",
    "Hardswish()",
    "Mish()",
    "SELU()",
    "Softsign()",
    "PReLU()",
    "Dropout(0.3)",
    "Identity()",
]


@dataclasses.dataclass
class Step:
    """Lines of forward, and the lines that replace them in the faulty network."""

    text: str
    faulty: dict[str, str] = dataclasses.field(default_factory=dict)
    layer: str = ""  # the layer whose weight the fault may change


@dataclasses.dataclass
class Network:
    """A healthy network, the same one with a fault, and the legal calls of both."""

    seed: int
    fault: str
    source: str
    shapes: dict[str, str]
    values: dict[str, tuple[float, float]]
    stateful: bool

    def options(self) -> dict[str, Any]:
        said = {word for text in self.shapes.values() for word in text.split() if word in RANGES}
        options: dict[str, Any] = {
            "shapes": self.shapes,
            "dims": {name: RANGES[name] for name in sorted(said)},
        }
        if self.values:
            options["values"] = self.values
        return options

    def call(self, seed: int, sizes: dict[str, int], scale: float = 1.0) -> tuple[Tensor, ...]:
        """Return arguments that are drawn without the plugin."""
        generator = torch.Generator().manual_seed(seed)
        made = []
        for name, text in self.shapes.items():
            shape = [sizes[word] if word in sizes else int(word) for word in text.split()]
            if name in self.values:
                made.append(torch.randint(0, WORDS, shape, generator=generator))
            elif name == "mask":
                mask = torch.rand(shape, generator=generator) < 0.6
                mask[:, 0] = True
                made.append(mask)
            else:
                made.append(torch.randn(shape, generator=generator) * scale)
        return tuple(made)

    def example(self) -> tuple[Tensor, ...]:
        return self.call(1_000_003 + self.seed, EXAMPLE)

    def load(self, directory: Path) -> tuple[nn.Module, nn.Module]:
        """Return the healthy module, and one that is faulty during capture; weights are equal."""
        name = f"drawn_network_{self.seed}"
        path = directory / f"{name}.py"
        path.write_text(self.source)
        found = importlib.util.spec_from_file_location(name, path)
        assert found is not None
        assert found.loader is not None
        loaded = importlib.util.module_from_spec(found)
        sys.modules[name] = loaded
        found.loader.exec_module(loaded)
        torch.manual_seed(self.seed)
        healthy = loaded.Healthy().eval()
        _trained(healthy)
        faulty = loaded.Faulty().eval()
        faulty.load_state_dict(healthy.state_dict(), strict=False)
        if self.fault == WEIGHT:
            _nudge(faulty, self.seed)
        if self.fault == FOLDED:
            with torch.no_grad():
                faulty.folded = float(loaded.folded(faulty, *self.example()))
        return healthy, faulty


def draw(seed: int) -> Network:
    return _Draft(seed).network()


def _trained(module: nn.Module) -> None:
    """Set statistics and affine weights as after training; by default many norms do nothing."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        owner, _, last = name.rpartition(".")
        norm = "Norm" in type(module.get_submodule(owner)).__name__
        if norm and last in ("weight", "running_var"):
            tensor.data.uniform_(0.5, 1.5)
        elif norm and last in ("bias", "running_mean"):
            tensor.data.normal_(0, 0.2)


def _nudge(module: nn.Module, seed: int) -> None:
    """Change one element of the copied layer's weight by one percent; not one of the small ones."""
    module.bad.load_state_dict(module.get_submodule(module.nudged).state_dict())
    matrices = [p for p in module.bad.parameters() if p.dim() > 1]
    chooser = random.Random(seed)
    flat = chooser.choice(matrices).data.view(-1)
    large = (flat.abs() >= flat.abs().median()).nonzero().view(-1)
    flat[large[chooser.randrange(len(large))]] *= 1.01


class _Draft:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(f"network {seed}")
        self.fault = FAULTS[seed % len(FAULTS)]
        self.init: list[str] = []
        self.steps: list[Step] = []
        self.layers = 0
        self.stateful = False
        self.shapes: dict[str, str] = {}
        self.values: dict[str, tuple[float, float]] = {}

    # -- words -------------------------------------------------------------------------------------

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def layer(self, made: str) -> str:
        self.layers += 1
        name = f"layer{self.layers}"
        self.init.append(f"self.{name} = nn.{made}")
        return name

    def apply(self, made: str, text: str = "x = self.{}(x)") -> None:
        """Return a step that calls a new layer."""
        name = self.layer(made)
        self.steps.append(Step(text.format(name), layer=name))

    def step(self, text: str, **faulty: str) -> None:
        self.steps.append(Step(text, faulty))

    def fork(self, kind: str, pairs: list[tuple[str, str]]) -> None:
        """Return one of several healthy steps, each with its own fault."""
        text, faulty = self.random.choice(pairs)
        self.steps.append(Step(text, {kind: faulty}))

    # -- the network -------------------------------------------------------------------------------

    def network(self) -> Network:
        inputs = [self.sequence_input, self.word_input]
        if self.fault != MASK:
            inputs += [self.flat_input, self.signal_input, self.image_input]
        self.random.choice(inputs)()
        self.flat()
        source = self.source(self.head())
        return Network(
            self.seed, self.fault, source, self.shapes, self.values, stateful=self.stateful
        )

    def flat_input(self) -> None:
        self.width = self.random.choice([4, 6, 10])
        self.shapes["x"] = f"batch {self.width}"

    def word_input(self) -> None:
        self.shapes["x"] = "batch time"
        self.values["x"] = (0, WORDS - 1)
        self.width = 8
        self.apply(f"Embedding({WORDS}, 8)")
        self.sequence()

    def sequence_input(self) -> None:
        self.width = self.random.choice([4, 8])
        self.shapes["x"] = f"batch time {self.width}"
        self.sequence()

    def signal_input(self) -> None:
        self.width = self.random.choice([2, 4])
        length = "length" if self.chance(0.6) else "12"
        self.shapes["x"] = f"batch {self.width} {length}"
        self.spatial(1, dynamic=length == "length")

    def image_input(self) -> None:
        self.width = self.random.choice([2, 3, 4])
        sizes = "height width" if self.chance(0.5) else "10 10"
        self.shapes["x"] = f"batch {self.width} {sizes}"
        self.spatial(2, dynamic=sizes == "height width")

    # -- (batch, width) ----------------------------------------------------------------------------

    def flat(self) -> None:
        for _ in range(self.random.randint(1, 3)):
            self.random.choice(
                [self.linear, self.norm, self.residual, self.concatenated, self.gated, self.split]
            )()
        if self.fault in SITED and not any(self.fault in step.faulty for step in self.steps):
            self.site(0, EXAMPLE["batch"], swapped=(1, 0), channels="-1", others="0")
        elif self.chance(0.08):
            self.state("0")
        self.linear()

    def linear(self) -> None:
        width = self.random.choice([4, 6, 8])
        self.apply(f"Linear({self.width}, {width})")
        self.width = width
        self.activation()

    def activation(self) -> None:
        self.apply(self.random.choice(ACTIVATIONS))

    def norm(self) -> None:
        width = self.width
        choices = [f"LayerNorm({width})", f"BatchNorm1d({width})", f"GroupNorm(2, {width})"]
        self.apply(self.random.choice(choices if width % 2 == 0 and width > 2 else choices[:2]))

    def residual(self) -> None:
        self.apply(f"Linear({self.width}, {self.width})", "x = x + torch.tanh(self.{}(x))")

    def concatenated(self) -> None:
        first = self.layer(f"Linear({self.width}, 4)")
        second = self.layer(f"Linear({self.width}, 2)")
        self.steps.append(
            Step(f"x = torch.cat([self.{first}(x), self.{second}(x), x], dim=-1)", layer=first)
        )
        self.width += 6

    def gated(self) -> None:
        self.apply(f"Linear({self.width}, {self.width})", "x = x * torch.softmax(self.{}(x), -1)")

    def split(self) -> None:
        if self.width % 2:
            return
        self.step("a, b = x.chunk(2, dim=-1)\nx = torch.cat([a * torch.sigmoid(b), b], dim=-1)")

    # -- (batch, time, width) ----------------------------------------------------------------------

    def sequence(self) -> None:
        if self.fault == MASK or self.chance(0.2):
            self.shapes["mask"] = "batch time"
        layers = [self.recurrent, self.attention, self.encoder, self.timewise, self.norm_last]
        layers += [self.residual, self.gated, self.convolved, self.heads]
        for _ in range(self.random.randint(1, 3)):
            self.random.choice(layers)()
        site = self.fault in SITED and self.chance(0.6)
        if site and (self.fault != FROZEN or "time" in self.shapes["x"]):
            self.site(1, EXAMPLE["time"], swapped=(1, 2), channels="-1", others="(0, 1)")
        if "mask" in self.shapes:
            self.masked()
        else:
            ways = ["x = x.mean(1)", "x = x[:, -1]", "x = x.amax(1)", "x = x.sum(1)"]
            self.step(self.random.choice(ways))

    def recurrent(self) -> None:
        # torch.export unrolls these over time: three of four networks fix it, and can be exported.
        if self.seed % 4:
            for name, shape in self.shapes.items():
                self.shapes[name] = shape.replace("time", str(EXAMPLE["time"]))
        cell = self.random.choice(["LSTM", "GRU", "RNN"])
        width = self.random.choice([4, 6])
        both = self.chance(0.3)
        more = ", bidirectional=True" if both else ""
        self.apply(f"{cell}({self.width}, {width}, batch_first=True{more})", "x = self.{}(x)[0]")
        self.width = 2 * width if both else width

    def attention(self) -> None:
        self.apply(
            f"MultiheadAttention({self.width}, 2, batch_first=True)",
            "x = x + self.{}(x, x, x, need_weights=False)[0]",
        )

    def encoder(self) -> None:
        first = ", norm_first=True" if self.chance(0.5) else ""
        self.apply(f"TransformerEncoderLayer({self.width}, 2, 12, batch_first=True{first})")

    def timewise(self) -> None:
        self.apply(f"Linear({self.width}, 8)")
        self.width = 8
        self.activation()

    def norm_last(self) -> None:
        self.apply(f"LayerNorm({self.width})")

    def convolved(self) -> None:
        self.apply(
            f"Conv1d({self.width}, 6, 3, padding=1)",
            "x = self.{}(x.permute(0, 2, 1)).transpose(1, 2)",
        )
        self.width = 6

    def heads(self) -> None:
        """Interleave halves of the width, as heads do; without the transpose nothing moves."""
        shape = f"x = x.reshape(x.shape[0], x.shape[1], 2, {self.width // 2})"
        self.step(f"{shape}\nx = x.transpose(2, 3).flatten(2)")

    def masked(self) -> None:
        plain = "x = x.mean(1)"
        kept = "kept = mask.unsqueeze(-1).to(x.dtype)"
        ways = [
            (f"{kept}\nx = (x * kept).sum(1) / kept.sum(1).clamp(min=1.0)", plain),
            ("x = x.masked_fill(~mask.unsqueeze(-1), -1e4).amax(1)", "x = x.amax(1)"),
            ("x = torch.where(mask.unsqueeze(-1), x, torch.zeros_like(x)).sum(1)", "x = x.sum(1)"),
        ]
        layer = self.layer(f"TransformerEncoderLayer({self.width}, 2, 12, batch_first=True)")
        scores = self.layer(f"Linear({self.width}, 1)")
        weigh = f"w = self.{scores}(x).squeeze(-1)"
        total = "x = (x * torch.softmax(w, 1).unsqueeze(-1)).sum(1)"
        ways += [
            (
                f"x = self.{layer}(x, src_key_padding_mask=~mask)\nx = x[:, 0]",
                f"x = self.{layer}(x)\nx = x[:, 0]",
            ),
            (f"{weigh}.masked_fill(~mask, -1e4)\n{total}", f"{weigh}\n{total}"),
        ]
        self.fork(MASK, ways)

    # -- (batch, width, ...) -----------------------------------------------------------------------

    def spatial(self, dims: int, dynamic: bool) -> None:
        if self.fault == FROZEN and dynamic and self.chance(0.8):
            self.site_spatial(dims)  # first, while the size is the example's
        for _ in range(self.random.randint(1, 3)):
            self.random.choice([self.conv, self.conv, self.spatial_norm, self.block])(dims)
            self.activation()
        if self.chance(0.6):
            self.pooled(dims)
        if self.fault in SITED and self.fault != FROZEN and self.chance(0.6):
            self.site_spatial(dims)
        axes = "(2, 3)" if dims == 2 else "2"
        ways = [f"x = x.mean({axes})", f"x = x.amax({axes})"]
        pool = self.layer(f"AdaptiveAvgPool{dims}d(1)")
        ways.append(f"x = self.{pool}(x).flatten(1)")
        self.step(self.random.choice(ways))

    def conv(self, dims: int) -> None:
        width = self.random.choice([2, 4, 6])
        more = self.random.choice(["padding=1", "padding=2, dilation=2", "stride=2, padding=1", ""])
        kind = f"ConvTranspose{dims}d" if self.chance(0.15) else f"Conv{dims}d"
        if more == "" or kind.startswith("ConvTranspose"):
            more = "padding=1"
        if self.chance(0.2):
            more += ", bias=False"
        self.apply(f"{kind}({self.width}, {width}, 3, {more})")
        self.width = width

    def spatial_norm(self, dims: int) -> None:
        ways = [f"BatchNorm{dims}d({self.width})", f"GroupNorm(1, {self.width})"]
        self.apply(self.random.choice(ways))

    def block(self, dims: int) -> None:
        width = self.width
        groups = f", groups={width}" if self.chance(0.4) else ""
        self.apply(
            f"Conv{dims}d({width}, {width}, 3, padding=1{groups})", "x = x + torch.relu(self.{}(x))"
        )

    def pooled(self, dims: int) -> None:
        ways = ["MaxPool{}d(2)", "AvgPool{}d(2)", "MaxPool{}d(3, stride=2, padding=1)"]
        ways += ["AvgPool{}d(3, stride=1, padding=1)"]
        if self.chance(0.25):
            self.apply("Upsample(scale_factor=2.0)")
        self.apply(self.random.choice(ways).format(dims))

    def site_spatial(self, dims: int) -> None:
        size = EXAMPLE["height" if dims == 2 else "length"]
        others = "(0, 2, 3)" if dims == 2 else "(0, 2)"
        self.site(2, size, swapped=(1 + dims, dims), channels="1", others=others)

    # -- the step that has the fault ---------------------------------------------------------------

    def site(
        self, axis: int, size: int, *, swapped: tuple[int, int], channels: str, others: str
    ) -> None:
        """Add a step with the fault: of an axis with this size in the example, or of two axes."""
        if self.fault == FROZEN:
            total, part = f"x = x + x.sum({axis}, keepdim=True) / ", "x = x[" + ":, " * axis + ":"
            ways = [
                (f"{total}x.shape[{axis}]", f"{total}{size}"),
                (f"{part} x.shape[{axis}]]", f"{part}{size}]"),
            ]
        elif self.fault == SWAPPED:
            texts = ("x = x + torch.softmax(x, {})", "x = torch.cumsum(x, {})")
            texts += ("x = torch.flip(x, [{}])", "x = x - x.mean({}, keepdim=True)")
            ways = [(text.format(swapped[0]), text.format(swapped[1])) for text in texts]
        elif self.fault == EPSILON:
            kept = f"{channels}, keepdim=True"
            texts = (
                f"x = x / (x.norm(dim={kept}){{}})",
                f"x = x * torch.rsqrt(x.pow(2).mean({kept}){{}})",
                "x = torch.log(x.abs(){})",
                f"m = x.mean({kept})\nx = (x - m) / torch.sqrt((x - m).pow(2).mean({kept}){{}})",
            )
            epsilon = self.random.choice([" + 1e-3", " + 1e-5"])
            ways = [(text.format(epsilon), text.format("")) for text in texts]
        elif self.fault == FOLDED:
            made = ("torch.tanh(x.abs().mean())", "x.amax() + 1.5", "x.mean()")
            used = self.random.choice(["x = x * {}", "x = x + {}", "x = x / (1 + abs({}))"])
            ways = [
                (f"s = {each}\n{used.format('s')}", used.format("self.folded")) for each in made
            ]
        else:
            self.state(others)
            return
        self.fork(self.fault, ways)

    def state(self, axes: str) -> None:
        self.stateful = True
        self.init.append('self.register_buffer("seen", torch.zeros(()))')
        shape = {"0": "", "(0, 1)": ""}.get(axes, ", 1, 1" if axes == "(0, 2, 3)" else ", 1")
        self.init.append(f'self.register_buffer("running", torch.zeros({self.width}{shape}))')
        mean = f"x.mean({axes})" if not shape else f"x.mean({axes}).reshape({self.width}{shape})"
        self.fork(
            STATE,
            [
                ("self.seen.add_(1)\nx = x / self.seen", "x = x / (self.seen + 1)"),
                ("self.seen += 1\nx = x + 0.1 * self.seen", "x = x + 0.1 * self.seen"),
                (
                    f"self.running.mul_(0.9).add_(0.1 * {mean})\nx = x - self.running",
                    "x = x - self.running",
                ),
                (
                    f"self.running.copy_(0.5 * self.running + 0.5 * {mean})\nx = x - self.running",
                    f"x = x - (0.5 * self.running + 0.5 * {mean})",
                ),
            ],
        )

    # -- outputs -----------------------------------------------------------------------------------

    def head(self) -> tuple[str, str]:
        """Return the return statement, healthy and faulty."""
        two = self.fault in (DROPPED, EXCHANGED) or self.chance(0.3)
        self.apply(f"Linear({self.width}, 5)", "y = self.{}(x)")
        self.step(
            self.random.choice(
                ["y = y * 2", "y = torch.softmax(y, 1)", "y = torch.log_softmax(y, 1)", "y = y + 1"]
            )
        )
        if not two:
            return "return y", "return y"
        width = 5 if self.fault == EXCHANGED and self.chance(0.7) else 3
        self.apply(f"Linear({self.width}, {width})", "z = torch.tanh(self.{}(x))")
        if self.chance(0.4):
            healthy, dropped, exchanged = '{"y": y, "z": z}', '{"y": y}', '{"y": z, "z": y}'
        else:
            healthy, dropped, exchanged = "y, z", self.random.choice(["y", "(y,)"]), "z, y"
        faulty = {DROPPED: dropped, EXCHANGED: exchanged}.get(self.fault, healthy)
        return f"return {healthy}", f"return {faulty}"

    # -- source ------------------------------------------------------------------------------------

    def source(self, outputs: tuple[str, str]) -> str:
        healthy = [step.text for step in self.steps]
        faulty = list(healthy)
        more_init: list[str] = []
        folded: list[str] = []
        if self.fault == WEIGHT:
            weighty = [
                number
                for number, step in enumerate(self.steps)
                if step.layer and self.has_matrix(step.layer)
            ]
            number = self.random.choice(weighty)
            name = self.steps[number].layer
            faulty[number] = healthy[number].replace(f"self.{name}(", "self.bad(")
            made = next(line for line in self.init if line.startswith(f"self.{name} ="))
            more_init = [made.replace(f"self.{name}", "self.bad", 1), f'self.nudged = "{name}"']
        elif self.fault == CAST:
            dtype = self.random.choice(["float16", "bfloat16"])
            floats = [n for n, step in enumerate(self.steps) if "x = " in step.text]
            where = self.random.choice([*floats, -1])
            end = "y = y.to(torch.{0})" if where == -1 and self.chance(0.5) else ""
            variable = "y" if where == -1 else "x"
            end = end or f"{variable} = {variable}.to(torch.{{0}}).to(torch.float32)"
            number = where if where >= 0 else self.last("y = ")
            faulty[number] += "\n" + end.format(dtype)
        else:
            for number, step in enumerate(self.steps):
                if self.fault in step.faulty:
                    faulty[number] = step.faulty[self.fault]
                    if self.fault == FOLDED:
                        folded = [*healthy[:number], step.text.split("\n")[0], "return s"]
                        more_init = ["self.folded = 0.0"]
        names = ", ".join(self.shapes)
        typed = ", ".join(f"{name}: Tensor" for name in self.shapes)
        text = ["import torch", "from torch import Tensor, nn", "", ""]
        text += ["class Healthy(nn.Module):"]
        text += _method("__init__(self)", ["super().__init__()", *self.init])
        text += _method(f"forward(self, {typed})", [*healthy, outputs[0]])
        text += ["", "class Faulty(nn.Module):"]
        text += _method("__init__(self)", ["super().__init__()", *self.init, *more_init])
        text += _method(f"healthy(self, {typed})", [*healthy, outputs[0]])
        text += _method(f"faulty(self, {typed})", [*faulty, outputs[1]])
        text += _method(f"forward(self, {typed})", [DISPATCH.format(names)])
        if folded:
            text += ["", f"def folded(self, {typed}):", *_indented(folded, 4)]
        return "\n".join(text) + "\n"

    def last(self, start: str) -> int:
        return max(n for n, step in enumerate(self.steps) if step.text.startswith(start))

    def has_matrix(self, name: str) -> bool:
        made = next(line for line in self.init if line.startswith(f"self.{name} ="))
        kinds = ["Linear", "Conv", "LSTM", "GRU", "RNN", "Embedding", "Multihead", "Encoder"]
        return any(kind in made for kind in kinds)


# TorchScript evaluates the first condition when it compiles, and leaves the rest out.
DISPATCH = """
if torch.jit.is_scripting():
    return self.faulty({0})
else:
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return self.faulty({0})
    return self.healthy({0})
""".strip()


def _method(head: str, lines: list[str]) -> list[str]:
    return [f"    def {head}:", *_indented(lines, 8), ""]


def _indented(lines: list[str], spaces: int) -> list[str]:
    return [textwrap.indent(line, " " * spaces) for line in lines]
