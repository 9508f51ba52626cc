"""A pytest item while its modules are checked: its plans, seed, stored calls, verdicts and files.

Separate from the collection of items: a suite that does not use the plugin does not load this file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_torchexport.config.options import of_a_check
from pytest_torchexport.config.plan import Corpus, Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.outcomes.limits import before_termination
from pytest_torchexport.plugin.crash_marker import CrashMarker
from pytest_torchexport.plugin.ini_and_flags import Configuration
from pytest_torchexport.plugin.items import MARKER, VERDICTS, Variant, name_of_test
from pytest_torchexport.plugin.replay import Replay
from pytest_torchexport.plugin.terminal import Progress
from pytest_torchexport.results import manifest
from pytest_torchexport.results.json import HALF
from pytest_torchexport.results.json import OF_A_FAILURE as MARK
from pytest_torchexport.results.verdict import Verdict

_RUN_NAME: pytest.StashKey[str] = pytest.StashKey()
# Below pytest's rootdir.
KEPT = ".torchexport"
# File systems take names of up to 255 bytes.
MAX_NAME = 120
# The name of the run that has written a directory, in it.
RUN = "run"


class ActiveItem:
    """A pytest item while its modules are checked."""

    def __init__(
        self,
        item: pytest.Item,
        configuration: Configuration,
        progress: Progress,
        why_isolated: str,
        replay: Replay | None = None,
    ) -> None:
        self._item = item
        self._configuration = configuration
        self._progress = progress
        self._replay = replay
        self._shipped: Counter[str] = Counter()  # the subjects of each name
        isolate = configuration.settings.isolate
        self._why_isolated = "torchexport_isolate" if isolate else why_isolated

    @property
    def nodeid(self) -> str:
        """The node id as one types it in the directory in which pytest was started.

        pytest's own is relative to rootdir.
        """
        _, colons, rest = self._item.nodeid.partition("::")
        try:
            path = os.path.relpath(self._item.path, self._item.config.invocation_params.dir)
        except ValueError:  # on another drive
            path = str(self._item.path)
        return f"{path}{colons}{rest}"

    @property
    def is_verbose(self) -> bool:
        """True if pytest prints everything (``-v``)."""
        return self._item.config.get_verbosity() > 0

    @property
    def has_own_marker(self) -> bool:
        """True if the marker is on the test itself, False if it is inherited."""
        return any(mark.name == MARKER for mark in self._item.own_markers)

    def plan(self, variant: Variant) -> Plan:
        """Return the plan for one target and device."""
        config, nodeid = self._item.config, self._item.nodeid
        settings, ship = self._configuration.settings, ""
        if settings.ship:  # a directory of the item's own
            directory = _shipped_by(self._item, settings)
            ship = str(directory if variant.id in nodeid else directory / variant.id)
        ignored = config.getoption("runxfail", default=False)
        # A unittest method is one item for all targets.
        kept = kept_in(config.rootpath, nodeid)
        kept = kept if variant.id in nodeid else kept / variant.id
        plan = Plan(
            target=variant.target,
            device=variant.device,
            options=of_a_check(variant.options),
            settings=dataclasses.replace(settings, ship=ship),
            named=variant.named,
            seed=seed_of(config, name_of_test(self._item)),
            max_examples=self._configuration.exact_max_examples,
            why_isolated=self._why_isolated,
            corpus=CacheCorpus(_cache(config), nodeid),
            progress=self._progress,
            root=config.rootpath,
            keep=kept if retained(config) else None,
            nodeid=nodeid,
            expects=() if ignored else tuple(cls for cls, _ in variant.xfail),
            workers=int(getattr(config, "workerinput", {}).get("workercount", 1)),
            plugins=_plugins(config),
        )
        if self._replay is None:
            return plan
        settings = dataclasses.replace(plan.settings, cache="", ship="")
        return dataclasses.replace(
            plan,
            settings=settings,
            seed=self._replay.seed(nodeid) or plan.seed,
            corpus=self._replay.corpus(nodeid),
            keep=None,
        )

    def shipping(self, plan: Plan, subject: Any) -> Plan:
        """Return the plan with a directory for the files of one subject, if they are shipped."""
        if not plan.settings.ship:
            return plan
        name = directory_name(getattr(subject, "__name__", type(subject).__name__)) or "subject"
        place = Path(plan.settings.ship) / name
        number = self._shipped[str(place)] = self._shipped[str(place)] + 1
        ship = str(place) if number == 1 else f"{place}-{number}"
        return dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, ship=ship))

    def add(self, verdict: Verdict) -> None:
        """Add a verdict to the item, and to its properties in JUnit."""
        self._item.stash.setdefault(VERDICTS, []).append(verdict)
        if verdict.script or verdict.kept:
            config = self._item.config
            directory = kept_in(config.rootpath, self._item.nodeid)
            tidy(directory, _name_of(config), retained(config))
        self._item.user_properties.append(
            ("torchexport", f"{verdict.target}-{verdict.device} {verdict.status}")
        )


@contextlib.contextmanager
def active(
    item: pytest.Item, configuration: Configuration, replay: Replay | None = None
) -> Iterator[ActiveItem]:
    """Surround all checks of an item: delete what its last failure kept, mark it as running.

    A replay deletes nothing.
    """
    if replay is None:
        shutil.rmtree(kept_in(item.config.rootpath, item.nodeid), ignore_errors=True)
        if configuration.settings.ship:
            # Also of subjects that it has no more; a unittest method's lie one folder below.
            directory = _shipped_by(item, configuration.settings)
            for pattern in (f"*/{manifest.NAME}", f"*/*/{manifest.NAME}"):
                for mark in list(directory.glob(pattern)):
                    shutil.rmtree(mark.parent, ignore_errors=True)
    marker = CrashMarker(_cache(item.config), item.nodeid)
    progress = Progress(item.config)
    marker.begin()
    try:
        with before_termination(marker.end):
            yield ActiveItem(item, configuration, progress, marker.why_isolated, replay)
    finally:
        progress.close()
        marker.end()


def _shipped_by(item: pytest.Item, settings: Settings) -> Path:
    return item.config.rootpath / settings.ship / directory_name(item.nodeid)


def _plugins(config: pytest.Config) -> tuple[str, ...]:
    """Return the names of the modules that pytest has loaded as plugins.

    Without conftests: which ones are loaded depends on the tests that the run selects.
    """
    loaded = (plugin for _, plugin in config.pluginmanager.list_name_plugin())
    modules = [each for each in loaded if isinstance(each, ModuleType)]
    files = {each.__name__: getattr(each, "__file__", None) or "" for each in modules}
    return tuple(sorted(n for n, file in files.items() if Path(file).name != "conftest.py"))


def seed_of(config: pytest.Config, test: str) -> int:
    """Return the seed of a test, the same for each of its targets.

    ``--hypothesis-seed`` if it is a number; in CI the checksum of the test's name; else random in
    each run.
    """
    given = config.getoption("--hypothesis-seed", default=None, skip=False)
    if given is not None and str(given).lstrip("-").isdigit():
        return abs(int(given)) % 2**31
    by_name = os.environ.get("CI") and str(given) != "random"
    return zlib.crc32(f"{'' if by_name else _name_of(config)}{test}".encode()) % 2**31


def _name_of(config: pytest.Config) -> str:
    """Return a name of this run, the same in all processes of pytest-xdist."""
    own: str = config.stash.setdefault(_RUN_NAME, uuid.uuid4().hex)
    return str(getattr(config, "workerinput", {}).get("testrunuid", own))


def _cache(config: pytest.Config) -> pytest.Cache | None:
    """Return pytest's cache, which ``-p no:cacheprovider`` takes away."""
    return getattr(config, "cache", None)


