"""python -m alexnet_jax.probe --workdir=W [--dataset=D] [--layers=pool5,fc6,fc7]: linear probes.

Measures how well a linear classifier separates a data set's classes, given the activations of a
network that may have learned something else. It fits logistic regression by L-BFGS to the
activations of every training image, and reports top-1 and top-5 error on the test images, one view
each.
"""

from alexnet_jax.host import command

command.begin(__name__)  # before the slow imports


import json
import pathlib

from absl import flags

from alexnet_jax import cli
from alexnet_jax.host import files, paths


def _run(arguments: list[str]) -> None:
    cli.take_no_arguments(arguments)
    with cli.errors_as_one_line():
        _probe()


def _probe() -> None:
    from alexnet_jax.data.types import DataError
    from alexnet_jax.errors import interruptible
    from alexnet_jax.host.progress import Progress
    from alexnet_jax.inference import probe, trained

    f = flags.FLAGS
    workdir = paths.local(f.workdir, "--workdir")
    network = trained.load(workdir, which=f.checkpoint, kernels=f.kernels)
    config = network.config
    if f.dataset:  # which has no splits of the run's
        config.dataset, config.train_split, config.eval_split = f.dataset, "train", ""
    config.data_dir = f.data_dir or config.data_dir
    config.train_split = f.train_split or config.train_split
    sources = {}
    for split in (config.train_split, f.split):
        source, name = network.source(split)
        sources[name] = source
    if len(sources) < 2:
        raise DataError(f"--split: the probe learns from {name}; name another split to test on")
    (trained_on, first), (tested_on, second) = sources.items()
    if first.class_names != second.class_names:
        raise DataError(f"split {tested_on} has other classes than {trained_on}")
    splits = []
    with interruptible("probing"):
        for name, source in sources.items():
            with Progress(f"activations of {name}", 0, len(source), "image") as bar:
                bytes_held = sum(v.nbytes for features in splits for v in features.layers.values())
                reader = network.reader(source)
                splits.append(probe.collect(network, reader, f.layers, bar.advance, bytes_held))
        train, test = splits
        cli.say(
            f"{f.workdir}, step {network.step:,}: {len(train.labels):,} images of {trained_on} to "
            f"learn from, {len(test.labels):,} of {tested_on} to test, "
            f"{len(first.class_names)} classes"
        )
        cli.say("logistic regression by L-BFGS; every fifth training image chooses the penalty")
        cli.say("layer       numbers  penalty   top-1      top-5      seconds")
        rows = []
        for layer in f.layers:
            row = probe.probe(layer, train, test, len(first.class_names))
            rows.append(row._asdict())
            cli.say(
                f"{layer:10}  {row.size:7,}  {row.penalty:7g}  {100 * row.top1_error:6.2f} %   "
                f"{100 * row.top5_error:6.2f} %  {row.seconds:8.1f}"
            )
    if f.out:
        about = {"workdir": f.workdir, "step": network.step, "train": trained_on, "test": tested_on}
        out = pathlib.Path(paths.local(f.out, "--out"))
        out.parent.mkdir(parents=True, exist_ok=True)
        with files.named(out):
            files.replace_text(out, json.dumps(about | {"probes": rows}, indent=1) + "\n")


def define_flags() -> None:
    """Declares the command's flags."""
    flags.DEFINE_string("workdir", None, "folder of a run, or of imported weights", required=True)
    flags.DEFINE_string("dataset", "", "data set to classify; empty: the run's own")
    flags.DEFINE_string("data_dir", "", "TFDS's data_dir for that data set")
    flags.DEFINE_list("layers", ["pool5", "fc6", "fc7"], "layers to probe")
    flags.DEFINE_string("train_split", "", "split to learn from; empty: train, or the run's own")
    flags.DEFINE_string("split", "", "split to test on; empty: the data set's validation split")
    cli.define_network_flags()
    flags.DEFINE_string("out", "", "a file for the figures, JSON")


def main() -> None:
    """Parses the flags and probes."""
    define_flags()
    cli.run(_run)


if __name__ == "__main__":
    main()
