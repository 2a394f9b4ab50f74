import jax.numpy as jnp
import numpy as np
import pytest

from massformer_jax.data.edge_maps import AddEdgeMap, edge_map
from massformer_jax.ops import edges


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (9, 1), (40, 60)])
def test_equals_the_edge_map_of_training(shape):
    rng = np.random.default_rng(0)
    labels = np.kron(rng.choice([0, 1, 2, 255], shape), np.ones((3, 3), int)).astype(np.uint8)
    labels = labels[: shape[0] * 2, : shape[1] * 2]
    expected = np.asarray(edges.edge_map(jnp.asarray(labels)[None]))[0]
    np.testing.assert_array_equal(edge_map(labels), expected)
    assert shape == (1, 1) or expected.any()


def test_the_transform_takes_label_maps_as_tfds_delivers_them():
    labels = np.zeros((6, 6, 1), np.uint8)
    labels[:, 3:] = 2
    element = AddEdgeMap().map({"segmentation_mask": labels, "file_name": b"a"})
    assert element["file_name"] == b"a" and element["segmentation_mask"] is labels
    assert element["edge_map"].shape == (6, 6)
    np.testing.assert_array_equal(element["edge_map"][0], [0, 0, 1, 1, 1, 0])
    same = AddEdgeMap("label").map({"label": labels[..., 0]})
    np.testing.assert_array_equal(same["edge_map"], element["edge_map"])
