"""The configurations in configs/, read as the command reads them."""

import importlib.util
import pathlib

CONFIGS = sorted((pathlib.Path(__file__).parents[2] / "configs").glob("*.py"))


def load(path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    if config.architecture.classes is None:  # the dataset's, which are MaSS13K's here
        config.architecture.classes = 7
    return config
