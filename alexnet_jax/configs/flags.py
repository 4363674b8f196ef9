"""The flags that name a recipe and its fields: --config=NAME or FILE.py --config.FIELD=VALUE ..."""

import ast
import dataclasses
import inspect
import pathlib
import runpy
import textwrap
import typing
from typing import Any

from absl import flags
from ml_collections import config_flags

from alexnet_jax import configs
from alexnet_jax.config import Config, ConfigError, flatten
from alexnet_jax.configs.by_hand import as_recipe
from alexnet_jax.errors import unknown

BARE = ("-config", "--config")  # whose value is the next argument

flags.disclaim_key_flags()  # so that a command's --help lists what `define` declares for it


def define() -> None:
    """Declares --config, for `value`."""
    known = ", ".join(configs.names())
    config_flags.DEFINE_config_file("config", None, f"a recipe ({known}) or a file")


def value() -> Any:
    """Returns the parsed config; flags and a --config file's own values count as set by hand."""
    flag: Any = flags.FLAGS["config"]
    config = flag.value
    is_recipe = pathlib.Path(config_flags.get_config_filename(flag)).parent == configs.FOLDER
    if is_recipe and isinstance(config, Config):
        as_recipe(config, set(config_flags.get_override_values(flag)))
    return config


def own_writers(workdir: str) -> list[Any]:
    """Returns the writers from `get_writers(workdir)` of a --config file, if it defines that.

    Raises:
      ConfigError: they have no `write` and `close`.
    """
    file = config_flags.get_config_filename(flags.FLAGS["config"])
    if pathlib.Path(file).parent == configs.FOLDER:
        return []
    make = runpy.run_path(file).get("get_writers")
    writers = list(make(workdir)) if make else []
    for writer in writers:
        if not all(callable(getattr(writer, name, None)) for name in ("write", "close")):
            raise ConfigError(
                f"--config: get_writers() of {file} gives a {type(writer).__name__}; a writer has "
                "write(row) and close()"
            )
    return writers


def listed() -> str:
    """Returns the recipes, one per line: the name and the docstring's first paragraph."""
    lines = []
    for name in configs.names():
        module = ast.parse(pathlib.Path(configs.path(name)).read_text())
        docstring = (ast.get_docstring(module) or "").split("\n\n")[0].split("\n")
        lines.append(f"{name:16} {' '.join(docstring)}")
    return "\n".join(lines)


def described(recipe: str) -> str:
    """Returns every field of a recipe: its value, what it means and where it comes from.

    Raises:
      ConfigError: no such recipe.
    """
    values, plain = flatten(configs.get(recipe)), flatten(Config())
    comments = meanings()
    lines = []
    for name, value in values.items():
        mark = "" if value == plain[name] else f"  (else {plain[name]!r})"
        lines.append(f"--config.{name}={value!r}{mark}")
        lines += textwrap.wrap(
            comments.get(name, ""), 92, initial_indent=6 * " ", subsequent_indent=6 * " "
        )
    return "\n".join(lines)


def meanings() -> dict[str, str]:
    """Returns the comments of each field in the source of `Config`, by its dotted name."""
    lines = inspect.getsource(inspect.getmodule(Config) or Config).splitlines()
    by_class: dict[str, dict[str, str]] = {}
    owner, above = "", []
    for line in lines:
        text = line.strip()
        if text.startswith("class "):
            owner, above = text.split()[1].split("(")[0].rstrip(":"), []
        elif text.startswith("#"):
            above.append(text.lstrip("# "))
        elif (
            ":" in text and "=" in text and line.startswith("    ") and not line.startswith("     ")
        ):
            beside = text.partition("  # ")[2]
            name = text.partition(":")[0]
            by_class.setdefault(owner, {})[name] = " ".join([*above, beside]).strip()
            above = []
        elif not text:
            above = []
    named: dict[str, str] = {}

    def walk(kind: type, prefix: str) -> None:
        hints = typing.get_type_hints(kind)
        for name in (field.name for field in dataclasses.fields(kind)):
            if dataclasses.is_dataclass(hints[name]):
                walk(typing.cast(type, hints[name]), f"{prefix}{name}.")
            else:
                named[prefix + name] = by_class.get(kind.__name__, {}).get(name, "")

    walk(Config, "")
    return named


def _config_first(arguments: list[str]) -> list[str]:
    """Moves --config before the fields that change it, wherever it was typed."""
    for i, argument in enumerate(arguments[1:], 1):
        if argument == "--":
            break
        if argument in BARE and i + 1 < len(arguments):
            pair = arguments[i : i + 2]
            return [arguments[0], *pair, *arguments[1:i], *arguments[i + 2 :]]
        if argument.startswith(("-config=", "--config=")):
            return [arguments[0], argument, *arguments[1:i], *arguments[i + 1 :]]
    return arguments


def resolve(arguments: list[str], default: str = "default") -> list[str]:
    """Replaces the recipe's name after --config by its file; without --config, adds the default.

    Args:
      arguments: of the command, its name first.
      default: the recipe if none is named.

    Raises:
      ConfigError: an unknown recipe or field; says which is nearest.
    """
    resolved = _config_first(list(arguments))
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
