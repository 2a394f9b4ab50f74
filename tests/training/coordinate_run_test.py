"""Runs that train CoordFormer: they learn, continue where they were, and begin with an encoder."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from massformer_jax.convert.vit import rules_of
from massformer_jax.errors import InputError
from massformer_jax.models.build import abstract_vit, abstract_weights
from massformer_jax.models.names import to_torch_layout, torch_name, weights_by_path
from massformer_jax.models.weights import load_weights
from massformer_jax.parallel import sharding
from massformer_jax.training import checkpoint, evaluation, loop
from massformer_jax.training.average import begun
from massformer_jax.training.config import coordinate_recipe, released_recipe, validate
from massformer_jax.training.coordinate_losses import coordinate_losses
from massformer_jax.training.initial import read_initial, start
from massformer_jax.training.objective import coordinate_objective
from massformer_jax.training.optimizer import (
    Group,
    learning_rate,
    parameter_groups,
    recipe_optimizer,
)
from massformer_jax.training.state import abstract_state
from massformer_jax.training.step import training_step
from tests.helpers import tiny_coordinates
from tests.helpers.compiling import UNOPTIMIZED
from tests.helpers.stopped import stopped_in
from tests.helpers.tiny_weights import tiny_state, write
from tests.training.loop_test import scalars

TINY = tiny_coordinates.get_config().architecture.to_dict()
LEARNED = {**TINY, "encoder": {**TINY["encoder"], "grid": 3}}  # as DINOv2
DECODER = Group(1.0, True), Group(1.0, False)


@pytest.fixture(scope="module", autouse=True)
def compiled_once():
    """Runs on as many devices share one program of the step; evaluations have one device."""
    devices, steps = {"count": 1}, {}
    make_step, make_mesh = loop.training_step, sharding.make_mesh

    def training_step(*args, **kwargs):
        count = devices["count"]
        if count not in steps:
            steps[count] = _unoptimized(make_step(*args, **kwargs))
        return steps[count]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "training_step", training_step)
        patch.setattr(evaluation, "evaluation_function", _made_once(evaluation.evaluation_function))
        patch.setattr(
            sharding, "make_mesh", lambda found, *axes: make_mesh(found[: devices["count"]], *axes)
        )
        patch.setattr(sharding, "evaluation_mesh", lambda found, axes: make_mesh(found[:1]))
        yield devices


def _made_once(make):
    made = []

    def again(*args, **kwargs):
        if not made:
            made.append(make(*args, **kwargs))
        return made[0]

    return again


def _unoptimized(step):
    compiled = []

    def run(state, batch):
        if not compiled:
            compiled.append(step.lower(state, batch).compile(compiler_options=UNOPTIMIZED))
        return compiled[0](state, batch)

    return run


def short(data_dir):
    config = tiny_coordinates.get_config()
    config.data.data_dir = str(data_dir)
    return config


def last_state(workdir):
    """The newest state, as saved."""
    config = tiny_coordinates.get_config()
    optimizer = recipe_optimizer(**config.optimizer, total_steps=config.total_steps)
    shapes = abstract_state(TINY, optimizer)
    where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    with checkpoint.Checkpoints(workdir, {}, every=1) as checkpoints:
        state = checkpoints.restore(shapes, jax.tree.map(lambda _: where, shapes))
        return jax.tree.map(np.asarray, state)


@pytest.fixture(scope="module")
def undisturbed(data_dir, tmp_path_factory, compiled_once):
    """The workdir of a run from beginning to end."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    loop.train_and_evaluate(short(data_dir), workdir)
    return workdir


