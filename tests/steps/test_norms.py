"""Mean sizes of weights and updates by layer."""

import numpy as np
import small

from alexnet_jax import train
from alexnet_jax.training.writers import read_rows


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
