"""The flags that name a recipe and its fields: --config=NAME or FILE.py --config.FIELD=VALUE ..."""

from typing import Any

from absl import flags
from ml_collections import config_flags

from alexnet_jax import configs
from alexnet_jax.config import Config, ConfigError, flatten
from alexnet_jax.errors import unknown

BARE = ("-config", "--config")  # whose value is the next argument

flags.disclaim_key_flags()  # so that a command's --help lists what `define` declares for it


def define() -> Any:
    """Declares --config; its `value` is the recipe with the fields as the flags have them."""
    known = ", ".join(configs.names())
    return config_flags.DEFINE_config_file("config", None, f"a recipe ({known}) or a file")


def resolve(arguments: list[str], default: str = "default") -> list[str]:
    """Replaces a recipe's name after --config by its file; without one it is the default's.

    Args:
      arguments: of the command, its name first.
      default: the recipe where none is named.

    Raises:
      ConfigError: an unknown recipe or field; says which is nearest.
    """
    resolved = list(arguments)
    fields = list(flatten(Config()))
    named = False
    for i, argument in enumerate(resolved):
        flag, equals, value = argument.partition("=")
        name = flag.lstrip("-")
        if i and resolved[i - 1] in BARE:
            resolved[i], named = configs.path(argument), True
        elif name == flag:  # the command, a value or a file
            continue
        elif name == "config" and equals:
            resolved[i], named = f"{flag}={configs.path(value)}", True
        elif name.startswith(("config.", "noconfig.")):
            field = name.partition(".")[2]
            if field not in fields:
                raise ConfigError(f"--config.{unknown(field, fields)[:300]}")
    if named:
        return resolved
    return [*resolved[:1], f"--config={configs.path(default)}", *resolved[1:]]
