"""torch_private/: no other file of the package uses names that torch does not document."""

import ast
from pathlib import Path

import pytest_torchexport

ROOT = Path(pytest_torchexport.__file__).parent
ROOM = ROOT / "torch_private"

# What is not torch's: the fields of a namedtuple, and Python's own.
NOT_TORCHS = {"_current_frames", "_exit", "_fields", "_getframe"}


def private_uses(path: Path) -> list[str]:
    """Return the uses of names with one leading underscore that the file does not define itself."""
    tree = ast.parse(path.read_text())
    own: set[str] = set()
    ours: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store()) | ast.Name(id=name, ctx=ast.Store()):
                own.add(name)
            case ast.ImportFrom(module=module) if str(module).startswith("pytest_torchexport"):
                ours.update(alias.asname or alias.name for alias in node.names)
    found = [name for node in ast.walk(tree) for name in _private_names(node, own, ours)]
    return [f"{path.relative_to(ROOT).as_posix()}: {name}" for name in found]


def _private_names(node: ast.AST, own: set[str], ours: set[str]) -> list[str]:
    match node:
        case ast.Attribute(attr=name, value=ast.Name(id=owner)) if owner in {"self", "cls", *ours}:
            names = []
        case ast.Attribute(attr=name):
            names = [name] if name not in own else []
        case ast.Call(
            func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(value=name), *_]
        ):
            names = [str(name)]
        case ast.Import(names=aliases):
            names = [part for alias in aliases for part in alias.name.split(".")]
        case ast.ImportFrom(module=str(module), names=aliases) if module.startswith("torch"):
            names = [*module.split("."), *(alias.name for alias in aliases)]
        case _:
            names = []
    hidden = [name for name in names if name.startswith("_") and not name.startswith("__")]
    return [name for name in hidden if name not in NOT_TORCHS and name != "_thread"]


def test_no_other_file_uses_private_torch():
    found = [
        use
        for path in sorted(ROOT.rglob("*.py"))
        if path.parent != ROOM
        for use in private_uses(path)
    ]
    assert found == []


def test_the_search_for_private_torch_finds_it():
    found = [use for path in ROOM.glob("*.py") for use in private_uses(path)]
    assert {"_schema", "_ops", "_C", "_pytree", "_python_dispatch"} <= {
        use.partition(": ")[2] for use in found
    }
