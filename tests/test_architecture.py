"""Who may import whom, read from the source; and what a command line may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# room → the rooms of indexer it may import from (itself always)
MAY_IMPORT = {
    "errors": set(),
    "types": set(),
    "column_types": set(),
    "redact": set(),
    "options": {"errors", "redact"},
    "shards": {"errors", "types", "redact"},
    "store": {"errors", "types", "column_types", "redact"},
    "ann": {"errors", "types", "store"},
    "encoders": {"errors", "types"},
    "pixels": {"errors", "types"},
    "reader": {"errors", "types", "shards"},
    "pack": {"errors", "types", "column_types", "shards", "reader", "pixels"},
    "pipeline": {"errors", "types", "redact", "shards", "reader", "pixels", "encoders", "store"},
    "search": {"errors", "types", "reader", "encoders", "pixels", "store", "ann"},
    "near_duplicates": {"errors", "types", "store", "ann", "search"},
    "health": {"errors", "types", "store", "ann", "search"},
    "cli": {"options"},
    "commands": {
        "errors", "types", "options", "shards", "reader", "pixels", "encoders", "store", "ann", "search", "pack",
        "pipeline", "near_duplicates", "health", "doctor",
    },
    "doctor": {"errors", "types", "shards", "reader", "pixels", "encoders", "store", "pipeline"},
    "demo": {"errors", "types", "options", "reader", "pixels", "store"},
    "__main__": {"cli"},
    "__init__": set(),
}  # fmt: skip

OWNERS = {  # a heavy library has one owner room
    "lancedb": {"store"},
    "lance": {"store"},
    "faiss": {"ann"},
    "pydicom": {"pixels", "pack", "demo", "doctor"},
    "open_clip": {"encoders"},
    "timm": {"encoders"},
    "openvino": {"encoders"},
    "torchcodec": {"pipeline"},
    "webdataset": {"reader"},
    "click": {"options", "cli", "commands", "demo"},
}
PROBES_MAY_IMPORT = {"store", "types", "errors", "options"}
PROBES_NEVER = {"torch", "torchvision", "open_clip", "webdataset", "timm", "faiss", "lancedb", "lance"}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            if node.module in ("indexer", "probes"):
                names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def room(path: Path, package: str) -> str:
    first = path.relative_to(ROOT / package).parts[0]
    return first.removesuffix(".py")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def test_each_room_of_indexer_imports_only_its_neighbours():
    wrong = []
    for path in modules("indexer"):
        own = room(path, "indexer")
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "probes":
                wrong.append(f"{path.name}: indexer never imports probes")
            if parts[0] == "indexer" and len(parts) > 1 and parts[1] != own and parts[1] not in MAY_IMPORT[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_each_heavy_library_is_imported_by_its_owner_alone():
    wrong = []
    for path in modules("indexer"):
        for name in imports(path):
            owners = OWNERS.get(name.split(".")[0])
            if owners is not None and room(path, "indexer") not in owners:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_probes_import_only_the_store_side_of_indexer_and_no_network_library():
    wrong = []
    for path in modules("probes"):
        for name in imports(path):
            parts = name.split(".")
            stranger = parts[0] == "indexer" and len(parts) > 1 and parts[1] not in PROBES_MAY_IMPORT
            if stranger or parts[0] in PROBES_NEVER:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("program", ["indexer", "probes"])
def test_asking_for_help_loads_no_heavy_library(program):
    heavy = ["torch", "lancedb", "lance", "faiss", "sklearn", "numpy", "pyarrow", "pydicom", "rich"]
    code = (
        f"import sys; sys.argv = ['{program}', '-h']\n"
        f"from {program}.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "Commands" in done.stdout


def test_every_raised_error_class_stands_in_the_drawn_tree():
    import indexer.errors as errors

    tree = errors.__doc__ or ""
    classes = [n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, Exception)]
    assert [name for name in classes if name not in tree] == []
