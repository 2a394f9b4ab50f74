"""Which module of the package imports which, read from the source."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = "massformer_jax"
COMMANDS = ("__main__", "main", "predict", "evaluate_files", "compare")


def modules() -> dict[str, pathlib.Path]:
    """Returns the files of all modules of the package by their names."""
    # The builder lies at the top of the checkout and is installed inside the package.
    folders = {PACKAGE: ROOT / PACKAGE, f"{PACKAGE}.data_builders": ROOT / "data_builders"}
    found = {}
    for name, folder in folders.items():
        for path in sorted(folder.rglob("*.py")):
            if not path.name.endswith("_test.py"):
                parts = path.relative_to(folder).with_suffix("").parts
                found[".".join((name, *parts)).removesuffix(".__init__")] = path
    return found


def imports_of(name: str, path: pathlib.Path, known: set[str]) -> set[str]:
    """Returns what a module imports, wherever in it: our modules by name, others by package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
    return {target if target in known else target.split(".")[0] for target in found}


def import_graph() -> dict[str, set[str]]:
    """Returns what each module of the package imports, see `imports_of`."""
    files = modules()
    return {name: imports_of(name, path, set(files)) for name, path in files.items()}


def room(module: str) -> str:
    """Returns the room of a module: its folder, `commands`, or `ground`."""
    parts = module.split(".")[1:]
    if not parts or parts[0] in COMMANDS:
        return "commands"
    if parts[0] == "data_builders":
        return "data"
    return parts[0] if (ROOT / PACKAGE / parts[0]).is_dir() else "ground"


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Returns everything that a module imports, directly or through others of the package."""
    seen, waiting = set(), [start]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += graph.get(name, ())
    return seen - {start}
