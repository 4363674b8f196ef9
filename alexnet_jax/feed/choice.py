"""The choice of a feed: read by the host throughout, or resident on the devices."""

import jax
from jax.sharding import Mesh

from alexnet_jax.config import Config, ConfigError
from alexnet_jax.host.device_memory import GIB, device_memory
from alexnet_jax.parallel import mesh as meshes
from alexnet_jax.parallel import processes


def resident_budget(config: Config) -> int:
    """Returns the bytes per device that resident splits may take, the least over all processes."""
    bytes_wanted = config.resident_gib * GIB or device_memory() / 4
    if jax.process_count() == 1:
        return int(bytes_wanted)
    return min(int(budget) for budget in processes.told_by_all(str(int(bytes_wanted))))


def kind_of_feed(config: Config, mesh: Mesh, count: int, budget: int) -> str:
    """Chooses how a split comes: `host`, `whole` (resident, all of it on every device) or `parts`
    (resident, cut over `data`).

    Raises:
      ConfigError: `feed` = resident, and it does not fit the budget.
    """
    size = count * config.resize**2 * 3
    shards = meshes.data_devices(mesh)
    if config.feed == "host":
        return "host"
    if size <= budget:
        return "whole"
    if -(-size // shards) <= budget and shards > 1:
        return "parts"
    if config.feed == "resident":
        raise ConfigError(
            f"feed: resident needs {size / shards / GIB:.3g} GiB of each device for {count:,} "
            f"images, more than {budget / GIB:.3g}; raise resident_gib, or use host"
        )
    return "host"
