"""The floors of the house: who may import whom, and where imports may stand (docs/architecture.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "dinokit"
FLOORS = {
    "errors": 0,
    "backbones": 1,
    "images": 2,
    "data": 3,
    "checkpoints": 4,
    "inference": 5,
    "heads": 6,
    "pretrain": 7,
    "tasks": 7,
    "report": 8,
    "cli": 9,
}
STRANGERS = ({"pretrain", "tasks"},)
EXTRAS = {
    "tifffile",
    "imagecodecs",
    "rasterio",
    "pillow_heif",
    "av",
    "huggingface_hub",
    "openvino",
    "transformers",
    "timm",
    "ray",
    "lancedb",
    "faiss",
    "poselib",
    "cv2",
}
"""Packages of optional extras: they alone may be imported when they are needed."""

Import = tuple[ast.stmt, str]


def imports_of(tree: ast.AST, room: str) -> Iterator[Import]:
    """Every imported module with its statement; relative imports count from `dinokit.room`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = f"dinokit.{room}." if node.level else ""
            if node.module == "dinokit":
                yield from ((node, f"dinokit.{alias.name}") for alias in node.names)
            else:
                yield node, f"{base}{node.module or ''}"


def faults_in(source: str, room: str) -> list[str]:
    """What breaks the rules in a file of `room`: "LINE: what and why"."""
    tree = ast.parse(source)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    faults = []
    for node, module in imports_of(tree, room):
        top, _, rest = module.partition(".")
        if id(node) in inside and room not in ("cli", "__init__") and top not in EXTRAS:
            faults.append(f"{node.lineno}: imports {module} inside a function: move it to the top of the file")
        target = rest.partition(".")[0]
        if top == "dinokit" and room != "__init__" and (fault := _forbidden(room, target)):
            faults.append(f"{node.lineno}: {fault}")
    return faults


def _forbidden(room: str, target: str) -> str:
    if target == room:
        return ""
    if target not in FLOORS:
        return "" if room == "cli" else f"imports the face of the package: import from the room that has {target!r}"
    if any({room, target} <= strangers for strangers in STRANGERS):
        return f"{room} imports {target}: these two never import each other"
    if FLOORS[target] >= FLOORS[room]:
        return f"{room} (floor {FLOORS[room]}) imports {target} (floor {FLOORS[target]}): only floors below"
    return ""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms <= FLOORS.keys(), f"give these a floor: {sorted(rooms - FLOORS.keys())}"


def test_imports_keep_to_the_floors() -> None:
    faults = [
        f"{path.relative_to(PACKAGE.parent)}:{fault}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if room_of(path) != "__main__"
        for fault in faults_in(path.read_text(encoding="utf-8"), room_of(path))
    ]
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize(
    ("room", "line", "fault"),
    [
        ("images", "from dinokit.data.folder import Folder", "only floors below"),
        ("pretrain", "from dinokit.tasks import classify", "never import each other"),
        ("tasks", "import dinokit.pretrain.loop", "never import each other"),
        ("data", "from dinokit import report", "only floors below"),
        ("inference", "from dinokit import load", "the face"),
        ("heads", "def f():\n    import scipy", "inside a function"),
    ],
)
def test_a_broken_rule_is_seen(room: str, line: str, fault: str) -> None:
    assert fault in "".join(faults_in(line, room))


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("pretrain", "from dinokit.heads.knn import knn_accuracy"),
        ("cli", "def verb():\n    import dinokit"),
        ("images", "def read():\n    import pillow_heif"),
        ("checkpoints", "from dinokit.errors import UserError"),
    ],
)
def test_a_kept_rule_is_quiet(room: str, line: str) -> None:
    assert faults_in(line, room) == []
