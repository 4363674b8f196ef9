"""python -m alexnet_jax.benchmark MODE: speeds, as a table and with --json=FILE as rows."""

from alexnet_jax.host import command

command.begin(__name__)  # before the slow imports


import dataclasses
import json
import os
import pathlib
import sys

from absl import flags

from alexnet_jax import cli, configs
from alexnet_jax.benchmarks.rows import Row
from alexnet_jax.config import Config, ConfigError
from alexnet_jax.configs import flags as config_flags
from alexnet_jax.errors import unknown
from alexnet_jax.host import large_pages, paths
from alexnet_jax.parallel.schemes import LAYOUTS

MODES = ("step", "eval", "input", "end_to_end", "startup", "layers", "memory", "scaling", "trace")


def define_flags() -> None:
    """Declares the command's flags; not at import, for another command has the same."""
    config_flags.define()
    flags.DEFINE_integer("batch_size", 128, "images of a batch", lower_bound=1)
    flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "of the network")
    flags.DEFINE_integer("rounds", 5, "timed rounds per contender, alternated", lower_bound=1)
    others = ["", "torch", "onnxruntime", "openvino"]
    flags.DEFINE_enum("against", "", others, "compare in the same run; eval with all of them")
    flags.DEFINE_string("dataset", "drawn_patterns", "input: the data set, or a folder of images")
    flags.DEFINE_string("data_dir", "", "input: TFDS's data_dir")
    flags.DEFINE_float("memory_gib", 0, "memory: how much there is; 0: the device's", lower_bound=0)
    flags.DEFINE_list("devices", ["1", "2", "4", "8"], "scaling: how many, each in turn")
    flags.DEFINE_list("schemes", list(LAYOUTS), "scaling: ways to split the network")
    flags.DEFINE_list(
        "batch_per_device",
        [],
        "scaling: images per device, such as 128,1024; empty: 8 on simulated devices, else 128",
    )
    flags.DEFINE_string("workdir", "", "trace: of a run with --profile=FROM:TO")
    flags.DEFINE_string("json", "", "FILE for the rows")
    flags.DEFINE_string(
        "picture", "", "layers: FILE.png for the roofline; scaling: for the efficiency"
    )


OWN_FLAGS = ("batch_size", "precision", "dataset", "data_dir")  # named like config fields


def _refuse_fields(arguments: list[str]) -> None:
    """Refuses --config.FIELD where a flag of the benchmark says the same, and would win.

    Raises:
      ConfigError: names both.
    """
    names = {argument.lstrip("-").partition("=")[0] for argument in arguments}
    for field in OWN_FLAGS:
        if f"config.{field}" in names:
            raise ConfigError(f"--config.{field}: use --{field}=... instead")


def _refuse(mode: str) -> None:
    """Refuses, before anything is measured, flags that a mode has no use for.

    Raises:
      ConfigError: names the flag.
    """
    f = flags.FLAGS
    if mode not in MODES:
        raise ConfigError(f"benchmark: {unknown(mode, MODES)}")
    if f.against and mode not in ("step", "eval", "input"):
        raise ConfigError(f"--against: {mode} is not compared with PyTorch; step, eval, input are")
    if f.against not in ("", "torch") and mode != "eval":
        raise ConfigError(
            f"--against={f.against}: {mode} compares only with torch; use --against=torch, or eval"
        )
    if f.picture and mode not in ("layers", "scaling"):
        raise ConfigError(f"--picture: {mode} draws none; layers and scaling do")
    if f.workdir and mode != "trace":
        raise ConfigError(f"--workdir: {mode} reads no run; leave it out, or use trace")
    if mode == "startup":
        refused = [name for name in ("batch_size", "precision") if f[name].present]
        if f.config != configs.get("paper"):
            refused.append("config")
        if refused:
            raise ConfigError(f"--{refused[0]}: startup starts the default recipe as it is")
    for name in ("json", "picture"):
        _refuse_unwritable(name, f[name].value or "")


