"""A pytest item while its modules are checked: its plans, seed, stored calls, verdicts and files.

Separate from the collection of items: a suite that does not use the plugin does not load this file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import os
import re
import shutil
import uuid
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import pytest

from pytest_torchexport.config.plan import Corpus, Plan
from pytest_torchexport.config.settings import Settings
from pytest_torchexport.outcomes.limits import before_termination
from pytest_torchexport.plugin.items import VERDICTS, Configuration, Variant, name_of_test
from pytest_torchexport.plugin.terminal import Progress
from pytest_torchexport.results import json, manifest
from pytest_torchexport.results.json import HALF
from pytest_torchexport.results.json import OF_A_FAILURE as MARK
from pytest_torchexport.results.verdict import Verdict

_RUN_NAME: pytest.StashKey[str] = pytest.StashKey()
# Below pytest's rootdir.
KEPT = ".torchexport"
# The name of the run that has written a directory, in it.
RUN = "run"
RUN_ENDED = "a run ended while the item ran"
REPLAY = "--torchexport-replay"

# The verdicts of stored failures, by the node id of their items.
Stored = Mapping[str, Sequence[Verdict]]


@dataclass
class ActiveItem:
    """A pytest item while its modules are checked. ``shipped`` counts the subjects of each name."""

    item: pytest.Item
    configuration: Configuration
    progress: Progress
    why_isolated: str
    replayed: Stored | None
    shipped: Counter[str] = field(default_factory=Counter)

    @property
    def nodeid(self) -> str:
        """The node id as one types it in the directory in which pytest was started.

        pytest's own is relative to rootdir.
        """
        _, colons, rest = self.item.nodeid.partition("::")
        try:
            path = os.path.relpath(self.item.path, self.item.config.invocation_params.dir)
        except ValueError:  # on another drive
            path = str(self.item.path)
        return f"{path}{colons}{rest}"

    def plan(self, variant: Variant) -> Plan:
        config, nodeid, settings = self.item.config, self.item.nodeid, self.configuration.settings
        # A unittest method is one item for all targets.
        folder = "" if variant.id in nodeid else variant.id
        keep: Path | None = kept_in(config.rootpath, nodeid) / folder
        ship = str(_shipped_by(self.item, settings) / folder) if settings.ship else ""
        settings = dataclasses.replace(settings, ship=ship)
        seed: int | None = None
        corpus: Corpus = CacheCorpus(getattr(config, "cache", None), nodeid)
        if self.replayed is not None:
            settings, keep = dataclasses.replace(settings, cache="", ship=""), None
            stored = self.replayed.get(nodeid, ())
            seed = next((verdict.seed for verdict in stored), None)
            corpus = Corpus([verdict.recipe for verdict in stored if verdict.recipe is not None])
        ignored = config.getoption("runxfail", default=False)
        loaded = [plugin for _, plugin in config.pluginmanager.list_name_plugin()]
        modules = {
            each.__name__: Path(getattr(each, "__file__", None) or "")
            for each in loaded
            if isinstance(each, ModuleType)
        }
        return Plan(
            target=variant.target,
            device=variant.device,
            # Without those that decide on items.
            options=dataclasses.replace(variant.options, targets=None, devices=None, xfail=None),
            settings=settings,
            named=variant.named,
            device_named=variant.device_named,
            seed=seed or seed_of(config, name_of_test(self.item)),
            max_examples=self.configuration.exact_max_examples,
            why_isolated="torchexport_isolate" if settings.isolate else self.why_isolated,
            corpus=corpus,
            progress=self.progress,
            root=config.rootpath,
            keep=keep if retained(config) else None,
            nodeid=nodeid,
            expects=() if ignored else tuple(cls for cls, _ in variant.xfail),
            workers=int(getattr(config, "workerinput", {}).get("workercount", 1)),
            # Which conftests are loaded depends on the tests that the run selects.
            plugins=tuple(sorted(n for n, file in modules.items() if file.name != "conftest.py")),
        )

    def shipping(self, plan: Plan, subject: Any) -> Plan:
        """Return the plan with a directory for the files of one subject, if they are shipped."""
        if not plan.settings.ship:
            return plan
        name = directory_name(getattr(subject, "__name__", type(subject).__name__)) or "subject"
        place = Path(plan.settings.ship) / name
        number = self.shipped[str(place)] = self.shipped[str(place)] + 1
        ship = str(place) if number == 1 else f"{place}-{number}"
        return dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, ship=ship))

    def add(self, verdict: Verdict) -> None:
        self.item.stash.setdefault(VERDICTS, []).append(verdict)
        if verdict.script or verdict.kept:
            config = self.item.config
            directory = kept_in(config.rootpath, self.item.nodeid)
            tidy(directory, _name_of(config), retained(config))
        self.item.user_properties.append(
            ("torchexport", f"{verdict.target}-{verdict.device} {verdict.status}")
        )


@contextlib.contextmanager
def active(
    item: pytest.Item, configuration: Configuration, replayed: Stored | None
) -> Iterator[ActiveItem]:
    """Surround all checks of an item: delete what its last failure kept, mark it as running.

    A replay deletes nothing.
    """
    if replayed is None:
        shutil.rmtree(kept_in(item.config.rootpath, item.nodeid), ignore_errors=True)
        if configuration.settings.ship:
            # Also of subjects that it has no more; a unittest method's lie one folder below.
            directory = _shipped_by(item, configuration.settings)
            for depth in ("*", "*/*"):
                for mark in list(directory.glob(f"{depth}/{manifest.NAME}")):
                    shutil.rmtree(mark.parent, ignore_errors=True)
    progress = Progress(item.config)
    try:
        with marked(getattr(item.config, "cache", None), item.nodeid) as why_isolated:
            yield ActiveItem(item, configuration, progress, why_isolated, replayed)
    finally:
        progress.close()


def _shipped_by(item: pytest.Item, settings: Settings) -> Path:
    return item.config.rootpath / settings.ship / directory_name(item.nodeid)


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


# -- calls of earlier runs -------------------------------------------------------------------------


class CacheCorpus(Corpus):
    """Calls in pytest's cache, so that the next run replays them first.

    ``cache`` is None with ``-p no:cacheprovider``.
    """

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


def stored_failures(config: pytest.Config, given: str) -> Stored:
    """Return the failures of which ``--torchexport-replay`` runs the tests again.

    They lie below the given path, or in ``.torchexport`` if it is empty. Beside ``--lf`` for
    failures of another machine: a job of CI keeps ``.torchexport``, and its calls and seeds come
    from there. Raises UsageError that names the flag and the path.
    """
    place = Path(config.invocation_params.dir, given) if given else config.rootpath / KEPT
    stored: dict[str, list[Verdict]] = {}
    for path in sorted(place.rglob(MARK)):
        if any(part.startswith(HALF) for part in path.parts):
            continue
        try:
            (item,) = json.read(path.read_text(encoding="utf-8")).items
            (verdict,) = item.verdicts
        except (OSError, ValueError) as error:
            raise pytest.UsageError(
                f"{REPLAY}: cannot read {path}: {error}. Next step: run the test again, which "
                "writes its files anew."
            ) from None
        if not item.nodeid:
            raise pytest.UsageError(
                f"{REPLAY}: {path.parent} was written by check_export without pytest. "
                f"Next step: python {path.with_name('reproduce.py')}"
            )
        stored.setdefault(item.nodeid, []).append(verdict)
    if not stored:
        raise pytest.UsageError(
            f"{REPLAY}: no {MARK} lies in {given or place}. Legal: {KEPT}, or the directory of one "
            "failure in it, which a failed test writes."
        )
    return stored


# -- the mark of an item that runs -----------------------------------------------------------------


@contextlib.contextmanager
def marked(cache: pytest.Cache | None, nodeid: str) -> Iterator[str]:
    """Mark an item as running; yield why it is to be isolated, or nothing.

    A crash in a call that was not tried in the clean process ends pytest, and must not do so twice.
    A pass in another process proves nothing about this one, so the mark stays until
    ``--cache-clear``. It is a file in pytest's cache, locked so that other sessions see that the
    item runs. Without a cache there is none.
    """
    why, mark = "", None
    if cache is not None:
        with contextlib.suppress(OSError):  # the cache may be read-only
            file = cache.mkdir("torchexport-running") / f"{zlib.crc32(nodeid.encode()):08x}"
            with contextlib.suppress(OSError, ValueError), file.open("r+") as earlier:
                # An item that another session runs now has not died.
                why = (earlier.read() or RUN_ENDED) if _locked(earlier) else ""
            mark = file.open("w")
            when = dt.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            mark.write(f"{RUN_ENDED} ({when}, process {os.getpid()})")
            mark.flush()
            _locked(mark)

    def end() -> None:
        if mark is not None:
            with contextlib.suppress(OSError):
                if why:
                    file.write_text(why)
                else:
                    file.unlink(missing_ok=True)
            mark.close()

    try:
        with before_termination(end):
            yield why
    finally:
        end()


def _locked(file: IO[str]) -> bool:
    """Lock the file until it is closed or this process ends; False if another process has it.

    A process id would not do: in a container the next session may have the same one.
    """
    try:
        import fcntl
    except ImportError:  # on Windows two sessions at once are merely careful
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


# -- the directory for the files of failures: nothing for git, nothing old -------------------------


def kept_in(root: Path, nodeid: str) -> Path:
    """Return the directory for the files of a test's failures."""
    return root / KEPT / directory_name(nodeid)