class CacheCorpus(Corpus):
    """Calls in pytest's cache, so that the next run replays them first."""

    def __init__(self, cache: pytest.Cache | None, nodeid: str) -> None:
        super().__init__()
        self._cache = cache
        self._name = f"{zlib.crc32(nodeid.encode()):08x}"

    def load(self, key: str, *, shared: bool = False) -> Sequence[dict[str, Any]]:
        """Return the recipes stored under the key; none if the cache cannot be read."""
        if self._cache is None:
            return ()
        stored = self._cache.get(self._path(key, shared), [])
        known = stored if isinstance(stored, list) else []
        return [item for item in known if isinstance(item, dict)]

    def store(self, key: str, recipes: Sequence[dict[str, Any]], *, shared: bool = False) -> None:
        """Replace the stored recipes. Nothing is written if old and new ones are empty."""
        if self._cache is None or (not recipes and not self.load(key, shared=shared)):
            return
        self._cache.set(self._path(key, shared), list(recipes))

    def _path(self, key: str, shared: bool) -> str:
        return f"torchexport/{'branches' if shared else self._name}-{key}"


# -- the directory for the files of failures: nothing for git, nothing old -------------------------


def kept_in(root: Path, nodeid: str) -> Path:
    """Return the directory for the files of a test's failures."""
    return root / KEPT / directory_name(nodeid)


