"""Layers as a person names several at once: conv1-conv5, conv*, fc6, all."""

import fnmatch
from collections.abc import Iterable, Sequence

from alexnet_jax.config import ConfigError, unknown


def select(names: Iterable[str], known: Sequence[str], field: str) -> tuple[str, ...]:
    """Returns the layers that are meant, each once, in the order of the network.

    Args:
      names: of layers, ranges such as conv1-conv5, patterns such as conv*, or all.
      known: the layers that there are, in order.
      field: of the config, for the message.

    Raises:
      ConfigError: one of them is no layer; says the nearest.

    >>> select(["fc*", "conv1-conv3"], ["conv1", "conv2", "conv3", "conv4", "fc6"], "init.layers")
    ('conv1', 'conv2', 'conv3', 'fc6')
    """
    meant: set[str] = set()
    for name in names:
        first, dash, last = name.partition("-")
        if name == "all":
            matches = list(known)
        elif dash and first in known and last in known:
            matches = list(known[known.index(first) : known.index(last) + 1])
            if not matches:
                raise ConfigError(f"{field}: {name} runs backwards; write {last}-{first}")
        else:
            matches = fnmatch.filter(known, name)
        if not matches:
            wrong = last if dash and first in known else first if dash else name
            raise ConfigError(f"{field}: {unknown(wrong, [*known, 'all'])}")
        meant |= set(matches)
    return tuple(layer for layer in known if layer in meant)
