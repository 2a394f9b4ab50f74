"""Checks an installed massformer_jax against its checkout.

    python -I CHECKOUT/scripts/ci/check_install.py CHECKOUT

Every module of the checkout must be importable from site-packages with the declared dependencies
alone, but for those of `OF_EXTRAS`. The configurations must be installed, with the same text as in
the checkout.
"""

import importlib
import sys
from importlib.metadata import files
from importlib.resources import files as package_files
from pathlib import Path

# Modules that only run with a library of an extra, which their commands ask for before they load
# them: these, and those inside of them.
OF_EXTRAS = {"massformer_jax.export.onnx": "onnx", "massformer_jax.export.onnx_model": "onnx"}


def main(checkout: Path) -> None:
    """Runs the checks, and ends with one line that says what is wrong, if anything is."""
    modules = _modules(checkout, "massformer_jax")
    # The wheel carries the builder of the dataset inside the package.
    modules += [f"massformer_jax.{name}" for name in _modules(checkout, "data_builders")]
    for module in modules:
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name not in {OF_EXTRAS.get(module), OF_EXTRAS.get(module.rpartition(".")[0])}:
                raise
            continue
        if Path(loaded.__file__).is_relative_to(checkout):
            sys.exit(f"error: {module} comes from the checkout: run this outside of it with -I")

    configs = sorted((checkout / "configs").glob("*.py"))
    for path in configs:
        installed = package_files("massformer_jax.configs") / path.name
        if not installed.is_file() or installed.read_text() != path.read_text():
            sys.exit(f"error: configs/{path.name} is not in the installed package as it is here")

    names = {path.name for path in files("massformer-jax") or ()}
    style = {path.name for path in (checkout / "massformer_jax/report").glob("*.[cj]s*")}
    missing = {"LICENSE", "NOTICE", *style} - names
    if missing:
        sys.exit(f"error: the installed package lacks {', '.join(sorted(missing))}")
    print(f"{len(modules)} modules and {len(configs)} configurations are installed")


def _modules(checkout: Path, top: str) -> list[str]:
    """Returns the names of the modules in a folder of the checkout, without tests."""
    paths = (path.relative_to(checkout) for path in sorted((checkout / top).rglob("*.py")))
    names = (".".join(path.with_suffix("").parts) for path in paths)
    return [name.removesuffix(".__init__") for name in names if not name.endswith("_test")]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
