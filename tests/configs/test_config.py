import copy
import dataclasses
import json
import pickle
import subprocess
import sys
import time

import pytest

from alexnet_jax import config as configuration
from alexnet_jax import configs, main
from alexnet_jax.config import Config, ConfigError, flatten, from_json, to_json
from alexnet_jax.configs import flags, validation
from alexnet_jax.configs.by_hand import by_hand
from alexnet_jax.configs.earlier_versions import config_of
from alexnet_jax.configs.validation import validate
from alexnet_jax.training import run_files
from alexnet_jax.training.run_files import changed_fields


@pytest.mark.parametrize("name", configs.names())
def test_recipes_are_valid_and_survive_their_text_form(name):
    config = configs.get(name)
    validate(config)
    assert from_json(to_json(config)) == config
    assert config_of('{"cache_gib": 2.0}') == Config()  # a workdir of an earlier version
    assert configs.get(name) is not config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 226, r"image_size: .*nearest to 226 are 223 and 227"),
        ("image_size", 259, r"image_size: .*largest is 256"),
        ("eval_views", 5, r"eval_views: 5 is not known; did you mean 1"),
        ("precision", "float23", r"precision: .*did you mean float32"),
        ("on_bad_image", "skipp", r"did you mean skip\?"),
        ("batch_size", 0, r"batch_size: 0 must be at least 1"),
        ("batch_size", "64", r"batch_size: '64' is not of type int"),
        ("batch_size", True, r"batch_size: True is not of type int"),
        ("model.width", 0.013, r"model.width: .*the nearest is 0.0625"),
        ("model.width", 0.3, r"model.width: .*the nearest is 0.3125"),
        ("model.lrn.beta", -3.0, r"model.lrn.beta: -3.0 must be at least 0"),
        ("seed", 2**32, r"seed: 4294967296 must be less than"),
        ("augment.mean", (1.0, 2.0), r"augment.mean: .* three numbers"),
        (
            "optimizer.schedule.steps",
            ((30.0, "x"),),
            r"schedule.steps: .*must be \(\(epoch, rate\)",
        ),
        ("model.layer1", "relu relu pool", r"model.layer1: .*must order"),
        ("model.lrn.size", 4, r"model.lrn.size: 4 is even; use 5"),
        ("model.dropout_rate", 1.0, r"model.dropout_rate: 1.0 must be in"),
        ("optimizer.accumulate_steps", 3, r"accumulate_steps: 3 does not divide .* nearest is 2"),
        ("optimizer.learning_rate", float("nan"), r"learning_rate: nan is not finite"),
        ("optimizer.schedule.kind", "steps", r"did you mean step\?"),
        ("optimizer.schedule.steps", ((3.0,),), r"steps: .*must be \(\(epoch, rate\)"),
        ("mesh.data", 0, r"mesh.data: 0 must be positive"),
        ("mesh.model", 3, r"mesh.model: 3 .*use 2 or 4"),
        ("dataset", "", r"dataset: name a TFDS data set"),
    ],
)
def test_refuses_with_the_field_and_the_nearest_right_value(field, value, message):
    config = Config()
    *path, last = field.split(".")
    owner = config
    for name in path:
        owner = getattr(owner, name)
    setattr(owner, last, value)
    with pytest.raises(ConfigError, match=message):
        validate(config)


def test_every_choice_and_bound_names_a_field():
    fields = configuration.flatten(Config())
    for name in [*validation.CHOICES, *validation.LEAST, *run_files.RESUMABLE]:
        assert name in fields


def test_text_form_refuses_fields_of_other_versions():
    with pytest.raises(ConfigError, match=r"model.widht is not known; did you mean model.width"):
        from_json('{"model": {"widht": 1.0}}')


def test_changed_fields_leave_out_what_may_change():
    old, new = Config(), Config(seed=1, num_epochs=5, log_every_steps=3)
    new.mesh = dataclasses.replace(new.mesh, data=2)
    new.model.width = 0.5
    assert changed_fields(old, new) == {"seed": (0, 1), "model.width": (1.0, 0.5)}


