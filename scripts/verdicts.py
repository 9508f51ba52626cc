"""Write the verdict of every zoo row and every real model on every target to a file; compare two such files.

Run ``dump`` before and after a change that must not alter any verdict, then ``compare``. Items come in an order
that mixes targets and mechanisms, so that ``--count`` takes a fair sample.

    python scripts/verdicts.py dump before.jsonl --shard 1/2 &
    python scripts/verdicts.py dump before.jsonl --shard 2/2
    python scripts/verdicts.py compare before.jsonl after.jsonl
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MAX_EXAMPLES = 20
# What differs between two runs of the same code: time, and numbers that are measured rather than computed.
VOLATILE = ("max_error", "warnings")


def items() -> dict[str, Callable[[], Any]]:
    """Return for each item's name the function that checks it."""
    import torch
    import zoo
    from real.models import MODELS

    from pytest_torchexport import check_export

    def of_zoo(row: Any, target: str) -> Any:
        args, kwargs = row.example()
        options = {"max_examples": MAX_EXAMPLES, **row.options}
        return check_export(row.build(), args, kwargs, target=target, **options)

    def of_real(model: Any, target: str) -> Any:
        module, example = model.build(torch.float32)
        return check_export(module, example, target=target, max_examples=10, **model.options)

    found = {
        f"zoo/{row.name}/{target}": partial(of_zoo, row, target)
        for row in zoo.ZOO
        for target in zoo.TARGETS
    }
    for name, model in MODELS.items():
        for target in ("trace", "script", "export", "onnx"):
            found[f"real/{name}/{target}"] = partial(of_real, model, target)
    return dict(sorted(found.items(), key=lambda item: zlib.crc32(item[0].encode())))


def plain(verdict: Any) -> dict[str, Any]:
    """Return the verdict's data without what varies between runs of the same code."""
    found = {key: value for key, value in verdict.as_dict().items() if key not in VOLATILE}
    return found | {"seconds": round(sum(verdict.seconds.values()), 3)}


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
    places = [verdict.get("where"), *(each["where"] for each in causes)]
    return {
        "status": verdict.get("status", verdict.get("error")),
        "failure": verdict.get("failure"),
        "owner": diagnosis.get("owner"),
        "operator": (diagnosis.get("place") or {}).get("operator"),
        # No file and number, which edits of the zoo move, and no mark.
        "lines": sorted({place["text"].removesuffix("  # here") for place in places if place}),
        "causes": [each["kind"] for each in causes],
        "seconds": verdict.get("seconds", 0.0),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the fields of two verdicts that differ, with both values."""
    for key in sorted(before.keys() | after.keys()):
        if key != "seconds" and before.get(key) != after.get(key):
            yield key, before.get(key), after.get(key)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    dumping = commands.add_parser("dump")
    dumping.add_argument("path", type=Path)
    dumping.add_argument("--shard", default="1/1", help="this process's share, as NUMBER/OF")
    dumping.add_argument("--count", type=int, help="check only the first items")
    dumping.add_argument("--only", default="", help="check only the items whose name matches")
    comparing = commands.add_parser("compare")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--fields", nargs="*", help="compare only these fields of a verdict")
    comparing.add_argument(
        "--golden", action="store_true", help="compare class, owner, operator, lines and causes"
    )
    given = parser.parse_args()
    if given.command == "dump":
        every = items()
        chosen = [name for name in every if re.search(given.only, name)][: given.count]
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
    both = before.keys() & after.keys()
    lines = [
        f"{name}  {key}\n    - {old}\n    + {new}"
        for name in sorted(both)
        for key, old, new in differences(before[name], after[name])
    ]
    print(*lines, sep="\n")
    seconds = [sum(side[name].get("seconds") or 0.0 for name in both) for side in (before, after)]
    print(f"{len(both)} items in both, {len(lines)} differences")
    if all(seconds):
        print(f"{seconds[0]:.0f} s before, {seconds[1]:.0f} s after")
    return bool(lines)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    sys.exit(main())
