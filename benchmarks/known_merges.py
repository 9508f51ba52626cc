"""Print how known failures survive merges and refactorings, and if another failure is ever masked.

    python benchmarks/known_merges.py merges --count 1000
    python benchmarks/known_merges.py refactorings --count 200
    python benchmarks/known_merges.py pairs report.json [report.json ...] --count 500

``merges``: two branches change the known failures of one base, each as some runs with `create` and
`tighten` would, and by hand; git merges them. A merge without a conflict has to hold exactly what
both branches want; a conflict is right only if both touch one test.

``refactorings``: a suite is changed in one way, and all its known failures occur again. Each has to
be found again as its own.

``pairs``: each failure of a JSON report is taken for known, and another of the same class, on the
same test and target, for what occurs now. None of these may pass for the known one. Failures of
which both reports have all names in common are counted apart, and listed: those to which one line
of one file is to blame, which are one failure of two models, and those that only look alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pytest_torchexport.results import json, known_files
from pytest_torchexport.results.diagnosis import Cause, Diagnosis, Place
from pytest_torchexport.results.known_failure import FailurePlace, KnownFailure, Stored
from pytest_torchexport.results.known_files import Changes
from pytest_torchexport.results.known_matching import Known, differences
from pytest_torchexport.results.known_place import entry_of, place_of
from pytest_torchexport.results.source_line import SourceLine
from pytest_torchexport.results.verdict import Difference, Verdict

Files = dict[str, list[KnownFailure]]
TARGETS = ("trace", "script", "export", "onnx")
EXACT = "clean, and exactly what both want"
CLASSES = ("OutputsDiffer", "ExportRefused", "BranchFrozen", "DimsNarrowed", "LoadFailed")
WORDS = ("encoder", "decoder", "head", "pool", "mask", "loss", "beam", "vocab", "stem", "blocks")


# -- merges ----------------------------------------------------------------------------------------


def base_of(random: random.Random) -> Files:
    """Return the known failures of a project: 60 tests in 12 files."""
    files: Files = {}
    for file, test in itertools.product(range(12), range(5)):
        name = f"tests/test_{WORDS[file % 10]}{file}.py::test_{WORDS[test]}_{WORDS[-test - 1]}"
        for target in random.sample(TARGETS, random.randint(1, 3)):
            entry = new_entry(random, name, target)
            files.setdefault(known_files.file_of(name), []).append(entry)
    return files


def new_entry(random: random.Random, test: str, target: str) -> KnownFailure:
    return KnownFailure(
        test=test,
        target=target,
        device="cpu",
        subject=random.choice(WORDS).title(),
        failure=random.choice(CLASSES),
        reason=f"see issue {random.choice(WORDS)}",
        place=FailurePlace(
            outputs=("output",),
            operator=f"aten.{random.choice(WORDS)}",
            module=f"{random.choice(WORDS)}.{random.choice(WORDS)}",
        ),
        since="2026-11-23",
    )


@dataclasses.dataclass
class Branch:
    """What one branch does, and the tests that it touches."""

    files: Files
    removed: set[KnownFailure | tuple[object, ...]]
    added: list[KnownFailure]
    touched: set[str]


def branch_of(random: random.Random, base: Files, number: int) -> Branch:
    """Return the base after one to four changes."""
    branch = Branch(dict(base), set(), [], set())
    for step in range(random.randint(1, 4)):
        there = [entry for entries in branch.files.values() for entry in entries]
        entry = random.choice(there)
        acts: Sequence[tuple[int, Callable[[], Changes]]] = (
            (35, lambda entry=entry: Changes(removed=[entry])),
            (20, lambda entry=entry: Changes(added=[another(random, entry)])),
            (20, lambda step=step: Changes(added=[of_new_test(random, number, step)])),
            (10, lambda entry=entry, there=there: moved_test(random, entry, there)),
            (5, lambda entry=entry, there=there: moved_file(random, entry, there)),
            (10, lambda entry=entry: edited(random, entry)),
        )
        weights, functions = zip(*acts, strict=True)
        changes = random.choices(functions, weights)[0]()
        branch.files |= known_files.changed(branch.files, changes)
        branch.removed |= {each.identity for each in changes.removed}
        branch.added += changes.added
        branch.touched |= {each.test for each in (*changes.added, *changes.removed)}
    return branch


def another(random: random.Random, entry: KnownFailure) -> KnownFailure:
    return new_entry(random, entry.test, random.choice(TARGETS))


def of_new_test(random: random.Random, number: int, step: int) -> KnownFailure:
    file = random.randrange(12)
    name = f"tests/test_{WORDS[file % 10]}{file}.py::test_new_{number}_{step}"
    return new_entry(random, name, random.choice(TARGETS))


def moved_test(
    random: random.Random, entry: KnownFailure, there: Sequence[KnownFailure]
) -> Changes:
    name = f"{entry.test.partition('::')[0]}::test_renamed_{random.randrange(10**6)}"
    own = [each for each in there if each.test == entry.test]
    return Changes(added=[dataclasses.replace(each, test=name) for each in own], removed=own)


def moved_file(
    random: random.Random, entry: KnownFailure, there: Sequence[KnownFailure]
) -> Changes:
    file, new = entry.test.partition("::")[0], f"tests/test_moved{random.randrange(10**6)}.py"
    own = [each for each in there if each.test.startswith(f"{file}::")]
    added = [dataclasses.replace(each, test=each.test.replace(file, new)) for each in own]
    return Changes(added=added, removed=own)


def edited(random: random.Random, entry: KnownFailure) -> Changes:
    new = dataclasses.replace(entry, reason=f"{entry.reason} {random.choice(WORDS)}")
    return Changes(added=[new], removed=[entry])


def merges(count: int, seed: int) -> Counter[str]:
    """Merge pairs of branches with git; print and return what became of them."""
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run(["git", "init", "-q", "--bare", folder], check=True)
        randoms = random.Random(seed)
        bases = [base_of(randoms) for _ in range(10)]
        pairs = []
        for number in range(count):
            base = bases[number % len(bases)]
            pairs.append((base, *(branch_of(randoms, base, 2 * number + k) for k in (0, 1))))
        write_commits(root, pairs)
        for number, (base, one, other) in enumerate(pairs):
            found[merged(root, number, base, one, other)] += 1
    print(f"{count} merges of two branches")
    for what, times in found.most_common():
        print(f"  {times:5}  {what}")
    return found


def write_commits(root: Path, pairs: Sequence[tuple[Files, Branch, Branch]]) -> None:
    """Write each base and its two branches into the repository."""
    lines: list[bytes] = []
    for number, (base, one, other) in enumerate(pairs):
        for name, files, parent in (
            ("base", base, ""),
            ("one", one.files, "base"),
            ("other", other.files, "base"),
        ):
            lines += [f"commit refs/heads/{name}-{number}".encode()]
            lines += [b"committer a <a@b> 0 +0000", b"data 0"]
            if parent:
                lines += [f"from refs/heads/{parent}-{number}".encode(), b"deleteall"]
            for file, entries in files.items():
                if entries:
                    text = known_files.render(entries).encode()
                    lines += [f"M 100644 inline known/{file}".encode()]
                    lines += [f"data {len(text)}".encode(), text]
    subprocess.run(
        ["git", "fast-import", "--quiet"], cwd=root, input=b"\n".join([*lines, b""]), check=True
    )


def merged(root: Path, number: int, base: Files, one: Branch, other: Branch) -> str:
    """Return in words what a merge led to."""
    refs = (f"one-{number}", f"other-{number}")
    done = subprocess.run(
        ["git", "merge-tree", "--write-tree", *refs],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        if one.touched & other.touched:
            return "conflict, both touch one test"
        kinds = {line.partition(":")[0] for line in done.stdout.splitlines() if "CONFLICT" in line}
        return f"CONFLICT WITHOUT A COMMON TEST: {', '.join(sorted(kinds))}"
    with tempfile.TemporaryDirectory() as folder:
        tree = done.stdout.split()[0]
        archive = subprocess.run(
            ["git", "archive", tree], cwd=root, capture_output=True, check=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
        there = {each.entry.identity for each in known_files.read(Path(folder, "known"))}
    before = {entry.identity for entries in base.values() for entry in entries}
    ends = [
        {entry.identity for entries in branch.files.values() for entry in entries}
        for branch in (one, other)
    ]
    wanted = (before & ends[0] & ends[1]) | (ends[0] - before) | (ends[1] - before)
    if Counter(each[1:] for each in wanted) == Counter(each[1:] for each in there) != Counter():
        same = wanted == there
        return EXACT if same else "clean, one of a moved test's entries under its other name"
    if wanted - there:
        return "ENTRIES LOST"
    if there - wanted:
        return "entries stay that one branch removed"
    return EXACT


# -- refactorings ----------------------------------------------------------------------------------


def suite_of(random: random.Random) -> dict[str, Verdict]:
    """Return 24 failing items of a suite: node id to verdict. Some fail alike."""
    found = {}
    for file, test, target in itertools.product(range(4), range(3), TARGETS[:2]):
        name = f"tests/test_{WORDS[file]}.py::{'TestIt::' if file % 2 else ''}test_{WORDS[test]}"
        parameters = "-a-1" if test == 2 else ""
        found[f"{name}[{target}-cpu{parameters}]"] = verdict_of(random, target)
    return found


def verdict_of(random: random.Random, target: str) -> Verdict:
    failure = random.choice(CLASSES)
    names = {"differences": (), "where": None, "diagnosis": Diagnosis()}
    if failure == "OutputsDiffer":
        path = random.choice(("output", "output['logits']", "output[0]"))
        sides = {"expected": "1", "actual": "2"}
        names["differences"] = (Difference(kind="values", path=path, **sides),)
        place = Place(operator=f"aten.{random.choice(WORDS)}", module=random.choice(WORDS))
        cause = Cause(kind="frozen size", text="")
        names["diagnosis"] = Diagnosis(place=place, causes=(cause,))
    elif failure in ("ExportRefused", "BranchFrozen"):
        word = random.choice(WORDS)
        names["where"] = SourceLine("net.py", 3, f"if x['{word}'].sum() > 0:")
    return Verdict(
        subject=random.choice(("Net", "Encoder")),
        target=target,
        device="cpu",
        status="failed",
        failure=failure,
        reason="batch (axis 0 of x): narrowed" if failure == "DimsNarrowed" else "refused",
        **names,
    )


Renamed = Callable[[str, Verdict], tuple[str, Verdict]]


def refactorings(
    random: random.Random, suite: Mapping[str, Verdict]
) -> Iterator[tuple[str, Renamed]]:
    """Yield one change of each kind."""
    nodeid = random.choice(sorted(suite))
    test, file = nodeid.partition("[")[0], nodeid.partition("::")[0]
    elsewhere = random.choice(sorted({name.partition("::")[0] for name in suite} - {file}))

    def renamed(old: str, new: str) -> Renamed:
        return lambda name, verdict: (name.replace(old, new), verdict)

    yield "a test is renamed", renamed(f"{test}[", f"{test}_again[")
    yield "a file is renamed", renamed(f"{file}::", f"{file.removesuffix('.py')}_new.py::")
    yield "a folder is renamed", renamed("tests/", "checks/unit/")
    yield (
        "a test is moved to another file",
        renamed(f"{test}[", f"{elsewhere}::test_was_{test.rpartition('test_')[2]}["),
    )
    yield "a class is renamed", renamed("TestIt::", "TestThat::")
    yield (
        "a test becomes a method",
        renamed(f"{test}[", f"{file}::TestNew::{test.rpartition('::')[2]}["),
    )
    yield "parameters are reordered", renamed("-a-1]", "-1-a]")
    yield "the order of tests changes", lambda name, verdict: (name, verdict)
    yield "the model is formatted", lambda name, verdict: (name, formatted(verdict))
    yield "lines are added above", lambda name, verdict: (name, lower(verdict))
    yield "the model's class is renamed", lambda name, verdict: (name, of_class(verdict))


def formatted(verdict: Verdict) -> Verdict:
    if verdict.where is None:
        return verdict
    text = verdict.where.text.replace("'", '"').replace("if ", "if (").replace(":", "):")
    return dataclasses.replace(verdict, where=dataclasses.replace(verdict.where, text=text))


def lower(verdict: Verdict) -> Verdict:
    if verdict.where is None:
        return verdict
    return dataclasses.replace(verdict, where=dataclasses.replace(verdict.where, line=41))


def of_class(verdict: Verdict) -> Verdict:
    return dataclasses.replace(verdict, subject=verdict.subject.replace("Net", "Network"))


def refactor(count: int, seed: int) -> Counter[str]:
    """Refactor suites; print and return how many known failures are found again."""
    found: dict[str, Counter[str]] = {}
    randoms = random.Random(seed)
    done = 0
    while done < count:
        suite = suite_of(randoms)
        for kind, change in refactorings(randoms, suite):
            if done < count:
                done += 1
                found.setdefault(kind, Counter()).update(matched(suite, change))
    total = sum(found.values(), Counter())
    print(f"{count} refactorings, {total.total()} known failures: {shares(total)}")
    for kind, results in found.items():
        print(f"  {kind:32} {shares(results)}")
    return total


def shares(results: Counter[str]) -> str:
    return ", ".join(
        f"{100 * n / results.total():.2f} % {what}" for what, n in results.most_common()
    )


def matched(suite: Mapping[str, Verdict], change: Renamed) -> Iterator[str]:
    """Yield for each known failure if it is found again as its own."""
    olds = {name: entry_of(verdict, name, reason="why") for name, verdict in suite.items()}
    stored = [Stored(entry, "a.toml", number) for number, entry in enumerate(olds.values())]
    known = Known(stored, {}, "2026-11-23")
    news = {old: change(old, verdict) for old, verdict in suite.items()}
    tests = {entry_of(verdict, name).test for name, verdict in news.values()}
    gone = [each for each in stored if each.entry.test not in tests]
    for old, (name, verdict) in news.items():
        (match,) = (
            each
            for each in known.matches(name, [verdict], gone=lambda: gone, whole=True)
            if each.status != "fixed"
        )
        right = match.known is not None and match.known == olds[old]
        if match.status in ("known", "worse", "moved"):
            yield "found" if right else "TAKEN FOR ANOTHER"
        else:
            yield match.status


# -- pairs -----------------------------------------------------------------------------------------


def pairs(paths: Sequence[Path], count: int, seed: int) -> None:
    """Print how often a failure passes for another one of the same class."""
    verdicts = [
        verdict
        for path in paths
        for item in json.read(path.read_text()).items
        for verdict in item.verdicts
        if verdict.status == "failed"
    ]
    alike = [
        (one, other)
        for one, other in itertools.permutations(verdicts, 2)
        if one.failure == other.failure and one.target == other.target
    ]
    chosen = random.Random(seed).sample(alike, min(count, len(alike)))
    found: Counter[str] = Counter()
    alike_by: Counter[str] = Counter()
    for one, other in chosen:
        masked = not differences(entry_of(one, "a.py::test"), other)
        if place_of(one) != place_of(other):
            found["MASKED" if masked else "told apart"] += 1
            continue
        lines = {
            each.where.place if each.where is not None else each.subject for each in (one, other)
        }
        found["one line to blame" if len(lines) == 1 else "all names in common"] += 1
        if len(lines) > 1:
            alike_by[f"{one.failure} on {one.target}: {place_of(one)}"] += 1
    print(f"{len(chosen)} pairs of failures of one class on one target, {len(verdicts)} failures")
    for what, times in [*found.most_common(), *alike_by.most_common()]:
        print(f"  {times:5}  {what}")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=("merges", "refactorings", "pairs"))
    parser.add_argument("reports", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.what == "merges":
        merges(given.count, given.seed)
    elif given.what == "refactorings":
        refactor(given.count, given.seed)
    else:
        pairs(given.reports, given.count, given.seed)


if __name__ == "__main__":
    main()
