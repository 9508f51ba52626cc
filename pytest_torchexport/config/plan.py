"""The plan of one item: all that the engine gets from pytest, or from a caller without pytest."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytest_torchexport.config.loop import Loop
from pytest_torchexport.config.options import Options
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.results.failures import Failure, SpecError
from pytest_torchexport.results.verdict import Verdict


class Corpus:
    """Calls of earlier runs: those that it is given. It keeps no others; a subclass may.

    Failing calls belong to an item. Calls that a search found (``shared``) belong to all items of
    one source and spec.
    """

    def __init__(self, recipes: Sequence[dict[str, Any]] = ()) -> None:
        self._recipes = recipes

    def load(self, key: str, *, shared: bool = False) -> Sequence[dict[str, Any]]:
        return () if shared else self._recipes

    def store(self, key: str, recipes: Sequence[dict[str, Any]], *, shared: bool = False) -> None:
        """Replace what is stored under the key."""


def silent(stage: str, done: int = 0, total: int = 0) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One test x target x device.

    ``named`` and ``device_named``: the user asked for this target, and for this device, by name.
    ``why_isolated``: why the artifact is called in a process of its own; empty if it is not.
    ``max_examples``: the number of drawn calls, before that of options and settings; None: theirs.
    ``diagnoses``: look for causes. ``root``: the directory of the user's own packages. ``keep``:
    the directory for the files of a failure. ``nodeid``: the item's; empty without pytest.
    ``expects``: failures that need no explanation, because the user expects them. ``workers``: the
    processes that run items at the same time. ``plugins``: the names of the modules that pytest has
    loaded as plugins, beside every ``conftest.py``. ``loop``: the subject is a step of this loop,
    which is checked instead of drawn calls.
    """

    target: str
    device: str
    options: Options = field(default_factory=Options)
    settings: Settings = field(default_factory=Settings)
    named: bool = True
    device_named: bool = True
    seed: int = 0
    max_examples: int | None = None
    diagnoses: bool = True
    why_isolated: str = ""
    corpus: Corpus = field(default_factory=Corpus)
    progress: Callable[..., None] = silent
    root: Path | None = None
    keep: Path | None = None
    nodeid: str = ""
    expects: tuple[type[Failure], ...] = ()
    workers: int = 1
    plugins: tuple[str, ...] = ()
    loop: Loop | None = None

    def checks(self, name: str) -> bool:
        """Return True if a check is asked for; without ``checks`` all are."""
        return not self.options.checks or name in self.options.checks

    @property
    def mode(self) -> str:
        return self.options.mode or self.settings.mode

    def after_export(self) -> tuple[Callable[..., Any], ...]:
        """Return the functions that change the file. Raises SpecError if one is not found."""
        given = self.options.after_export
        return tuple(map(_function, self.settings.after_export if given is None else given))

    @property
    def call_limit(self) -> float:
        """The seconds that loading an artifact in the clean process, or a call there, may take."""
        limit = self.settings.time_limit
        # A minute is enough for what was measured; half of the limit leaves time to explain a hang.
        return min(max(60.0, limit / 5), limit / 2)

    def verdict(self, subject: str, **fields: Any) -> Verdict:
        """Return a verdict on this target and device."""
        return Verdict(
            subject=subject,
            target=self.target,
            device=self.device,
            seed=self.seed,
            strict=self.settings.strict,
            **fields,
        )

    def limit(self) -> str:
        return f"the item's time limit of {self.settings.time_limit:g} s (torchexport_time_limit)"


def _function(given: Any) -> Callable[..., Any]:
    found: Callable[..., Any]
    if not isinstance(given, str):
        found = given
        return found
    module, _, name = given.partition(":")
    try:
        found = operator.attrgetter(name)(importlib.import_module(module))
    except Exception as error:
        text = f"after_export: {given} cannot be imported: {type(error).__name__}: {error}"
        raise SpecError(text) from None
    return found
