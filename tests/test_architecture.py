"""Who may import whom, read from the source; and what a command line may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The floors of the house, from the ground up. A room imports from lower floors and from itself, never upwards.
FLOORS = (
    {"indexer", "indexer.column_types", "indexer.cores", "indexer.disk", "indexer.errors", "indexer.malloc",
     "indexer.redact", "indexer.types", "probes", "probes.presets", "probes.progress", "probes.request"},
    {"indexer.addresses", "indexer.options", "indexer.vectors", "probes.compute"},
    {"indexer.ann", "indexer.archive", "indexer.cli", "indexer.encoders", "indexer.pixels", "indexer.store"},
    {"indexer.duplicates", "indexer.pack", "indexer.pipeline", "indexer.search", "probes.cli",
     "probes.cohort", "probes.options"},
    {"indexer.__main__", "indexer.doctor", "indexer.health", "probes.__main__", "probes.evaluation"},
    {"indexer.commands", "probes.fitting"},
    {"probes.runs"},
    {"probes.reporting"},
    {"probes.outputs"},
    {"probes.commands"},
    {"indexer.demo"},  # applications: they alone may import both packages
)  # fmt: skip
APPLICATIONS = {"indexer.demo"}
PROBES_MAY_IMPORT = {"cores", "disk", "errors", "malloc", "options", "store", "types", "vectors"}  # rooms of indexer
MOST_MODULES = 16  # of one folder

OWNERS = {  # a heavy library has one owner room
    "lancedb": {"store"},
    "lance": {"store"},
    "faiss": {"ann"},
    "pydicom": {"pixels", "pack", "demo", "doctor"},
    "open_clip": {"encoders"},
    "timm": {"encoders"},
    "openvino": {"encoders"},
    "torchcodec": {"pixels"},
    "webdataset": {"addresses"},
    "click": {"options", "cli", "commands", "demo"},
}
PROBES_NEVER = {"torch", "torchvision", "open_clip", "webdataset", "timm", "faiss", "lancedb", "lance"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for package in ("indexer", "probes") for path in modules(package)}


def imports(path: Path) -> set[str]:
    """The dotted names that a module imports, at its top or inside a function; not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names.update(inner & MODULES.keys())
            if not inner <= MODULES.keys():
                names.add(node.module)
    return names


def room(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2])


def owner(path: Path, package: str) -> str:
    return path.relative_to(ROOT / package).parts[0].removesuffix(".py")


def test_no_module_imports_from_its_own_floor_or_upwards():
    level = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    wrong = []
    for module, path in MODULES.items():
        own = room(module)
        for name in imports(path):
            other = room(name)
            if name.split(".")[0] not in ("indexer", "probes") or other == own:
                continue
            if level[other] >= level[own]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            if own.startswith("indexer") and other.startswith("probes") and own not in APPLICATIONS:
                wrong.append(f"{path.relative_to(ROOT)}: indexer never imports probes")
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_modules_imports_itself():
    edges = {module: imports(path) & MODULES.keys() - {module} for module, path in MODULES.items()}
    done: set[str] = set()
    while ready := [module for module in edges if module not in done and edges[module] <= done]:
        done.update(ready)
    assert not edges.keys() - done, f"circles among: {sorted(edges.keys() - done)}"


def test_no_folder_is_crowded():
    counts = Counter(path.parent.relative_to(ROOT) for path in MODULES.values() if path.name != "__init__.py")
    assert {str(folder): n for folder, n in counts.items() if n > MOST_MODULES} == {}


def test_each_heavy_library_is_imported_by_its_owner_alone():
    wrong = []
    for path in modules("indexer"):
        for name in imports(path):
            owners = OWNERS.get(name.split(".")[0])
            if owners is not None and owner(path, "indexer") not in owners:
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
