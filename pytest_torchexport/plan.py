"""The plan of one item: everything the engine needs to know and pytest knew, decided once, frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pytest_torchexport.limits import share_of_memory
from pytest_torchexport.spec.options import Options


class Corpus(Protocol):
    """Where calls are kept between runs: those that failed by item, those that a search found (``shared``) for
    all items of one source and spec.
    """

    def load(self, key: str, *, shared: bool = False) -> Sequence[dict[str, Any]]:
        """Recipes stored under the key."""

    def store(self, key: str, recipes: Sequence[dict[str, Any]], *, shared: bool = False) -> None:
        """Replace what is stored under the key."""


class NoCorpus:
    """Keeps nothing."""

    def load(self, key: str, *, shared: bool = False) -> Sequence[dict[str, Any]]:
        """Nothing."""
        return ()

    def store(self, key: str, recipes: Sequence[dict[str, Any]], *, shared: bool = False) -> None:
        """Forget."""


def silent(stage: str, done: int = 0, total: int = 0) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One test x target x device. ``named`` says that the user asked for this target by name; ``isolate`` why its artifact
    is called in a process of its own (empty: it is not); ``root`` is the
    directory below which the user's own packages are; ``keep`` where an artifact's files go after a failure.
    """

    target: str
    device: str
    options: Options = field(default_factory=Options)
    named: bool = True
    seed: int = 0
    max_examples: int | None = None
    max_examples_cap: int = 50
    explore_calls: int = 200
    min_branch_coverage: float = 0.0
    follow: tuple[str, ...] = ()
    time_limit: float = 300.0
    call_limit: float = 60.0
    memory_limit: int | None = None
    isolate: str = ""
    strict: bool = False
    self_test: bool = False
    mode: str = "eval"
    runtime_imports: tuple[str, ...] = ()
    serve_on: tuple[str, ...] = ()
    corpus: Corpus = field(default_factory=NoCorpus)
    progress: Callable[..., None] = silent
    root: Path | None = None
    keep: Path | None = None

    @property
    def memory(self) -> int:
        """Megabytes that an artifact's process may allocate."""
        return self.memory_limit if self.memory_limit is not None else share_of_memory()

    def checks(self, name: str) -> bool:
        """Whether a check is asked for; all are where nothing is said."""
        return not self.options.checks or name in self.options.checks

    def limit(self) -> str:
        """The time limit in words."""
        return f"the item's time limit of {self.time_limit:g} s (torchexport_time_limit)"