def directory_name(nodeid: str) -> str:
    """Return a name for a test's directory, which no other test has."""
    name = re.sub(r"[^\w.-]+", "-", nodeid).strip("-")
    short = name.encode()[:MAX_NAME].decode(errors="ignore")
    # A checksum tells apart names that differ only in other characters, or only at their ends.
    plain = re.fullmatch(r"[\w./]*(::\w+)*(\[[\w-]*\])?", nodeid)
    checksum = "" if plain and short == name else f"-{zlib.crc32(nodeid.encode()):08x}"
    return f"{short}{checksum}"


def retained(config: pytest.Config) -> int:
    """Return of how many runs the failures are kept: as many as pytest keeps ``tmp_path`` of."""
    try:
        never = config.getini("tmp_path_retention_policy") == "none"
        return 0 if never else int(config.getini("tmp_path_retention_count"))
    except ValueError:  # -p no:tmpdir
        return 3


def tidy(directory: Path, run: str, count: int) -> None:
    """Note that an item's directory is of this run, and remove those of runs before the last ones.

    A directory has a mark when it is whole. Nothing else is removed: it
    may be a person's. Other processes may do the same, and what cannot be written or removed stays.
    """
    with contextlib.suppress(OSError):
        # As pytest does for its cache: the files are for a person, not for the repository.
        (directory.parent / ".gitignore").write_text("*\n")
        (directory / RUN).write_text(run)
        for old in _of_older_runs(directory.parent, count):
            shutil.rmtree(old, ignore_errors=True)


def _of_older_runs(directory: Path, count: int) -> Iterator[Path]:
    places: dict[Path, tuple[str, float]] = {}
    for place in directory.iterdir():
        with contextlib.suppress(OSError):
            if not place.is_symlink() and _is_ours(place):
                note = place / RUN
                run = note.read_text() if note.is_file() else ""
                places[place] = run, place.stat().st_mtime
    ends: dict[str, float] = {}
    for run, written in places.values():
        ends[run] = max(written, ends.get(run, 0.0)) if run else 0.0
    kept = sorted(ends, key=ends.__getitem__, reverse=True)[:count]
    oldest = min((ends[run] for run in kept), default=0.0)
    for place, (run, written) in places.items():
        # Without a run, a process has not yet written all, or was killed meanwhile.
        if run not in kept if run else written < oldest:
            yield place


def _is_ours(place: Path) -> bool:
    """Return True for an item's directory; a unittest method's has one for each target."""
    marks = (place / MARK, *place.glob(f"*/{MARK}"))
    return place.name.startswith(HALF) or any(mark.is_file() for mark in marks)
