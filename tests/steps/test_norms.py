"""Mean sizes of weights and updates by layer."""

import numpy as np
import small

from alexnet_jax import train
from alexnet_jax.config import MeshConfig
from alexnet_jax.training.rows import read_rows


def test_a_row_has_the_mean_sizes_of_the_state_that_was_saved(tmp_path):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.num_steps = 3
    train.train(config, tmp_path / "w")
    row = read_rows(tmp_path / "w" / "metrics.jsonl")[-1]
    state = small.final_state(tmp_path / "w", 3)
    found = 0
    for name, values in state.items():
        parts = name.replace("['", ".").replace("']", "").split(".")
        kind = {"params": "weights", "trace": "updates"}.get("".join(parts[-3:-2]))
        if kind:
            size = row[f"{kind}/{parts[-2]}.{parts[-1]}"]
            np.testing.assert_allclose(size, np.abs(values.astype(np.float64)).mean(), rtol=1e-5)
            found += 1
    assert found == 32 == sum("/" in name for name in row)
    assert row["updates/fc8.kernel"] > 0


def test_classes_that_pad_a_mesh_are_in_no_norm(tmp_path):
    """Five classes over two devices are padded to six; a mean over six would be a sixth less."""
    small.write_folder(tmp_path / "set")
    found = {}
    for devices in (1, 2):
        config = small.config(tmp_path / "set")
        config.num_steps, config.num_classes, config.mesh = 3, 5, MeshConfig(1, devices)
        train.train(config, tmp_path / f"w{devices}")
        found[devices] = small.rows(tmp_path / f"w{devices}")
    for wanted, own in zip(found[1], found[2], strict=True):
        norms = [name for name in wanted if "/" in name or name == "gradient_norm"]
        assert norms
        for name in norms:
            np.testing.assert_allclose(own[name], wanted[name], rtol=1e-5, err_msg=name)