@pytest.mark.slow
def test_it_learns_and_is_evaluated(undisturbed):
    losses = scalars(undisturbed)["train/loss"]
    assert losses[6] < 0.9 * losses[1]
    summary = json.loads((undisturbed / "eval" / "metrics.json").read_text())
    assert len(summary["images"]) == 3 and 0 < summary["mIoU"] < 1
    assert summary["provenance"]["architecture"]["encoder"] == TINY["encoder"]
    weights = load_weights(undisturbed, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    assert (weights.step, weights.pictures, weights.architecture) == (6, None, TINY)


@pytest.mark.slow
def test_stopped_and_continued_it_is_the_same(undisturbed, data_dir, tmp_path):
    with stopped_in(3, 6):
        loop.train_and_evaluate(short(data_dir), tmp_path)
    loop.train_and_evaluate(short(data_dir), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, last_state(tmp_path), last_state(undisturbed))


@pytest.mark.slow
def test_a_step_on_two_devices_is_that_of_one(undisturbed, data_dir, compiled_once, monkeypatch):
    """Both halves of a batch are normalised together, and parameters are split."""
    config = short(data_dir)
    optimizer = recipe_optimizer(**config.optimizer, total_steps=config.total_steps)
    batch, trained = next(loop.input_batches(config)), last_state(undisturbed)
    # Without moments, so that those after a step are its gradients.
    first = trained._replace(opt_state=jax.tree.map(np.zeros_like, trained.opt_state))
    found = []
    for count in (1, 2):
        monkeypatch.setitem(compiled_once, "count", count)
        mesh = sharding.make_mesh(jax.devices(), {"fsdp": count})
        specs = sharding.parameter_specs(mesh, first.params, config.shardings)
        where = sharding.state_shardings(mesh, first, specs)
        step = loop.training_step(TINY, optimizer, mesh, seed=0, dtype="float32", shardings=where)
        state, terms = step(jax.device_put(first, where), loop.to_devices(batch, mesh))
        found.append((terms, state.batch_stats, state.opt_state))
    kernel = state.params["decoder"]["hidden"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 2
    one, two = map(jax.tree.leaves, found)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_all_settings_go_together():
    """Traced on two devices, nothing is computed."""
    mesh = sharding.make_mesh(jax.devices())
    optimizer = recipe_optimizer(**tiny_coordinates.get_config().optimizer, total_steps=6)
    settings = {"dtype": "bfloat16", "remat": True, "accumulate": 2, "average": 0.99}
    step = training_step(TINY, optimizer, mesh, seed=0, **settings)
    state = begun(abstract_state(TINY, optimizer))
    with jax.numpy_dtype_promotion("standard"):  # norms are float32
        after, terms = jax.eval_shape(step, state, tiny_batch())
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert all(x.shape == () and x.dtype == jnp.float32 for x in terms.values())


def tiny_batch():
    shapes = {
        "image": ((4, 64, 64, 3), jnp.uint8),
        "patches": ((4, 64, 8, 8, 3), jnp.uint8),
        "places": ((4, 64, 2), jnp.float32),
        "label": ((4, 64), jnp.uint8),
    }
    return {name: jax.ShapeDtypeStruct(*each) for name, each in shapes.items()}


def test_losses_of_parts_add_up_to_those_of_the_batch():
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(4, 50, 7)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 8, (4, 50)), jnp.uint8)
    batch = coordinate_losses(logits, labels)
    images = coordinate_objective().whole({"label": labels})
    parts = [coordinate_losses(logits[i : i + 2], labels[i : i + 2], images) for i in (0, 2)]
    for name, value in batch.items():
        np.testing.assert_allclose(parts[0][name] + parts[1][name], value, rtol=1e-6)


