"""Checks an installed massformer_jax against its checkout: `python -I check_install.py CHECKOUT`.

Every module of the checkout must be importable from site-packages with the declared dependencies
alone, and the configurations must be there with the text they have in the checkout.
"""

import importlib
import sys
from importlib.metadata import files
from importlib.resources import files as package_files
from pathlib import Path


def main(checkout: Path) -> None:
    sources = [
        path
        for top in ("massformer_jax", "data_builders")
        for path in (checkout / top).rglob("*.py")
        if not path.name.endswith("_test.py")
    ]
    for path in sorted(sources):
        module = ".".join(path.relative_to(checkout).with_suffix("").parts)
        loaded = importlib.import_module(module.removesuffix(".__init__"))
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
    print(f"{len(sources)} modules and {len(configs)} configurations are installed")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
