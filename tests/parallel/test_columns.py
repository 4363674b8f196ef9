"""The split network computes the same on every mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from on_mesh import MESHES, apart, follow, initial, small, some
from x64 import enable_x64

from alexnet_jax import configs, train
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.steps import state
from alexnet_jax.steps.setup import Setup
from alexnet_jax.steps.stored_form import StoredForm
from alexnet_jax.training import checkpoint

VARIANTS = {
    "one column, in parts": {"model__columns": 1, "optimizer__accumulate_steps": 2},
    "windows across columns": {
        "model__lrn__across_columns": True,
        "model__layer1": "relu pool norm",
        "optimizer__kind": "lars",
    },
    "batch normalisation": {
        "model__normalisation": "batch",
        "model__layer3": "relu norm",
        "model__without": ("conv4",),
    },
    "run 150, spatial norm": {
        "model__columns_meet": False,
        "model__fc7_units": 2048,
        "model__spatial_norm2": True,
    },
}


@pytest.fixture(scope="module")
def alone():
    """The same updates on one device, float64, for each variant."""
    known: dict = {}

    def run(name: str) -> tuple[list[float], dict]:
        if name not in known:
            with enable_x64(True):
                known[name] = follow(small((1, 1), precision="float64", **VARIANTS[name]), 3)
        return known[name]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "zero"),
    [
        pytest.param(
            name,
            (2, 4),
            name == "windows across columns",
            marks=[pytest.mark.exhaustive] if name == "one column, in parts" else [],
        )
        for name in VARIANTS
    ],
)
def test_a_mesh_does_not_change_the_updates(alone, name, shape, zero):
    """Parameters and velocity after a step are sums of gradients: equal sums, equal gradients."""
    fields = VARIANTS[name] | {"mesh__zero": zero}
    with enable_x64(True):
        losses, leaves = follow(small(shape, precision="float64", **fields), 3)
    wanted, reference = alone(name)
    np.testing.assert_allclose(losses, wanted, rtol=1e-10)
    for path, leaf in leaves.items():
        assert apart(reference[path], leaf) < 1e-10, path


@pytest.fixture(scope="module")
def thirty() -> tuple[list[float], dict]:
    with enable_x64(True):
        return follow(small((1, 1), precision="float64", model__width=0.25), 30)


@pytest.mark.slow
@pytest.mark.parametrize("shape", some([*MESHES[1:], (4, 1)], (2, 4)))
def test_thirty_updates_with_dropout_are_the_same(thirty, shape):
    with enable_x64(True):
        losses, leaves = follow(small(shape, precision="float64", model__width=0.25), 30)
    wanted, reference = thirty
    np.testing.assert_allclose(losses, wanted, rtol=1e-9)
    for path, leaf in leaves.items():
        assert apart(reference[path], leaf) < 1e-9, path


@pytest.mark.parametrize(
    ("shape", "fields", "message"),
    [
        ((1, 3), {}, "mesh.model: 3 devices cannot share 2 columns equally; use 2 or 4"),
        (
            (16, 1),
            {},
            "mesh: 16 x 1 devices are asked for, there are 8; mesh.data can be at most 8",
        ),
        ((-1, 16), {"model__width": 1.0}, "mesh.model: 16 devices are asked for, there are 8"),
        ((-1, 6), {"model__width": 0.75}, "mesh.model: 6 does not divide 8 devices"),
        (
            (4, 2),
            {"batch_size": 6},
            "batch_size: 6 does not divide over 4 devices that share the images; use 4 or 8",
        ),
        ((1, 8), {"model__width": 1 / 16}, "mesh.model: 8 devices cannot share the 6 channels of"),
        ((1, 4), {"model__lrn__size": 9, "model__lrn__across_columns": True}, "reads 4 from a"),
        ((1, 2), {"mesh__scheme": "hybird"}, "mesh.scheme: hybird is not known; did you mean hyb"),
        ((1, 2), {"mesh__scheme": "hybrid", "model__columns_meet": False}, "use columns"),
        (
            (1, 2),
            {"mesh__scheme": "hybrid_in_turns", "optimizer__fc_updates": 4},
            "optimizer.fc_updates: 4 is not one turn for each of the 2 devices .*; use 2",
        ),
    ],
)
def test_wrong_meshes_are_refused(shape, fields, message):
    with pytest.raises(ConfigError, match=message):
        train.compile_train_step(small(shape, **fields))


def test_a_checkpoint_of_any_mesh_restores_on_any_other(tmp_path):
    def on(shape: tuple[int, int]) -> StoredForm:
        config = small(shape, model__width=0.25, mesh__zero=shape == (4, 2))
        return StoredForm(Setup.of(config, 13))

    made = initial(Setup.of(small((1, 1), model__width=0.25), 13))
    for saved in MESHES:
        form = on(saved)
        placed = jax.tree.map(lambda a, to: jax.device_put(a, to.sharding), made, form.abstract)
        placed = form.of(form.state(placed))
        with checkpoint.Checkpoints(tmp_path / f"{saved[0]}x{saved[1]}", 1) as checkpoints:
            checkpoints.save(10, placed, None)
            checkpoints.wait()
            for restored in MESHES:
                form = on(restored)
                got = checkpoints.restore(10, form.abstract)
                trees = (made, got, form.abstract, form.state(got))
                for a, b, to, padded in zip(*map(jax.tree.leaves, trees), strict=True):
                    np.testing.assert_array_equal(a, b)
                    assert b.sharding == to.sharding
                    padded = np.asarray(padded)
                    true = tuple(map(slice, np.shape(a)))
                    np.testing.assert_array_equal(padded[true], a)
                    assert np.count_nonzero(padded) == np.count_nonzero(a)


def test_state_is_born_in_parts():
    params = state.create_state(Setup.of(small((2, 4), model__width=0.25), 13)).params
    shard = params["conv2"]["kernel"].addressable_shards[1]
    assert shard.data.shape == (5, 5, 12, 16)
    assert shard.index[-1] == slice(16, 32)
    assert params["fc8"]["kernel"].addressable_shards[1].data.shape == (1024, 4)  # of 16
    one = state.create_state(Setup.of(small((1, 1), model__width=0.25), 13))
    for path, leaf in jax.tree_util.tree_leaves_with_path(one.params):
        other = params
        for key in path:
            other = other[key.key]
        other = np.asarray(other)[tuple(map(slice, leaf.shape))]
        np.testing.assert_array_equal(leaf, other, err_msg=jax.tree_util.keystr(path))
    assert jnp.isfinite(params["fc6"]["kernel"]).all()


@pytest.mark.slow
def test_the_default_recipe_is_the_same_in_float32(as_in_production):
    wanted, losses = (follow(default_on(shape), 12, 12)[0] for shape in [(1, 1), (2, 4)])
    np.testing.assert_allclose(losses, wanted, rtol=1e-5)


def default_on(shape: tuple[int, int]) -> Config:
    config = configs.get("default")
    config.mesh.data, config.mesh.model = shape
    return config