@pytest.mark.parametrize("architecture", [TINY, LEARNED], ids=["rotary", "learned"])
def test_what_decays(architecture):
    """No norm of the encoder is frozen, as those of a ResNet are."""
    groups = parameter_groups(abstract_weights(architecture)[0], encoder_multiplier=0.5)
    assert set(groups.values()) == {Group(0.5, True), Group(0.5, False), *DECODER}
    still = {path for path, group in groups.items() if not group.decays}
    of_block = {f"{name}{i}/{x}" for name in ("norm",) for i in (1, 2) for x in ("bias", "scale")}
    of_block |= {"layer_scale1", "layer_scale2"}
    expected = {f"backbone/layer/{i}/{name}" for i in range(4) for name in of_block}
    expected |= {f"backbone/{name}" for name in ("cls_token", "register_tokens")}
    expected |= {"backbone/position_embeddings"} if architecture is LEARNED else set()
    norms = ("backbone/norm", *(f"decoder/{x}" for x in ("token_norm", "query_norm", "head_norm")))
    expected |= {f"{name}/{x}" for name in (*norms, "decoder/bn") for x in ("bias", "scale")}
    assert still == expected


def test_the_learning_rate_rises_and_falls_along_a_line():
    rates = [float(learning_rate(8.0, 12, warmup_steps=4, schedule="linear")(i)) for i in range(13)]
    np.testing.assert_allclose(rates, [2, 4, 6, 8, 8, 7, 6, 5, 4, 3, 2, 1, 0])


def test_without_a_norm_to_clip_by_nothing_is_clipped():
    params, gradients = {"w": jnp.ones(3)}, {"w": jnp.full(3, 1e-3)}
    first = []
    for clip_norm in (0.0, 1.0):
        optimizer = recipe_optimizer(clip_norm=clip_norm, eps=1.0)
        first.append(optimizer.update(gradients, optimizer.init(params), params)[0]["w"])
    np.testing.assert_allclose(*first, rtol=1e-6)


@functools.cache
def encoder_tensors():
    """Random tensors of the tiny encoder under the names of the Hub, and by our paths."""
    encoder, rng = TINY["encoder"], np.random.default_rng(3)
    ours = {
        path: rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in weights_by_path(abstract_vit(encoder)).items()
    }
    return {
        torch_name(path, rules_of(encoder)): np.ascontiguousarray(to_torch_layout(path, leaf))
        for path, leaf in ours.items()
    }, ours


def zeros(architecture):
    shapes = abstract_state(architecture, recipe_optimizer())
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def test_a_run_starts_from_a_file_of_the_encoder(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors, ours = encoder_tensors()
    safetensors.numpy.save_file(tensors, path)
    initial = read_initial(path, TINY)
    assert initial.message.endswith("all but the encoder is freshly initialised")
    state = start(zeros(TINY), initial)
    for name, leaf in weights_by_path(state.params["backbone"]).items():
        np.testing.assert_array_equal(leaf, ours[name])
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.params["decoder"]))


def test_files_that_are_no_such_encoder_are_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    tensors, _ = encoder_tensors()
    safetensors.numpy.save_file({**tensors, "norm.bias": np.full(16, np.nan, np.float32)}, path)
    with pytest.raises(InputError, match=r"model\.safetensors: .*16 of 16 in norm\.bias"):
        read_initial(path, TINY)
    with pytest.raises(InputError, match=r"model\.safetensors: tensors do not fit"):
        read_initial(path, LEARNED)


@pytest.mark.slow
def test_a_run_starts_from_another_run(undisturbed):
    initial = read_initial(undisturbed, TINY)
    assert initial.message.endswith("nothing is freshly initialised")
    fewer = {**TINY, "classes": 3}
    initial = read_initial(undisturbed, fewer)
    assert (
        "(decoder/classify) is freshly initialised, for 3 classes instead of 7" in initial.message
    )
    state = start(zeros(fewer), initial)
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.params["decoder"]["classify"]))
    saved = last_state(undisturbed)
    for part in ("hidden", "bn"):
        jax.tree.map(
            np.testing.assert_array_equal,
            state.params["decoder"][part],
            saved.params["decoder"][part],
        )
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, saved.batch_stats)
    with pytest.raises(InputError, match=r"has architecture\.encoder\.hidden=32, the config 40;"):
        read_initial(undisturbed, {**TINY, "encoder": {**TINY["encoder"], "hidden": 40}})
    masks = released_recipe().architecture.to_dict()
    with pytest.raises(InputError, match=r"has architecture\.decoder_width=16, the config 128;"):
        read_initial(undisturbed, masks)


