"""Write the verdict of every zoo row and every real model on every target to a file; compare two such files.

Run ``dump`` before and after a change that must not alter any verdict, then ``compare``. Items come in an order
that mixes targets and mechanisms, so that ``--count`` takes a fair sample.

    python scripts/verdicts.py dump before.jsonl --shard 1/2 &
    python scripts/verdicts.py dump before.jsonl --shard 2/2
    python scripts/verdicts.py compare before.jsonl after.jsonl

A verdict must not depend on how fast the machine is. ``--sleep`` slows each forward, ``--busy`` starts processes
that compute without end beside the check, and ``--frozen`` takes only the models whose trace freezes a branch:

    python scripts/verdicts.py dump idle.jsonl --frozen
    python scripts/verdicts.py dump busy.jsonl --frozen --busy 4
    python scripts/verdicts.py dump slow.jsonl --frozen --sleep 0.01
    python scripts/verdicts.py compare idle.jsonl busy.jsonl --fields status failure where sizes
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MAX_EXAMPLES = 20
# What differs between two runs of the same code: time, and numbers that are measured rather than computed.
VOLATILE = ("max_error", "warnings")
# Fields that came with version 2 of the JSON report, or changed their type (no item asks for a self-test).
ADDED = ("skip", "self_test")


def items(*, frozen: bool = False) -> dict[str, Callable[[], Any]]:
    """Return for each item's name the function that checks it; if ``frozen``, of models that a trace freezes."""
    import zoo
    from real.models import MODELS, stub_torchvision

    from pytest_torchexport import check_export

    def of_zoo(row: Any, target: str) -> Any:
        args, kwargs = row.example()
        options = {"max_examples": MAX_EXAMPLES, **row.options}
        return check_export(row.build(), args, kwargs, target=target, **options)

    def of_real(name: str, target: str) -> Any:
        import torch

        stub_torchvision()
        model, example = MODELS[name].build(torch.float32)
        options = {"max_examples": 10, **MODELS[name].options}
        return check_export(model, example, target=target, **options)

    found: dict[str, Callable[[], Any]] = {}
    for row in zoo.ZOO:
        if frozen and row.expect["trace"] != zoo.BRANCH:
            continue
        for target in zoo.TARGETS:
            found[f"zoo/{row.name}/{target}"] = lambda row=row, target=target: of_zoo(row, target)
    for name in () if frozen else MODELS:
        for target in ("trace", "script", "export", "onnx"):
            found[f"real/{name}/{target}"] = lambda name=name, target=target: of_real(name, target)
    return dict(sorted(found.items(), key=lambda item: zlib.crc32(item[0].encode())))


def plain(verdict: Any) -> dict[str, Any]:
    """Return the verdict's data without what varies between runs of the same code.

    Assumptions and source lines are texts, and fields that earlier versions lack are left out, so that
    dumps of earlier versions can be compared.
    """
    left_out = (*VOLATILE, *ADDED)
    found = {key: value for key, value in verdict.as_dict().items() if key not in left_out}
    found["assumed"] = [str(item) for item in verdict.assumed]
    found["seconds"] = round(sum(verdict.seconds.values()), 3)
    found["where"] = _as_text(found["where"])
    for difference in (*found["differences"], *found["explained"]):
        difference["what"] += _as_text(difference.pop("where"))
    for branch in found["branches"]:
        branch["where"] = _as_text(branch["where"])
    return found


def _as_text(where: dict[str, Any] | None) -> str:
    """Return a source line as text, as dumps of schema 1 have it."""
    return f"{where['file']}:{where['line']}  {where['text']}".rstrip() if where else ""


