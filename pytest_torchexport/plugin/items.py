"""From markers to items: which targets and devices a test is run on, and the plan of each item.

Free of torch until a test that uses the plugin is collected: a suite without the marker does not notice.
"""

from __future__ import annotations

import os
import random
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_torchexport.config.options import Options, of_a_check, parse_options
from pytest_torchexport.config.plan import Corpus, Plan
from pytest_torchexport.plugin.ini_and_flags import Given
from pytest_torchexport.results.failures import SpecError

MARKER = FIXTURE = "torchexport"
# Below pytest's rootdir.
KEPT = ".torchexport"
# File systems take names of up to 255 bytes.
MAX_NAME = 120


@dataclass(frozen=True)
class Variant:
    """One item of a test: its target, its device, and the options its markers amount to."""

    target: str
    device: str
    named: bool
    options: Options

    @property
    def id(self) -> str:
        """``trace-cpu``; a colon in ``cuda:1`` would end pytest's node ids early in some tools."""
        return f"{self.target}-{self.device.replace(':', '')}"


def options_of(node: pytest.Item | pytest.Collector, name: str) -> Options | None:
    """The merged arguments of all markers on a node, the closest first; None without a marker.

    Raises CollectError with a message that names the test, the argument and what is legal.
    """
    merged: Options | None = None
    for mark in node.iter_markers(MARKER):
        try:
            outer = parse_options(mark.args, mark.kwargs)
        except SpecError as error:
            raise pytest.Collector.CollectError(
                f"{name}: @pytest.mark.torchexport: {error}"
            ) from None
        merged = outer if merged is None else merged.over(outer)
    return merged


def variants(options: Options, given: Given) -> list[Variant]:
    """Return the items of a test: targets x devices, narrowed by the command line."""
    settings = given.settings
    names = options.targets if options.targets is not None else settings.targets
    named = options.targets is not None or given.targets_named
    if given.only_targets is not None:
        names = tuple(name for name in names if name in given.only_targets)
    devices = options.devices or settings.devices or given.only_devices or default_devices()
    if given.only_devices is not None:
        devices = tuple(device for device in devices if device in given.only_devices)
    return [
        Variant(name, device, named or bool(given.only_targets), options)
        for name in names
        for device in devices
    ]


def default_devices() -> tuple[str, ...]:
    """cpu, and cuda where torch has one. Imports torch: only a test that uses the plugin comes here."""
    import torch

    return ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


def parameters(found: Sequence[Variant]) -> list[Any]:
    """Parameters for ``metafunc.parametrize``, with the strict xfails of the marker's ``xfail``."""
    return [pytest.param(variant, id=variant.id, marks=_xfails(variant)) for variant in found]


def _xfails(variant: Variant) -> list[pytest.MarkDecorator]:
    expected = variant.options.xfail or {}
    keys = (f"{variant.target}-{variant.device}", variant.target)
    entry = next((expected[key] for key in keys if key in expected), None)
    if entry is None:
        return []
    cls, reason = entry
    return [
        pytest.mark.xfail(strict=True, raises=cls, reason=reason or f"{cls.__name__} is expected")
    ]


def plan_for(
    variant: Variant,
    given: Given,
    config: pytest.Config,
    nodeid: str,
    corpus: Corpus,
    progress: Callable[..., None],
    why_isolated: str = "",
) -> Plan:
    """Everything the engine needs to know about one item."""
    return Plan(
        target=variant.target,
        device=variant.device,
        options=of_a_check(variant.options),
        settings=given.settings,
        named=variant.named,
        seed=seed_of(config, nodeid),
        max_examples=given.exact_max_examples,
        why_isolated="torchexport_isolate" if given.settings.isolate else why_isolated,
        corpus=corpus,
        progress=progress,
        root=config.rootpath,
        keep=_kept_for(config.rootpath, nodeid, variant),
    )


def kept_in(root: Path, nodeid: str) -> Path:
    """Where the files of a test's artifacts go after a failure of theirs."""
    name = re.sub(r"[^\w.-]+", "-", nodeid).strip("-")
    short = name.encode()[:MAX_NAME].decode(errors="ignore")
    # Names that differ in other signs alone, or in their ends, are told apart by their checksums.
    plain = re.fullmatch(r"[\w./-]*(::\w+)*(\[[\w-]*\])?", nodeid)
    checksum = "" if plain and short == name else f"-{zlib.crc32(nodeid.encode()):08x}"
    return root / KEPT / f"{short}{checksum}"


def _kept_for(root: Path, nodeid: str, variant: Variant) -> Path:
    directory = kept_in(root, nodeid)
    # A unittest method is one item for all targets.
    return directory if variant.id in nodeid else directory / variant.id


def seed_of(config: pytest.Config, nodeid: str) -> int:
    """``--hypothesis-seed`` if it is a number; in CI the node id's checksum; else random."""
    given = config.getoption("--hypothesis-seed", default=None, skip=False)
    if given is not None and str(given).lstrip("-").isdigit():
        return abs(int(given)) % 2**31
    if os.environ.get("CI") and str(given) != "random":
        return zlib.crc32(nodeid.encode())
    return random.SystemRandom().randrange(2**31)


class CacheCorpus:
    """Calls in pytest's cache, so that the next run replays them first."""

    def __init__(self, cache: pytest.Cache | None, nodeid: str) -> None:
        self._cache = cache
        self._name = f"{zlib.crc32(nodeid.encode()):08x}"

    def load(self, key: str, *, shared: bool = False) -> Sequence[dict[str, Any]]:
        """Recipes stored under the key; nothing where the cache cannot be read."""
        if self._cache is None:
            return ()
        found = self._cache.get(self._path(key, shared), [])
        return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else ()

    def store(self, key: str, recipes: Sequence[dict[str, Any]], *, shared: bool = False) -> None:
        """Replace what is stored; an empty list is not written where nothing was."""
        if self._cache is None or (not recipes and not self.load(key, shared=shared)):
            return
        self._cache.set(self._path(key, shared), list(recipes))

    def _path(self, key: str, shared: bool) -> str:
        return f"torchexport/{'branches' if shared else self._name}-{key}"
