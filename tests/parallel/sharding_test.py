"""Tests of meshes and placements: what a config may ask for, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from massformer_jax.errors import InputError
from massformer_jax.parallel import sharding
from massformer_jax.training.checkpoint import Checkpoints
from massformer_jax.training.initial import Initial, start
from massformer_jax.training.optimizer import recipe_optimizer
from massformer_jax.training.state import TrainState, abstract_state
from massformer_jax.training.workdir import claim
from tests.helpers import tiny_config

CONFIG = tiny_config.get_config()
OPTIMIZER = recipe_optimizer(**CONFIG.optimizer, total_steps=1)


def mesh_of(**axes):
    return sharding.make_mesh(jax.devices(), axes)


@pytest.fixture(scope="module")
def shapes():
    return abstract_state(CONFIG.architecture.to_dict(), OPTIMIZER)


@pytest.mark.parametrize(
    ("axes", "sizes"),
    [
        (None, (8, 1, 1)),
        ({}, (8, 1, 1)),
        ({"data": -1, "fsdp": 2}, (4, 2, 1)),
        ({"data": 1, "fsdp": -1, "spatial": 4}, (1, 2, 4)),
        ({"data": 2, "fsdp": 2, "spatial": 2}, (2, 2, 2)),
    ],
)
def test_mesh(axes, sizes):
    mesh = sharding.make_mesh(jax.devices(), axes)
    assert tuple(mesh.shape.values()) == sizes
    assert mesh.axis_names == ("data", "fsdp", "spatial")
    assert sharding.photographs_at_once(mesh) == sizes[0] * sizes[1]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"data": 3}, r"mesh data=3, .* on 8 devices.*1, 2, 4, 8"),
        ({"data": -1, "fsdp": 3}, r"must multiply to 8"),
        ({"data": 4}, r"must multiply to 8"),
        ({"data": -1, "fsdp": -1}, r"mesh.data and mesh.fsdp are -1"),
        ({"data": 0}, r"mesh.data is 0; use a positive number"),
        ({"data": -1, "spatial": 3}, r"mesh.spatial is 3; rows can be split by 1, 2, 4, 8"),
        ({"model": 8}, r"mesh.model: there is no such axis; use data, fsdp, spatial"),
    ],
)
def test_impossible_meshes(axes, message):
    with pytest.raises(InputError, match=message):
        sharding.make_mesh(jax.devices(), axes)


def test_too_many_parts_of_the_rows():
    with pytest.raises(InputError, match=r"mesh\.spatial=-1 is 6 on 6 devices"):
        sharding.make_mesh(jax.devices()[:6], {"spatial": -1})


def test_the_batch_is_split_over_every_axis():
    batch = jnp.arange(16.0).reshape(16, 1)
    placed = jax.device_put(batch, sharding.batch_sharded(mesh_of(data=2, fsdp=2, spatial=2)))
    assert sorted(float(shard.data[0, 0]) for shard in placed.addressable_shards) == list(
        range(0, 16, 2)
    )
    with pytest.raises(InputError, match=r"batch_size is 12, which 8 devices.*use 8 or 16"):
        sharding.check_batch_size(12, mesh_of(data=2, fsdp=2, spatial=2))


def test_the_first_rule_that_matches_places_a_parameter():
    params = {"a": {"kernel": np.zeros((3, 16, 8)), "bias": np.zeros(8)}, "b": np.zeros((3, 5))}
    rules = ((r"bias$", ()), (r"^a/", "fsdp"), (r"kernel", ()), (r"^b", (None, "data")))
    specs = sharding.parameter_specs(mesh_of(data=1, fsdp=8), params, rules)
    assert specs == {
        "a/bias": PartitionSpec(),
        "a/kernel": PartitionSpec(None, "fsdp"),
        "b": PartitionSpec(None, "data"),
    }
    # What no rule matches, and what no dimension of which divides, stays whole.
    assert sharding.parameter_specs(mesh_of(fsdp=8), {"c": np.zeros(8)}, rules) == {
        "c": PartitionSpec()
    }
    assert sharding.parameter_specs(mesh_of(fsdp=8), {"a": {"x": np.zeros((3, 5))}}, rules) == {
        "a/x": PartitionSpec()
    }


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ((r"", "model"), r"'model' is no axis of the mesh; use data, fsdp, spatial"),
        ((r"(", "fsdp"), r"'\(' is no regular expression"),
        ((r"", ("fsdp", None)), r"kernel \[12, 6\] cannot be split by fsdp=8; 1, 2, 3, 4, 6, 12"),
        ((r"", (None, None, "fsdp")), r"kernel has 2 dimensions, its rule 3"),
    ],
)
def test_impossible_rules(rule, message):
    with pytest.raises(InputError, match=message):
        sharding.parameter_specs(mesh_of(fsdp=8), {"kernel": np.zeros((12, 6))}, [rule])


def test_moments_lie_where_their_parameter_does(shapes):
    mesh = mesh_of(data=4, fsdp=2)
    specs = sharding.parameter_specs(mesh, shapes.params, CONFIG.shardings)
    placed = sharding.state_shardings(mesh, shapes, specs)
    assert jax.tree.structure(placed) == jax.tree.structure(shapes)
    spec = lambda tree: jax.tree.map(lambda where: where.spec, tree)  # noqa: E731
    adam = placed.opt_state[1]
    assert spec(adam.mu) == spec(adam.nu) == spec(placed.params)
    assert {where.spec for where in jax.tree.leaves(placed.batch_stats)} == {PartitionSpec()}
    assert placed.step.spec == adam.count.spec == PartitionSpec()
    split = [where for where in jax.tree.leaves(placed.params) if any(where.spec)]
    assert len(split) > 50

    summary, lines = sharding.describe(mesh, shapes, specs)
    assert f"data 4 x fsdp 2 x spatial 1; {len(split)} parameters split" in summary
    assert lines.count("\n") == len(jax.tree.leaves(shapes.params))
    assert "backbone/conv1/kernel [7, 7, 3, 64] None, None, None, fsdp\n" in lines
    assert "backbone/bn1/bias [64] replicated\n" in lines
    replicated, _ = sharding.describe(mesh, shapes, dict.fromkeys(specs, PartitionSpec()))
    megabytes = lambda text: float(text.split("takes ")[1].split(" MB")[0])  # noqa: E731
    assert 0.5 < megabytes(summary) / megabytes(replicated) < 0.52
    every_byte = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes))
    assert megabytes(replicated) == pytest.approx(every_byte / 1e6, abs=0.1)


def small_state(value, where):
    params = {"kernel": jnp.full((8, 4), value), "bias": jnp.full(3, value)}
    state = TrainState(
        jnp.int32(0), params, {"mean": jnp.zeros(2)}, OPTIMIZER.init(params), jnp.int32(0)
    )
    return jax.device_put(state, where(state)) if where else state


def places(axes):
    mesh = mesh_of(**axes)

    def where(state):
        specs = sharding.parameter_specs(mesh, state.params, CONFIG.shardings)
        return sharding.state_shardings(mesh, state, specs)

    return where


def test_a_checkpoint_is_restored_onto_another_mesh(tmp_path):
    before, after = places({"fsdp": 8}), places({"data": 2, "fsdp": 4})
    state = small_state(2.5, before)
    assert state.params["kernel"].sharding.spec == PartitionSpec("fsdp")
    with Checkpoints(tmp_path, {"classes": 7}, every=1) as checkpoints:
        checkpoints.save(state)
    with Checkpoints(tmp_path, {"classes": 7}, every=1) as checkpoints:
        restored = checkpoints.restore(state, after(state))
    assert jax.tree.map(lambda x: x.sharding, restored) == after(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert restored.params["kernel"].addressable_shards[0].data.shape == (2, 4)


def test_initial_weights_are_placed_as_the_state_is():
    where = places({"fsdp": 8})
    state = small_state(0.0, where)
    initial = Initial({"kernel": np.ones((8, 4), np.float32)}, {}, "")
    started = start(state, initial)
    assert jax.tree.map(lambda x: x.sharding, started) == where(state)
    assert float(started.params["kernel"].sum()) == 32 and float(started.params["bias"].sum()) == 0


def test_a_run_may_continue_on_another_mesh(tmp_path):
    claim(tmp_path, CONFIG, write=True)
    other = CONFIG.copy_and_resolve_references()
    other.mesh.fsdp = 2
    other.shardings = ((r"", ()),)
    claim(tmp_path, other, write=True)
    other.seed = 1
    with pytest.raises(InputError, match="seed is 0 there and 1 here"):
        claim(tmp_path, other, write=True)
