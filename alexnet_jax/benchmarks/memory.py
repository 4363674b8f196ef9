"""The largest batch that fits in memory, from what the compiled train step asks for.

Nothing is run, so the memory may be another machine's; the program is compiled for the devices of
this one.
"""

from collections.abc import Callable

from alexnet_jax.benchmarks.rows import Row
from alexnet_jax.benchmarks.steps import compiled_training, prepared
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.host.device_memory import peak_bytes
from alexnet_jax.host.progress import Progress

PARTS = (1, 4)  # that a batch is computed in, `optimizer.accumulate_steps`
MIB = 2**20


def measure(config: Config, memory: int) -> list[Row]:
    """Returns the largest batch for each number of parts; prints what it is made of.

    Args:
      config: of the network and the precision.
      memory: bytes.

    Raises:
      ConfigError: not even one image of a part fits.
    """
    config = prepared(config)
    rows = []
    with Progress("compiling", 0, len(PARTS), "way") as bar:
        for parts in PARTS:
            config.optimizer.accumulate_steps = parts

            def needed(batch: int) -> int:
                config.batch_size = batch
                # While a step runs the next is dispatched, and two more batches are on their way.
                ahead = 3 * batch * config.resize**2 * 3
                return peak_bytes(compiled_training(config)) + ahead

            rows.append(_row(parts, *largest(needed, memory, parts), config.precision, memory))
            bar.advance()
    for row in rows:
        print(
            f"{row.what}: {row.more['batch_size']:,} images in {memory / 2**30:.1f} GiB, "
            f"{row.more['bytes_per_image'] / MIB:.2f} MiB each beside "
            f"{row.more['fixed_bytes'] / MIB:,.0f} MiB"
        )
    return rows


def largest(needed: Callable[[int], int], memory: int, parts: int) -> tuple[int, float, float]:
    """Finds the largest multiple of `parts` images whose step fits, nearly.

    Args:
      needed: images -> bytes; nearly linear.
      memory: bytes.
      parts: divides the number of images.

    Returns:
      The number of images, the bytes of each additional image, and the fixed bytes.

    Raises:
      ConfigError: there is none.
    """
    first, second = 16 * parts, 32 * parts
    low, high = needed(first), needed(second)
    each = (high - low) / (second - first)
    fixed = low - first * each
    batch = int((memory - fixed) / each) // parts * parts
    while batch > 0 and (bytes_needed := needed(batch)) > memory:  # the line is not quite straight
        batch = min(batch - parts, int(batch * memory / bytes_needed)) // parts * parts
    if batch <= 0:
        raise ConfigError(
            f"--memory_gib: {memory / 2**30:.2f} GiB hold no batch; the network and its velocity "
            f"take {fixed / 2**30:.2f}"
        )
    return batch, each, fixed


def _row(parts: int, batch: int, each: float, fixed: float, precision: str, memory: int) -> Row:
    what = "largest batch" if parts == 1 else f"largest batch, in {parts} parts"
    more = {"batch_size": batch, "precision": precision, "accumulate_steps": parts}
    more |= {"bytes_per_image": each, "fixed_bytes": fixed, "memory_bytes": memory}
    return Row(what, None, None, None, more=more)
