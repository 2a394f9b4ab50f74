"""The programs that the commands of this package run on a GPU, from the files in configs/."""

import functools
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from massformer_jax import inference, sharding
from massformer_jax.errors import InputError
from massformer_jax.metrics import image_counts
from massformer_jax.models.massformer import STRIDE
from massformer_jax.optim import optimizer
from massformer_jax.precision import computation
from massformer_jax.step import training_step
from massformer_jax.train_state import abstract_state, init_state, model_graph

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"

# A jitted function and its arguments, without values.
Program = tuple[Callable, tuple]


def load_config(name: str) -> Any:
    """The configuration configs/NAME.py.

    Raises:
        InputError: there is no such file.
    """
    path = CONFIGS / f"{name}.py"
    if not path.is_file():
        names = sorted(path.stem for path in CONFIGS.glob("*.py"))
        raise InputError(f"there is no config {name!r}; use {', '.join(names)}")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


class Programs:
    """Makes them for one config, size and mesh; every method returns one or several.

    Args:
        config: of `load_config`.
        size: rows and columns of the images.
        batch: how many there are.
        dtype: that the network computes in.
        mesh: of `sharding.make_mesh`.
    """

    def __init__(self, config: Any, size: tuple[int, int], batch: int, dtype: str, mesh: Mesh):
        computation(dtype)
        self.config, self.size, self.batch = config, size, batch
        self.dtype, self.mesh = dtype, mesh
        self.model = config.model.to_dict()
        self.graph = model_graph(self.model, training=False)
        self.optimizer = optimizer(**config.optimizer, total_steps=config.total_steps)
        self.state = abstract_state(self.model, self.optimizer)
        whole = sharding.replicated(mesh)
        self.weights = _placed((self.state.params, self.state.batch_stats), whole)
        self.photographs = self._photographs(jnp.uint8, *size, 3)

    def _photographs(self, dtype, *shape: int) -> jax.ShapeDtypeStruct:
        split = sharding.photographs_sharded(self.mesh)
        return jax.ShapeDtypeStruct((self.batch, *shape), dtype, sharding=split)

    def inference(self) -> list[Program]:
        """Photographs to labels: `predict`."""
        labels = inference.label_function(self.graph, dtype=self.dtype, mesh=self.mesh)
        function = jax.jit(labels, static_argnums=3)
        return [(function, (*self.weights, self.photographs, self.size))]

    def scores(self) -> list[Program]:
        """Photographs to scores of all classes: `Segmenter.scores`, and every single window."""
        scores = inference.score_function(self.graph, dtype=self.dtype, mesh=self.mesh)
        function = jax.jit(scores, static_argnums=3)
        return [(function, (*self.weights, self.photographs, self.size))]

    def windows(self) -> list[Program]:
        """All that windows and several views are put together with, but for the network itself.

        A window has the size; the photograph is twice as large, and is shown smaller than it is.
        """
        from massformer_jax import protocols  # reads images, so it needs more packages

        shown = tuple(2 * side for side in self.size)
        own = tuple(3 * side for side in self.size)
        k = self.config.model.classes
        images = self._photographs(jnp.uint8, *shown, 3)
        total = self._photographs(jnp.float32, *shown, k)
        scores = self._photographs(jnp.float32, *self.size, k)
        row_weight, column_weight = (jax.ShapeDtypeStruct((x,), jnp.float32) for x in self.size)
        place = jax.ShapeDtypeStruct((), jnp.int32)
        return [
            (protocols._cut, (images, place, place, self.size)),
            (protocols._add_window, (total, scores, row_weight, column_weight, place, place)),
            (protocols._add_probabilities, (total, total, True)),
            (protocols._mirrored, (images,)),
            (protocols._highest, (total,)),
            (protocols._resized, (total, own)),
            (protocols._resized_labels, (total, own)),
        ]

    def evaluation(self) -> list[Program]:
        """Photographs and their labels to labels and counts: `--mode=eval`."""
        from massformer_jax.evaluate import evaluation_step  # likewise

        step = jax.jit(evaluation_step(self.model, self.mesh, dtype=self.dtype))
        labels = self._photographs(jnp.uint8, *self.size)
        return [(step, (*self.weights, self.photographs, labels))]

    def counts(self) -> list[Program]:
        """Two label maps to counts: `evaluate_files`."""
        count = functools.partial(image_counts, num_classes=self.config.model.classes)
        labels = self._photographs(jnp.uint8, *self.size)
        return [(jax.jit(jax.vmap(count)), (labels, labels))]

    def train(self) -> list[Program]:
        """One step of training, parameters split as the config says."""
        sharding.check_batch_size(self.batch, self.mesh)
        if any(side % STRIDE for side in self.size):
            raise InputError(
                f"size is {self.size[0]}x{self.size[1]}; to train, use multiples of {STRIDE}"
            )
        config, shardings = self.config, self._state_shardings()
        step = training_step(
            self.model,
            self.optimizer,
            self.mesh,
            seed=config.seed,
            dtype=self.dtype,
            on_nonfinite=config.on_nonfinite,
            remat=config.remat,
            shardings=shardings,
            **config.loss,
        )
        examples = {
            "image": jax.ShapeDtypeStruct((self.batch, *self.size, 3), jnp.uint8),
            "label": jax.ShapeDtypeStruct((self.batch, *self.size), jnp.uint8),
        }
        state = jax.tree.map(_placed, self.state, shardings)
        return [(step, (state, _placed(examples, sharding.batch_sharded(self.mesh))))]

    def initialization(self) -> list[Program]:
        """The state before the first step."""
        init = functools.partial(init_state, model=self.model, optimizer=self.optimizer)
        key = jax.eval_shape(lambda: jax.random.key(0, impl="unsafe_rbg"))
        return [(jax.jit(init, out_shardings=self._state_shardings()), (key,))]

    def _state_shardings(self):
        specs = sharding.parameter_specs(self.mesh, self.state.params, self.config.shardings)
        return sharding.state_shardings(self.mesh, self.state, specs)


def _placed(tree: Any, where) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)
