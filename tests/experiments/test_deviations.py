"""The README's table of deviations is what the recipes say."""

import pathlib

import pytest

from alexnet_jax import configs
from experiments.fidelity import deviations

README = pathlib.Path(__file__).parents[2] / "experiments" / "fidelity" / "README.md"


def test_the_readme_has_the_table_of_the_recipes():
    text = README.read_text()
    assert deviations.replaced(text) == text, (
        "run python -m experiments.fidelity.deviations --write=experiments/fidelity/README.md"
    )
    with pytest.raises(ValueError, match="no table between"):
        deviations.replaced("")


def test_a_changed_recipe_changes_the_table(monkeypatch):
    before, get = deviations.table(), configs.get

    def changed(name):
        config = get(name)
        if name == "caffenet":
            config.model.conv345_std = 0.05
        return config

    monkeypatch.setattr(deviations.configs, "get", changed)
    after = deviations.table()
    [row] = [b for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert row.startswith("| 4: deviation of conv3-5 | 0.01 | **0.03** | **0.05** |")