def directory_name(nodeid: str) -> str:
    """Return a name for a test's directory, which no other test has."""
    name = re.sub(r"[^\w.-]+", "-", nodeid).strip("-")
    short = name.encode()[:120].decode(errors="ignore")  # file systems take names of 255 bytes
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

    A directory has a mark when it is whole. Nothing else is removed: it may be a person's. Other
    processes may do the same, and what cannot be written or removed stays.
    """
    places: dict[Path, tuple[str, float]] = {}  # the run of each, and when it was written
    with contextlib.suppress(OSError):
        # As pytest does for its cache: the files are for a person, not for the repository.
        (directory.parent / ".gitignore").write_text("*\n")
        (directory / RUN).write_text(run)
        for place in directory.parent.iterdir():
            with contextlib.suppress(OSError):
                # A unittest method's has a directory for each target.
                marks = (place / MARK, *place.glob(f"*/{MARK}"))
                whole = any(mark.is_file() for mark in marks)
                if not place.is_symlink() and (whole or place.name.startswith(HALF)):
                    note = place / RUN
                    of_run = note.read_text() if note.is_file() else ""
                    places[place] = of_run, place.stat().st_mtime
    ends: dict[str, float] = {}
    for of_run, written in places.values():
        ends[of_run] = max(written, ends.get(of_run, 0.0)) if of_run else 0.0
    kept = sorted(ends, key=ends.__getitem__, reverse=True)[:count]
    oldest = min((ends[of_run] for of_run in kept), default=0.0)
    for place, (of_run, written) in places.items():
        # Without a run, a process has not yet written all, or was killed meanwhile.
        if of_run not in kept if of_run else written < oldest:
            shutil.rmtree(place, ignore_errors=True)
