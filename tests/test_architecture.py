"""Who may import whom, read from the source; and what a command line may load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# The floors of the house, from the ground up. A room imports from lower floors and from itself, never upwards.
FLOORS = (
    {"indexer", "indexer.children", "indexer.cores", "indexer.decompression", "indexer.design", "indexer.disk",
     "indexer.errors", "indexer.jsonable", "indexer.malloc", "indexer.memory", "indexer.redact", "indexer.streams",
     "indexer.types", "probes", "probes.presets", "probes.request"},
    {"indexer.isolation", "indexer.libtorch", "indexer.remote"},
    {"indexer.addresses", "indexer.options", "indexer.output_file", "indexer.progress", "indexer.user_tables",
     "indexer.vectors", "probes.compute"},
    {"indexer.slides"},
    {"indexer.ann", "indexer.archive", "indexer.encoders", "indexer.pixels", "indexer.store", "probes.progress"},
    {"indexer.groups"},
    {"indexer.cli", "indexer.duplicates", "indexer.mapping", "indexer.pack", "indexer.pipeline", "indexer.search",
     "probes.cli", "probes.cohort", "probes.options"},
    {"indexer.__main__", "indexer.doctor", "indexer.upkeep", "probes.__main__", "probes.evaluation"},
    {"indexer.commands", "probes.fitting"},
    {"probes.runs"},
    {"probes.reporting"},
    {"probes.benchmark", "probes.outputs"},
    {"probes.commands"},
    {"indexer.demo", "indexer.serve"},  # applications: they alone may import both packages
)  # fmt: skip
APPLICATIONS = {"indexer.demo", "indexer.serve"}
PROBES_MAY_IMPORT = {  # rooms of indexer
    "addresses", "children", "cores", "design", "disk", "errors", "jsonable", "malloc", "options", "output_file",
    "groups", "progress", "store", "types", "vectors",
}  # fmt: skip
MOST_MODULES = 16  # of one folder

OWNERS = {  # a heavy library has one owner room
    "lancedb": {"store"},
    "lance": {"store"},
    "faiss": {"ann"},
    "rabitqlib": {"ann"},
    "pydicom": {"pixels", "pack", "demo", "doctor"},
    "open_clip": {"encoders"},
    "timm": {"encoders"},
    "openvino": {"encoders"},
    "torchcodec": {"pixels"},
    "openslide": {"slides"},
    "h5py": {"slides"},
    "webdataset": {"addresses"},
    "obstore": {"remote"},
    "fastapi": {"serve"},
    "uvicorn": {"serve"},
    "click": {"options", "cli", "commands", "demo", "serve"},
}
PROBES_NEVER = {"torch", "torchvision", "open_clip", "webdataset", "timm", "faiss", "lancedb", "lance"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for package in ("indexer", "probes") for path in modules(package)}


def imports(path: Path) -> set[str]:
    """The dotted names that a module imports, at its top or inside a function; not those for type checkers alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
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


def circle(edges: Mapping[str, set[str]]) -> list[str]:
    """The modules of one circle of imports, the first again at the end; empty where there is none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def test_no_circle_of_modules_imports_itself():
    edges = {module: imports(path) & MODULES.keys() - {module} for module, path in MODULES.items()}
    assert circle(edges) == []
    importer = next(module for module in edges if edges[module])  # and the search would see one:
    assert importer in circle(edges | {imported: {importer} for imported in edges[importer]})
    assert sorted(circle({"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": {"b"}})[1:]) == ["b", "c", "d"]


def test_no_folder_is_crowded():
    counts = Counter(path.parent.relative_to(ROOT) for path in MODULES.values())
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


# Exceptions that no user sees: each is caught by the code beside it.
# ends the threads of a run; a remote file that changed while it was read; a server that sends next to nothing
INTERNAL = {"StopRun", "ChangedFile", "SlowServer"}
FOREIGN = {  # raised for a caller of ours that turns them into one of the tree, or for the interpreter
    "ValueError", "TypeError",  # a file of ours that does not hold what it should; a caller's mistake
    "RuntimeError",  # a method called out of turn: a mistake in this code
    "EOFError", "OSError",  # as the library does whose stream or session is stood in for
    "KeyboardInterrupt",  # Ctrl-C that a library told as an error of its own
    "StopIteration",  # scipy's way to be stopped
    "ModuleNotFoundError",  # for pyarrow, which then does without the module
    "torch.OutOfMemoryError",  # what the driver says in other words
    "click.BadParameter", "click.UsageError",  # wrong usage: exit code 2
}  # fmt: skip


def drawn_tree() -> dict[str, str]:
    """Class → its parent, as the docstring of errors.py draws them."""
    import indexer.errors as errors

    parents, above = {}, ["Exception"]
    for line in (errors.__doc__ or "").splitlines():
        drawn = re.match(r"((?:[│ ] {3})*(?:[├└]── )|(?=IndexerError))([A-Z]\w+)", line)
        if drawn:
            depth = len(drawn[1]) // 4
            del above[depth + 1 :]
            parents[drawn[2]] = above[depth]
            above.append(drawn[2])
    return parents


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Every node of that kind in both packages, with the path of its module."""
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kind):
                yield str(path.relative_to(ROOT)), node


def test_every_exception_class_of_the_tree_is_drawn_below_its_parent():
    drawn = drawn_tree()
    ends = (*drawn, "Exception", "Error", "Interrupt", "Exit", "Warning")
    found = {
        node.name: ast.unparse(base).rpartition(".")[2]
        for _, node in nodes(ast.ClassDef)
        for base in node.bases
        if ast.unparse(base).endswith(ends)
    }
    assert {name: parent for name, parent in found.items() if name not in INTERNAL} == drawn
    assert len(drawn) > 20


def test_everything_raised_is_of_the_tree_or_of_a_kind_that_a_caller_turns_into_it():
    allowed = drawn_tree().keys() | INTERNAL | FOREIGN
    makers: dict[str, dict[str, str]] = {}  # functions that make an exception: name → module → what they return
    for path, node in nodes(ast.FunctionDef):
        makers.setdefault(node.name, {})[path] = ast.unparse(node.returns) if node.returns else ""
    sources = {
        (path, alias.asname or alias.name): str(MODULES[node.module].relative_to(ROOT))
        for path, node in nodes(ast.ImportFrom)
        if node.module in MODULES
        for alias in node.names
    }
    wrong = []
    for path, node in nodes(ast.Raise):
        if not isinstance(node.exc, ast.Call):  # a class by its name, or one that was caught and is raised again
            raised = ast.unparse(node.exc) if node.exc else ""
            again = not raised.rpartition(".")[2][:1].isupper()
        else:
            raised, again = ast.unparse(node.exc.func), False
            named = makers.get(raised.rpartition(".")[2], {})
            home = sources.get((path, raised), path)  # where the function is defined that makes it
            raised = named.get(home) or " | ".join(sorted(set(named.values()))) or raised
        if not again and not set(raised.split(" | ")) <= allowed:
            wrong.append(f"{path}:{node.lineno} raises {raised}")
    assert wrong == []
