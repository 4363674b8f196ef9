import dataclasses

import pytest

from alexnet_jax import configs, train
from alexnet_jax.config import ConfigError, MeshConfig
from alexnet_jax.parallel import mesh


def test_takes_what_is_left_or_the_first_devices():
    assert mesh.build(MeshConfig()).shape == {"data": 8, "model": 1}
    assert mesh.build(MeshConfig(data=2)).devices.size == 2


def test_refuses_more_devices_than_there_are():
    with pytest.raises(
        ConfigError, match=r"9 x 1 devices .* there are 8; mesh.data can be at most 8"
    ):
        mesh.build(MeshConfig(data=9))


@pytest.mark.parametrize(
    ("batch_size", "parts", "message"),
    [(10, 1, "use 8 or 12"), (3, 1, "use 4"), (12, 2, "in 2 parts; use 8 or 16")],
)
def test_refuses_batches_that_do_not_divide(batch_size, parts, message):
    config = dataclasses.replace(configs.get("default"), batch_size=batch_size, num_classes=2)
    config.optimizer.accumulate_steps, config.mesh.data = parts, 4
    if batch_size % parts == 0:
        with pytest.raises(
            ConfigError, match=rf"batch_size: {batch_size} does not divide .*{message}"
        ):
            train.compile_train_step(config)