@contextmanager
def slowed(seconds: float) -> Iterator[None]:
    """Wait before each outermost call of a module."""
    import torch

    from pytest_torchexport.outcomes.torch_state import module_calls_through

    inside = threading.local()

    def call(
        real: Callable[..., Any], module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if getattr(inside, "yes", False):
            return real(module, *args, **kwargs)
        inside.yes = True
        try:
            time.sleep(seconds)
            return real(module, *args, **kwargs)
        finally:
            inside.yes = False

    # As a frame of torch's, which no verdict names as the user's line.
    call.__code__ = call.__code__.replace(co_filename=torch.__file__)
    with module_calls_through(call):
        yield


@contextmanager
def beside(processes: int) -> Iterator[None]:
    """Let so many processes compute for the duration of the block."""
    started = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)
    ]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def dump(path: Path, checks: dict[str, Callable[[], Any]], shard: str) -> None:
    """Append one line per item; items that the file already has are left out."""
    import torch

    torch.set_num_threads(1)
    number, shards = map(int, shard.split("/"))
    done = set(read(path)) if path.exists() else set()
    for index, name in enumerate(checks):
        if index % shards != number - 1 or name in done:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found = plain(checks[name]())
            except Exception as error:  # an item that cannot be checked is a result too
                found = {"error": f"{type(error).__name__}: {error}"}
        with path.open("a") as file:
            file.write(json.dumps([name, found]) + "\n")


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the items of a file by name."""
    return dict(json.loads(line) for line in path.read_text().splitlines())


def golden(verdict: dict[str, Any]) -> dict[str, Any]:
    """Return the parts that no change may make worse: the class, and who is to blame, where and why."""
    diagnosis = verdict.get("diagnosis", {})
    causes = diagnosis.get("causes", [])
    places = [verdict.get("where"), *(_line(each["where"]) for each in causes)]
    return {
        "status": verdict.get("status", verdict.get("error")),
        "failure": verdict.get("failure"),
        "owner": diagnosis.get("owner"),
        "operator": (diagnosis.get("place") or {}).get("operator"),
        "lines": sorted({_line(place) for place in places if place}),
        "causes": [each["kind"] for each in causes],
        "seconds": verdict.get("seconds", 0.0),
    }


def _line(where: dict[str, Any] | str | None) -> str:
    """Return a source line's text: no file and number, which edits of the table move, and no mark."""
    text = where if isinstance(where, str) else _as_text(where)
    return text.removesuffix("  # here").partition("  ")[2]


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """Yield a line per item and field that differ, of the items that both have."""
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        for key in sorted(old.keys() | new.keys()):
            if key != "seconds" and old.get(key) != new.get(key):
                yield f"{name}  {key}\n    - {old.get(key)}\n    + {new.get(key)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    dumping = commands.add_parser("dump")
    dumping.add_argument("path", type=Path)
    dumping.add_argument("--shard", default="1/1", help="this process's share, as NUMBER/OF")
    dumping.add_argument("--count", type=int, help="check only the first items")
    dumping.add_argument("--only", default="", help="check only the items whose name matches")
    dumping.add_argument(
        "--frozen", action="store_true", help="check only models that a trace freezes"
    )
    dumping.add_argument(
        "--sleep", type=float, default=0.0, help="wait so many seconds before each forward"
    )
    dumping.add_argument(
        "--busy", type=int, default=0, help="let so many processes compute beside the checks"
    )
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--fields", nargs="*", help="compare only these fields of a verdict")
    comparing.add_argument(
        "--golden", action="store_true", help="compare class, owner, operator, lines and causes"
    )
    given = parser.parse_args()
    if given.command == "dump":
        every = items(frozen=given.frozen)
        chosen = [name for name in every if re.search(given.only, name)][: given.count]
        with beside(given.busy), slowed(given.sleep) if given.sleep else nullcontext():
            dump(given.path, {name: every[name] for name in chosen}, given.shard)
        return 0
    before, after = read(given.before), read(given.after)
    if given.golden:
        before, after = (
            {name: golden(verdict) for name, verdict in side.items()} for side in (before, after)
        )
    if given.fields:
        before, after = (
            {name: {key: item.get(key) for key in given.fields} for name, item in side.items()}
            for side in (before, after)
        )
    lines = sorted(differences(before, after))
    print(*lines, sep="\n")
    both = before.keys() & after.keys()
    seconds = [sum(side[name].get("seconds") or 0.0 for name in both) for side in (before, after)]
    print(f"{len(both)} items in both, {len(lines)} differences")
    if all(seconds):
        print(f"{seconds[0]:.0f} s before, {seconds[1]:.0f} s after")
    return bool(lines)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.exit(main())
