"""Readers of files that are read as parts of a folder: records of a dataset, checkpoints."""

import pathlib
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from scripts.soak.readers import Reader, Wrong
from tests.helpers import tiny_config
from tests.helpers.broken_releases import RELEASE


class Records(Reader):
    """The files of a dataset: records have checksums, so photographs are those of the release."""

    def sound(self) -> dict[str, bytes]:
        from massformer_jax.data.package import build

        version = pathlib.Path(build(RELEASE, self.folder / "data").data_dir)
        files = {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(version.glob("*.*"))  # so that a finding can be repeated elsewhere
        }
        self.expected = self._examples()
        # What only the command that built it reads.
        return {name: data for name, data in files.items() if "build_report" not in name}

    def read(self, name: str) -> None:
        examples = self._examples()
        if examples.keys() != self.expected.keys():
            raise Wrong("other photographs than those of the release")
        for key, arrays in examples.items():
            for array, sound in zip(arrays, self.expected[key], strict=True):
                if not np.array_equal(array, sound):
                    raise Wrong(f"other pixels of {key} than the release has")

    def _examples(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        from massformer_jax.data.pipeline import eval_examples

        found = {}
        for split in ("train", "validation"):
            for one in eval_examples(self.folder / "data", split=split, num_threads=1):
                found[one["file_name"]] = (np.array(one["image"]), np.array(one["label"]))
        return found


class Checkpoints(Reader):
    """The files of a run's states, of its best weights, and of converted weights."""

    steps = (2, 4)

    def sound(self) -> dict[str, bytes]:
        from massformer_jax.models.weights import Weights, save_weights
        from massformer_jax.training import checkpoint
        from massformer_jax.training.state import TrainState

        self.architecture = tiny_config.get_config().architecture.to_dict()
        self.expected = {step: _tree(step) for step in (*self.steps, 7)}
        run = self.folder / "run"
        with checkpoint.Checkpoints(run, self.architecture, every=1) as checkpoints:
            for step in self.steps:
                params, batch_stats = self.expected[step]
                optimizer = jax.tree.map(jnp.zeros_like, params)
                state = TrainState(jnp.int32(step), params, batch_stats, optimizer, jnp.int32(0))
                checkpoints.save(state)
                checkpoints.save_best(state, step / 10)
        names = tuple(f"class {i}" for i in range(7))
        save_weights(
            self.folder / "converted", Weights(7, self.architecture, names, *self.expected[7])
        )
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }

    def read(self, name: str) -> None:
        whole = name.split("/")[0]
        if "/checkpoints/" in name:
            # Of the best weights nothing is altered, so only the training looks at the states.
            self._continue()
        else:
            self._compare(*self._weights(whole))

    def restore(self, name: str) -> None:
        """Puts the sound file back, and folders that were set aside as damaged."""
        for aside in self.folder.rglob("*.damaged*"):
            shutil.rmtree(aside)
        for other, data in self.files.items():
            if other == name or not (self.folder / other).exists():
                self.write(other, data)

    def _weights(self, folder: str) -> tuple[int, dict, dict]:
        from massformer_jax.models import weights

        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        params, batch_stats = _shapes()
        like = {"params": params, "batch_stats": batch_stats}
        with mock.patch.object(weights, "_abstract", lambda _: dict(like)):
            found = weights.load_weights(self.folder / folder, device, say=lambda _: None)
        return found.step, found.params, found.batch_stats

    def _continue(self) -> None:
        """Restores the state that a run would continue from."""
        from massformer_jax.training import checkpoint
        from massformer_jax.training.state import TrainState

        params, batch_stats = _shapes()
        number = jax.ShapeDtypeStruct((), jnp.int32)
        shapes = TrainState(number, params, batch_stats, params, number)
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: device, shapes)
        run = self.folder / "run"
        with (
            mock.patch.object(checkpoint, "say", lambda _: None),
            checkpoint.Checkpoints(run, self.architecture, every=1) as checkpoints,
        ):
            state = checkpoints.restore(shapes, shardings)
        if state is None:
            raise Wrong("a run that has states begins anew")
        self._compare(int(state.step), state.params, state.batch_stats)

    def _compare(self, step: int, params: dict, batch_stats: dict) -> None:
        if step not in self.expected:
            raise Wrong(f"a state of step {step}, which there never was")
        found = jax.tree.leaves((params, batch_stats))
        for array, sound in zip(found, jax.tree.leaves(self.expected[step]), strict=True):
            if not np.array_equal(array, sound):
                raise Wrong(f"other numbers than step {step} had")


def _tree(step: int) -> tuple[dict, dict]:
    """Returns parameters and statistics that are those of one step only."""
    rng = np.random.default_rng(step)
    params = {"a": {"kernel": rng.random((40, 30), np.float32)}, "b": rng.random(5, np.float32)}
    return jax.tree.map(jnp.asarray, (params, {"a": {"mean": rng.random(30, np.float32)}}))


def _shapes() -> tuple[dict, dict]:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), _tree(0))
