"""Draw random networks of torch.nn layers from a seed, as source, each with one known fault.

They are source, because TorchScript compiles source, and so that a person can read a network that
was judged wrongly: `python benchmarks/faults.py --show 17`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import re
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
WITH_MATRIX = ("Linear", "Conv", "LSTM", "GRU", "RNN", "Embedding", "Multihead", "Encoder")
# Layers of a width, how they are called, and the width after them, if it is another one.
Layer = tuple[str, str, int]
CALL = "x = self.{}(x)"
OF_ANY: list[Layer] = [
    ("LayerNorm({w})", CALL, 0),
    ("Linear({w}, {w})", "x = x + torch.tanh(self.{}(x))", 0),
    ("Linear({w}, {w})", "x = x * torch.softmax(self.{}(x), -1)", 0),
    ("Linear({w}, 8)", CALL, 8),
]
OF_ROWS: list[Layer] = [
    *OF_ANY,
    ("BatchNorm1d({w})", CALL, 0),
    ("GroupNorm(1, {w})", CALL, 0),
    ("Linear({w}, 4)", CALL, 4),
    ("Linear({w}, {w})", "x = torch.minimum(x.flip(-1), self.{}(x))", 0),
]
OF_SEQUENCES: list[Layer] = [
    *OF_ANY,
    ("MultiheadAttention({w}, 2, batch_first=True)", "x = x + self.{}(x, x, x)[0]", 0),
    ("TransformerEncoderLayer({w}, 2, 12, batch_first=True)", CALL, 0),
    ("TransformerEncoderLayer({w}, 2, 12, batch_first=True, norm_first=True)", CALL, 0),
    ("Conv1d({w}, 6, 3, padding=1)", "x = self.{}(x.permute(0, 2, 1)).transpose(1, 2)", 6),
    ("LSTM({w}, 6, batch_first=True)", "x = self.{}(x)[0]", 6),
    ("GRU({w}, 4, batch_first=True, bidirectional=True)", "x = self.{}(x)[0]", 8),
    ("RNN({w}, 4, batch_first=True)", "x = self.{}(x)[0]", 4),
]
OF_IMAGES: list[Layer] = [
    ("Conv{d}d({w}, 4, 3, padding=1)", CALL, 4),
    ("Conv{d}d({w}, 6, 3, padding=2, dilation=2)", CALL, 6),
    ("Conv{d}d({w}, 4, 3, stride=2, padding=1, bias=False)", CALL, 4),
    ("ConvTranspose{d}d({w}, 2, 3, padding=1)", CALL, 2),
    ("Conv{d}d({w}, {w}, 3, padding=1)", "x = x + torch.relu(self.{}(x))", 0),
    ("Conv{d}d({w}, {w}, 3, padding=1, groups={w})", "x = x + torch.relu(self.{}(x))", 0),
    ("BatchNorm{d}d({w})", CALL, 0),
    ("GroupNorm(1, {w})", CALL, 0),
]
POOLS: list[Layer] = [
    ("MaxPool{d}d(2)", CALL, 0),
    ("AvgPool{d}d(3, stride=1, padding=1)", CALL, 0),
    ("MaxPool{d}d(3, stride=2, padding=1)", CALL, 0),
    ("Upsample(scale_factor=2.0)", CALL, 0),
]


@dataclasses.dataclass
class Step:
    """Lines of forward, and the lines that replace them in the faulty network."""

    text: str
    faulty: dict[str, str] = dataclasses.field(default_factory=dict)
    layer: str = ""  # the layer whose weight the fault may change


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


class Network:
    """A healthy network, the same one with a fault, and the legal calls of both."""

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
        inputs = [self.sequence_input, self.word_input]
        if self.fault != MASK:
            inputs += [self.flat_input, self.signal_input, self.image_input]
        self.random.choice(inputs)()
        self.flat()
        self.source = self.written(self.head())

    def options(self) -> dict[str, Any]:
        said = {word for text in self.shapes.values() for word in text.split() if word in RANGES}
        options = {"shapes": self.shapes, "dims": {name: RANGES[name] for name in sorted(said)}}
        return options | ({"values": self.values} if self.values else {})

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

    def add(self, layers: list[Layer], dims: int = 0) -> None:
        """Add one of these layers, perhaps with an activation after it."""
        made, text, width = self.random.choice(layers)
        self.apply(made.format(w=self.width, d=dims), text)
        self.width = width or self.width
        if self.chance(0.5):
            self.apply(self.random.choice(ACTIVATIONS))

    def flat(self) -> None:
        """Add layers of (batch, width)."""
        for _ in range(self.random.randint(1, 3)):
            self.add(OF_ROWS)
        if self.fault in SITED and not any(self.fault in step.faulty for step in self.steps):
            self.site(0, EXAMPLE["batch"], swapped=(1, 0), channels="-1", others="0")
        elif self.chance(0.08):
            self.state("0")
        self.apply(f"Linear({self.width}, 6)")
        self.width = 6

    def sequence(self) -> None:
        """Add layers of (batch, time, width)."""
        if self.fault == MASK or self.chance(0.2):
            self.shapes["mask"] = "batch time"
        for _ in range(self.random.randint(1, 3)):
            self.add(OF_SEQUENCES)
        # torch.export unrolls these over time: three of four networks fix it, and can be exported.
        if self.seed % 4 and re.search(r"nn\.(LSTM|GRU|RNN)\(", " ".join(self.init)):
            for name, shape in self.shapes.items():
                self.shapes[name] = shape.replace("time", str(EXAMPLE["time"]))
        site = self.fault in SITED and self.chance(0.6)
        if site and (self.fault != FROZEN or "time" in self.shapes["x"]):
            self.site(1, EXAMPLE["time"], swapped=(1, 2), channels="-1", others="(0, 1)")
        if "mask" in self.shapes:
            self.masked()
        else:
            ways = ["x = x.mean(1)", "x = x[:, -1]", "x = x.amax(1)", "x = x.sum(1)"]
            self.step(self.random.choice(ways))

    def masked(self) -> None:
        layer = self.layer(f"TransformerEncoderLayer({self.width}, 2, 12, batch_first=True)")
        kept = "kept = mask.unsqueeze(-1).to(x.dtype)"
        ways = [
            (f"{kept}\nx = (x * kept).sum(1) / kept.sum(1).clamp(min=1.0)", "x = x.mean(1)"),
            ("x = x.masked_fill(~mask.unsqueeze(-1), -1e4).amax(1)", "x = x.amax(1)"),
            (
                f"x = self.{layer}(x, src_key_padding_mask=~mask)\nx = x[:, 0]",
                f"x = self.{layer}(x)\nx = x[:, 0]",
            ),
        ]
        self.fork(MASK, ways)

    def spatial(self, dims: int, dynamic: bool) -> None:
        """Add layers of (batch, width, ...)."""
        if self.fault == FROZEN and dynamic and self.chance(0.8):
            self.site_spatial(dims)  # first, while the size is the example's
        for _ in range(self.random.randint(1, 3)):
            self.add(OF_IMAGES, dims)
        if self.chance(0.6):
            self.add(POOLS, dims)
        if self.fault in SITED and self.fault != FROZEN and self.chance(0.6):
            self.site_spatial(dims)
        axes = "(2, 3)" if dims == 2 else "2"
        pool = self.layer(f"AdaptiveAvgPool{dims}d(1)")
        ways = [f"x = x.mean({axes})", f"x = x.amax({axes})", f"x = self.{pool}(x).flatten(1)"]
        self.step(self.random.choice(ways))

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
        mean = f"0.1 * x.mean({axes})" + (f".reshape({self.width}{shape})" if shape else "")
        subtracted = "x = x - self.running"
        ways = [
            ("self.seen.add_(1)\nx = x / self.seen", "x = x / (self.seen + 1)"),
            ("self.seen += 1\nx = x + 0.1 * self.seen", "x = x + 0.1 * self.seen"),
            (f"self.running.mul_(0.9).add_({mean})\n{subtracted}", subtracted),
            (f"self.running.copy_(self.running + {mean})\n{subtracted}", f"{subtracted} - {mean}"),
        ]
        self.fork(STATE, ways)

    # -- outputs -----------------------------------------------------------------------------------

    def head(self) -> tuple[str, str]:
        """Return the return statement, healthy and faulty."""
        two = self.fault in (DROPPED, EXCHANGED) or self.chance(0.3)
        self.apply(f"Linear({self.width}, 5)", "y = self.{}(x)")
        self.step(self.random.choice(["y = y * 2", "y = torch.softmax(y, 1)", "y = y + 1"]))
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

    def written(self, outputs: tuple[str, str]) -> str:
        healthy = [step.text for step in self.steps]
        faulty = list(healthy)
        more_init: list[str] = []
        folded: list[str] = []
        if self.fault == WEIGHT:
            made_of = {step.layer: self.made(step.layer) for step in self.steps if step.layer}
            weighty = [
                number
                for number, step in enumerate(self.steps)
                if any(kind in made_of.get(step.layer, "") for kind in WITH_MATRIX)
            ]
            number = self.random.choice(weighty)
            name = self.steps[number].layer
            faulty[number] = healthy[number].replace(f"self.{name}(", "self.bad(")
            made = made_of[name]
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

    def made(self, name: str) -> str:
        return next(line for line in self.init if line.startswith(f"self.{name} ="))


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