ON_MASSFORMER = {
    **TINY,
    "encoder": {"encoder_depth": 18, "decoder_width": 8, "map": "d3"},
    "side": 256,
}


def test_a_run_starts_from_a_massformer(tmp_path):
    """All of its encoder's weights and statistics, or those of the ResNet."""
    path, like = tmp_path / "weights.safetensors", abstract_weights(ON_MASSFORMER)
    resnet = {name: x for name, x in tiny_state().items() if "backbone" in name}
    for tensors, names in ((resnet, {"backbone"}), (tiny_state(), {"backbone", "pixel_decoder"})):
        initial = read_initial(write(path, tensors), ON_MASSFORMER)
        assert initial.message.endswith("all but the encoder is freshly initialised")
        for found, whole in zip(initial[:2], like, strict=True):
            expected = {"backbone": {name: whole["backbone"][name] for name in names}}
            assert shapes(found) == shapes(expected)
    wider = {**ON_MASSFORMER, "encoder": {**ON_MASSFORMER["encoder"], "decoder_width": 16}}
    with pytest.raises(InputError, match=r"has architecture\.encoder\.decoder_width=8, the config"):
        read_initial(path, wider)


def shapes(tree):
    return jax.tree.map(lambda x: x.shape, tree)


def test_parameters_of_a_massformer_are_grouped_as_there():
    """Its ResNet's norms are frozen, those of its pixel decoder are not."""
    params, _ = abstract_weights(ON_MASSFORMER)
    groups = parameter_groups(params, encoder_multiplier=0.5)
    assert groups["backbone/backbone/layer1/0/bn1/scale"] == Group(0.0, False)
    assert groups["backbone/backbone/layer1/0/conv1/kernel"] == Group(0.5, True)
    assert groups["backbone/pixel_decoder/SEB/0/norm/scale"] == Group(0.5, False)
    assert groups["backbone/pixel_decoder/RFB/conv1/kernel"] == Group(0.5, True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frozen_statistics": "encoder"}, "frozen_statistics is 'encoder', and a vision trans"),
        ({"architecture.side": 60}, "architecture.side is 60; it must be a multiple of 16"),
        ({"loss.coordinates": 1}, "loss.coordinates is 1; it must be at least 2"),
        ({"batch_size": 3}, "batch_size is 3, which . devices? cannot share evenly in 2 parts"),
        ({"optimizer.warmup_steps": 6}, "optimizer.warmup_steps is 6; .* less than total_steps, 6"),
        ({"optimizer.schedule": "step"}, "optimizer.schedule is 'step'; use cosine or linear"),
        ({"data.crop_size": 512}, "data.crop_size means nothing for this architecture; start from"),
        ({"loss": {}}, "loss.coordinates is missing; start from training.config.coordinate_recipe"),
    ],
)
def test_impossible_configs_are_refused_in_one_line(change, message):
    config = tiny_coordinates.get_config()
    config.accumulate = 2
    with config.unlocked():
        config.update_from_flattened_dict(change)
        config.loss = change.get("loss", config.loss)
    with pytest.raises(InputError, match=message) as refused:
        validate(config, sharding.make_mesh(jax.devices()))
    assert "\n" not in str(refused.value)


def test_keys_of_the_other_family_are_refused():
    mesh = sharding.make_mesh(jax.devices())
    config = released_recipe()
    config.architecture = coordinate_recipe().architecture
    with pytest.raises(InputError, match=r"eval\.ask is missing; start from"):
        validate(config, mesh)
    config = coordinate_recipe()
    config.architecture = released_recipe().architecture
    with pytest.raises(InputError, match=r"data\.crop_size is missing; .*released_recipe"):
        validate(config, mesh)
    with pytest.raises(InputError, match="no model 'massformer_r50'; use one of coordformer_"):
        coordinate_recipe("massformer_r50")