def _refuse_unwritable(flag: str, value: str) -> None:
    if not value:
        return
    path = paths.local(value, f"--{flag}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ConfigError(f"--{flag}: {path} cannot be written; name a file")


def _config() -> Config:
    config = flags.FLAGS.config
    config.batch_size, config.precision = flags.FLAGS.batch_size, flags.FLAGS.precision
    return config


def _measured(mode: str) -> list[Row]:
    f, against_torch = flags.FLAGS, flags.FLAGS.against == "torch"
    if mode == "input":
        from alexnet_jax.benchmarks import input

        return input.measure(f.dataset, f.data_dir, f.batch_size, f.rounds, against_torch)
    if mode == "layers":
        from alexnet_jax.benchmarks import layers

        return layers.measure(_config(), f.rounds, pathlib.Path(f.picture) if f.picture else None)
    if mode == "startup":
        from alexnet_jax.benchmarks import startup as starting

        return starting.measure(f.rounds, f.data_dir)
    if mode == "end_to_end":
        from alexnet_jax.benchmarks import end_to_end

        return end_to_end.measure(_config(), f.rounds, f.dataset, f.data_dir)
    if mode == "memory":
        from alexnet_jax.benchmarks import memory
        from alexnet_jax.host.device_memory import device_memory

        return memory.measure(_config(), int(f.memory_gib * 2**30) or device_memory())
    from alexnet_jax.benchmarks import steps

    measured = steps.measure(mode, _config(), f.rounds, f.against)
    print(steps.summary(measured[0]))
    return measured


def _counts(flag: str, example: str) -> list[int]:
    counts: list[str] = flags.FLAGS[flag].value or []
    if not all(count.isascii() and count.isdigit() and int(count) for count in counts):
        raise ConfigError(f"--{flag}: {','.join(counts)} must be counts such as {example}")
    return [int(count) for count in counts]


def _scaling() -> None:
    f = flags.FLAGS
    if f["batch_size"].present:
        raise ConfigError("--batch_size: scaling has --batch_per_device, for each number of them")
    counts, images = _counts("devices", "1,2,4,8"), _counts("batch_per_device", "128,1024")
    import jax

    jax.config.update("jax_num_cpu_devices", max(counts))  # no others' number changes
    from alexnet_jax.benchmarks import scaling

    measured = scaling.measure(_config(), counts, f.schemes, images, f.rounds)
    print(scaling.table(measured))
    if f.json:
        path = paths.local(f.json, "--json")
        path.write_text(json.dumps(dataclasses.asdict(measured), indent=1) + "\n")
    if f.picture:
        scaling.draw(measured).save(paths.local(f.picture, "--picture"))


def _trace() -> None:
    from alexnet_jax.benchmarks import trace

    if not flags.FLAGS.workdir:
        raise ConfigError("--workdir: trace reads what a run with --profile=FROM:TO recorded there")
    parts = trace.read(paths.local(flags.FLAGS.workdir, "--workdir"))
    print(trace.table(parts))
    if flags.FLAGS.json:
        paths.local(flags.FLAGS.json, "--json").write_text(parts.json())


def _benchmark(mode: str) -> None:
    from alexnet_jax.benchmarks import rows

    _refuse(mode)
    if mode == "scaling":
        return _scaling()
    if mode == "trace":
        return _trace()
    measured = _measured(mode)
    print(rows.table(measured))
    settings = {"batch_size": flags.FLAGS.batch_size, "precision": flags.FLAGS.precision}
    if flags.FLAGS.json:
        path = paths.local(flags.FLAGS.json, "--json")
        path.write_text(json.dumps([settings | row.json() for row in measured], indent=1) + "\n")


def _run(arguments: list[str]) -> None:
    if len(arguments) != 2:
        sys.exit(f"error: name one mode: {', '.join(MODES)}")
    large_pages.start_again_with_them(flags.FLAGS.config.kernels)
    with cli.errors_as_one_line():
        _benchmark(arguments[1])


def _resolved(arguments: list[str]) -> list[str]:
    _refuse_fields(arguments)
    return config_flags.resolve(arguments, "paper")


def main() -> None:
    """Parses the flags and measures; a wrong flag ends it with one line."""
    define_flags()
    cli.run(_run, _resolved)


if __name__ == "__main__":
    main()