def test_steps_round_up_and_num_steps_wins():
    assert configuration.num_train_steps(Config(num_epochs=2, batch_size=32), 100) == 7
    assert configuration.num_train_steps(Config(num_epochs=2, num_steps=9), 100) == 9


def run_main(*arguments):
    command = [sys.executable, "-m", "alexnet_jax.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=papre"], "did you mean paper?"),
        (["--config.batch_sise=3"], "did you mean batch_size?"),
        (["--config.optimizer.learning_rat=3"], "did you mean optimizer.learning_rate?"),
        (["--config=nothere.py"], "there is no file nothere.py"),
        (["--config.batch_size=many"], "batch_size"),
        ([], "workdir"),
    ],
)
def test_wrong_flags_end_with_a_line_that_helps(arguments, message, tmp_path):
    workdir = [f"--workdir={tmp_path / 'w'}"] if arguments else []
    done = run_main(*arguments, *workdir)
    assert done.returncode != 0
    assert message in done.stderr
    assert not (tmp_path / "w").exists()


def test_help_starts_no_heavy_import():
    code = (
        "import sys, alexnet_jax.main; "
        "print([m for m in ('jax', 'flax', 'tensorflow_datasets', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    started = time.perf_counter()
    assert "--workdir" in run_main("--help").stdout
    assert time.perf_counter() - started < 30  # the bar of 1.5 s is for a quiet machine


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.width", 1e9),
        ("resident_gib", 1e308),
        ("steps_per_dispatch", 10**9),
        ("model.lrn.size", 1001),
        ("model.conv1_padding", 10**6),
        ("batch_size", 1_000_000_007),
        ("model.channels", (96, 10**9, 384, 384, 256)),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_made(field, value):
    config = configs.get("default")
    *path, last = field.split(".")
    owner = config
    for name in path:
        owner = getattr(owner, name)
    setattr(owner, last, value)
    with pytest.raises(ConfigError, match=f"{field}: "):
        validate(config)


def test_a_field_that_does_not_exist_is_refused_from_python_too():
    config = configs.get("default")
    with pytest.raises(ConfigError, match="num_epoch is not known; did you mean num_epochs"):
        config.num_epoch = 4
    with pytest.raises(ConfigError, match="did you mean columns"):
        config.model.colums = 1


def test_config_may_stand_anywhere_among_the_flags():
    first = flags.resolve(["main", "--config.dataset=D", "--config=paper", "--workdir=w"])
    assert first[1].endswith("paper.py") and first[2:] == ["--config.dataset=D", "--workdir=w"]
    apart = flags.resolve(["main", "--workdir=w", "--config", "paper"])
    assert apart[1] == "--config" and apart[2].endswith("paper.py") and apart[3] == "--workdir=w"


def test_every_field_of_a_recipe_is_described():
    text = flags.described("paper")
    assert all(f"--config.{name}=" in text for name in flatten(Config()))
    assert "2: conv2, conv4 and conv5 read their own column only" in text
    assert "paper" in flags.listed() and len(flags.listed().splitlines()) == len(configs.names())


def test_a_recipe_is_described_however_the_flag_is_written(monkeypatch, capsys):
    for arguments in (["--describe", "paper"], ["--describe=paper"], ["-describe=paper"]):
        monkeypatch.setattr(sys, "argv", ["main", *arguments])
        main.main()
        assert "--config.image_size=227" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["main", "--workdir", "list_recipes"])
    monkeypatch.setattr(main.cli, "run", lambda *_: print("trains"))
    main.main()
    assert capsys.readouterr().out == "trains\n"


def test_who_names_a_field_is_a_hand_and_a_file_that_lacks_one_is_none():
    assert by_hand(Config(resize=256, batch_size=3)) == {"resize", "batch_size"}
    assert by_hand(Config()) == by_hand(from_json(to_json(Config()))) == set()
    older = json.loads(to_json(Config(batch_size=3)))
    del older["join_seconds"], older["model"]["activation"]
    assert by_hand(from_json(json.dumps(older))) == {"batch_size"}
    for copied in (copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))):
        assert by_hand(copied(Config(resize=256))) == {"resize"}
