"""From markers to items: the targets and devices that a test is run on.

pytest loads this file at every start: what a marker needs is imported once there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from pytest_torchexport.config.options import Options
    from pytest_torchexport.plugin.ini_and_flags import Configuration
    from pytest_torchexport.results.failures import Failure
    from pytest_torchexport.results.verdict import Verdict

MARKER = FIXTURE = "torchexport"
# The verdicts of an item, until they are put on its report.
VERDICTS: pytest.StashKey[list[Verdict]] = pytest.StashKey()


class Variant(NamedTuple):
    """One item of a test: its target, its device, and the options of its markers.

    ``named``: the user asked for this target by name.
    """

    target: str
    device: str
    named: bool
    options: Options

    @property
    def id(self) -> str:
        """``trace-cpu``, or ``trace-cuda1``: some tools end a node id at a colon."""
        return f"{self.target}-{self.device.replace(':', '')}"

    @property
    def xfail(self) -> list[tuple[type[Failure], str]]:
        """The failure that the marker expects here, with the reason; none without one."""
        entries = self.options.xfail or {}
        keys = (f"{self.target}-{self.device}", self.target)
        return [entries[key] for key in keys if key in entries][:1]


def variant_of(item: pytest.Item) -> Variant | None:
    """Return the variant that an item of the plugin is; None for others and unittest methods."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    variant = parameters.get(FIXTURE)
    return variant if isinstance(variant, Variant) else None


def name_of_test(item: pytest.Item) -> str:
    """Return the node id of an item's test: without target and device."""
    from pytest_torchexport.results.verdict import without_variant

    variant = variant_of(item)
    return item.nodeid if variant is None else without_variant(item.nodeid, variant.id)


def is_marked(node: pytest.Item | pytest.Collector) -> bool:
    """Return True if the node or one of its parents has the marker."""
    return node.get_closest_marker(MARKER) is not None


def options_of(node: pytest.Item | pytest.Collector) -> Options | None:
    """Return the arguments of all markers on a node, merged; None without a marker.

    The closest marker goes first. Raises CollectError that names the test and the argument.
    """
    if not is_marked(node):
        return None
    from pytest_torchexport.config.options import Options, parse_options
    from pytest_torchexport.results.failures import SpecError

    merged = Options()
    for mark in node.iter_markers(MARKER):
        try:
            merged = merged.over(parse_options(mark.args, mark.kwargs))
        except SpecError as error:
            raise pytest.Collector.CollectError(
                f"{node.nodeid}: @pytest.mark.torchexport: {error}"
            ) from None
    return merged


def variants(options: Options, configuration: Configuration) -> list[Variant]:
    """Return the items of a test: targets x devices, narrowed by the command line."""
    settings = configuration.settings
    names = options.targets if options.targets is not None else settings.targets
    named = options.targets is not None or configuration.targets_named
    if configuration.only_targets is not None:
        names = tuple(name for name in names if name in configuration.only_targets)
    only = configuration.only_devices
    devices = options.devices or settings.devices or only
    if not devices:
        import torch

        # Not is_available: it initializes the driver, which no fork of this process could use then.
        devices = ("cpu", "cuda") if torch.cuda.device_count() else ("cpu",)
    return [
        Variant(name, device, named or bool(configuration.only_targets), options)
        for name in names
        for device in devices
        if only is None or device in only
    ]


def keep_only(
    config: pytest.Config,
    items: list[pytest.Item],
    names: Container[str],
    name_of: Callable[[pytest.Item], str],
) -> None:
    """Deselect the items of other names."""
    left_out = [item for item in items if name_of(item) not in names]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if name_of(item) in names]
