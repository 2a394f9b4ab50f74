"""The programs that the commands of this package run on a GPU, from the files in configs/."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from massformer_jax.errors import InputError
from massformer_jax.inference import network
from massformer_jax.metrics.counts import image_counts
from massformer_jax.models.build import is_coordformer, model_graph
from massformer_jax.ops.precision import computation
from massformer_jax.parallel import sharding
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import abstract_state, init_state
from massformer_jax.training.step import training_step
from scripts.benchmark.networks import check_training, training_batch
from scripts.benchmark.values import placed
from tests.helpers import configs

# A jitted function, and its arguments without values.
Program = tuple[Callable, tuple]


def load_config(name: str) -> Any:
    """Returns the configuration of configs/NAME.py, which is one of a MaSSFormer.

    Raises:
        InputError: there is no such file.
    """
    found = {path.stem: configs.load(path) for path in configs.CONFIGS}
    known = [stem for stem, x in found.items() if not is_coordformer(x.architecture.to_dict())]
    if name not in known:
        raise InputError(f"there is no config {name!r} of a MaSSFormer; use {', '.join(known)}")
    return found[name]


class Programs:
    """The programs for one config, size and mesh; every method returns one or several.

    Args:
        config: a configuration from `load_config`.
        size: the numbers of rows and columns of the images.
        batch: the number of images.
        dtype: the dtype in which the network computes.
        mesh: a mesh from `sharding.make_mesh`.
    """

    def __init__(self, config: Any, size: tuple[int, int], batch: int, dtype: str, mesh: Mesh):
        computation(dtype)
        self.config, self.size, self.batch = config, size, batch
        self.dtype, self.mesh = dtype, mesh
        self.architecture = config.architecture.to_dict()
        self.graph = model_graph(self.architecture, training=False)
        self.optimizer = recipe_optimizer(**config.optimizer, total_steps=config.total_steps)
        self.state = abstract_state(self.architecture, self.optimizer)
        self.weights = placed(
            (self.state.params, self.state.batch_stats), sharding.replicated(mesh)
        )
        self.photographs = self._photographs(jnp.uint8, *size, 3)

    def _photographs(self, dtype, *shape: int) -> jax.ShapeDtypeStruct:
        split = sharding.photographs_sharded(self.mesh)
        return jax.ShapeDtypeStruct((self.batch, *shape), dtype, sharding=split)

    def inference(self) -> list[Program]:
        """Returns the program that `predict` runs, from photographs to labels."""
        labels = network.network_labels(self.graph, dtype=self.dtype, mesh=self.mesh)
        function = jax.jit(labels, static_argnums=3)
        return [(function, (*self.weights, self.photographs, self.size))]

    def scores(self) -> list[Program]:
        """Returns the program of `Segmenter.scores` and of windows, from photographs to scores."""
        scores = network.network_scores(self.graph, dtype=self.dtype, mesh=self.mesh)
        function = jax.jit(scores, static_argnums=3)
        return [(function, (*self.weights, self.photographs, self.size))]

    def windows(self) -> list[Program]:
        """Returns the programs that put windows and several views together, without the network.

        A window has `size`. The photograph is shown twice as large as that, which is smaller than
        it is.
        """
        # This import is here because it needs more packages, to read images.
        from massformer_jax.inference import views

        shown = tuple(2 * side for side in self.size)
        own = tuple(3 * side for side in self.size)
        k = self.config.architecture.classes
        images = self._photographs(jnp.uint8, *shown, 3)
        total = self._photographs(jnp.float32, *shown, k)
        scores = self._photographs(jnp.float32, *self.size, k)
        row_weight, column_weight = (jax.ShapeDtypeStruct((x,), jnp.float32) for x in self.size)
        place = jax.ShapeDtypeStruct((), jnp.int32)
        return [
            (views._cut, (images, place, place, self.size)),
            (views._add_window, (total, scores, row_weight, column_weight, place, place)),
            (views._add_probabilities, (total, total, True)),
            (views._mirrored, (images,)),
            (views._highest, (total,)),
            (views._resized, (total, own)),
            (views._resized_labels, (total, own)),
        ]

    def evaluation(self) -> list[Program]:
        """Returns the program of `--mode=eval`: photographs and labels to labels and counts."""
        # This import is here for the same reason.
        from massformer_jax.evaluation.evaluate import evaluation_function

        evaluate = jax.jit(evaluation_function(self.architecture, self.mesh, dtype=self.dtype))
        labels = self._photographs(jnp.uint8, *self.size)
        return [(evaluate, (*self.weights, self.photographs, labels))]

    def counts(self) -> list[Program]:
        """Returns the program that `evaluate_files` runs, from two label maps to counts."""
        count = functools.partial(image_counts, num_classes=self.config.architecture.classes)
        labels = self._photographs(jnp.uint8, *self.size)
        return [(jax.jit(jax.vmap(count)), (labels, labels))]

    def train_remat(self) -> list[Program]:
        """Returns one training step that computes again what it does not keep."""
        return self.train(remat=True)

    def train(self, *, remat: bool = False) -> list[Program]:
        """Returns one training step, with the parameters split as the config says."""
        check_training(self.size, self.batch, self.mesh)
        config, shardings = self.config, self._state_shardings()
        step = training_step(
            self.architecture,
            self.optimizer,
            self.mesh,
            seed=config.seed,
            dtype=self.dtype,
            on_nonfinite=config.on_nonfinite,
            remat=remat,
            shardings=shardings,
            **config.loss,
        )
        state = jax.tree.map(placed, self.state, shardings)
        return [(step, (state, training_batch(self.size, self.batch, self.mesh)))]

    def initialization(self) -> list[Program]:
        """Returns the program that makes the state before the first step."""
        init = functools.partial(
            init_state, architecture=self.architecture, optimizer=self.optimizer
        )
        key = jax.eval_shape(lambda: jax.random.key(0, impl="unsafe_rbg"))
        return [(jax.jit(init, out_shardings=self._state_shardings()), (key,))]

    def _state_shardings(self):
        specs = sharding.parameter_specs(self.mesh, self.state.params, self.config.shardings)
        return sharding.state_shardings(self.mesh, self.state, specs)
