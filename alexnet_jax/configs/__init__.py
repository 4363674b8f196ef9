"""Recipes: named configurations, each a small difference from `Config()` in a file of its own."""

import importlib
import pathlib

from alexnet_jax.config import Config, ConfigError
from alexnet_jax.configs.by_hand import as_recipe
from alexnet_jax.errors import unknown

FOLDER = pathlib.Path(__file__).parent / "recipes"


def names() -> list[str]:
    """Returns the recipes there are."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def get(name: str) -> Config:
    """Returns a fresh copy of a recipe; its fields may be assigned.

    Raises:
      ConfigError: no such recipe; says which is nearest.
    """
    if name not in names():
        raise ConfigError(f"config: {unknown(name, names())}")
    return as_recipe(importlib.import_module(f"{__name__}.recipes.{name}").get_config())


def path(name_or_file: str) -> str:
    """Returns the file of a recipe, or of a configuration of the user's own.

    Raises:
      ConfigError: neither a recipe nor a file.
    """
    if pathlib.Path(name_or_file).suffix == ".py":
        if not pathlib.Path(name_or_file).is_file():
            raise ConfigError(f"config: there is no file {name_or_file}")
        return name_or_file
    get(name_or_file)
    return str(FOLDER / f"{name_or_file}.py")
