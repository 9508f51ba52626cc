"""The plan of one item: everything the engine needs to know and pytest knew, decided once, frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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
    """One test x target x device. ``named`` says that the user asked for this target by name."""

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
    strict: bool = False
    self_test: bool = False
    mode: str = "eval"
    runtime_imports: tuple[str, ...] = ()
    corpus: Corpus = field(default_factory=NoCorpus)
    progress: Callable[..., None] = silent

    def limit(self) -> str:
        """The time limit in words."""
        return f"the item's time limit of {self.time_limit:g} s (torchexport_time_limit)"
