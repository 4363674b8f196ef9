"""Fields that a person set by hand, not a recipe: weights may replace only the other fields."""

import dataclasses
from collections.abc import Collection
from typing import Any


def by_hand(config: Any, prefix: str = "") -> set[str]:
    """Returns the dotted names of the fields that a person set.

    In a recipe, those assigned since `as_recipe`; in any other config, those assigned, named in
    `Config(...)`, or different from the default.

    >>> from alexnet_jax.config import Config
    >>> config = Config()
    >>> config.model.width = 1.0
    >>> by_hand(config)
    {'model.width'}
    """
    names: set[str] = set()
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            names |= by_hand(value, name + ".")
        elif field.name in vars(config)["_by_hand"]:
            names.add(name)
    return names


def as_recipe(config: Any, but: Collection[str] = (), prefix: str = "") -> Any:
    """Marks all fields except those in `but` as set by a recipe; returns the config."""
    names = {field.name for field in dataclasses.fields(config)}
    for name in names:
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            as_recipe(value, but, f"{prefix}{name}.")
    vars(config)["_by_hand"] = {name for name in names if prefix + name in but}
    return config


def put(config: Any, name: str, value: Any) -> None:
    """Sets a field by its dotted name, without marking it as set by hand."""
    group, _, last = name.rpartition(".")
    for part in group.split(".") if group else ():
        config = getattr(config, part)
    object.__setattr__(config, last, value)
