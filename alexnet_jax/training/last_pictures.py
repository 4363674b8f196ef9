"""Pictures of a run's end, for TensorBoard."""

import sys

from alexnet_jax.data.words import spoken
from alexnet_jax.errors import printable
from alexnet_jax.figures import confusion, kernels
from alexnet_jax.figures.picture import Picture
from alexnet_jax.host import files
from alexnet_jax.steps.state import TrainState
from alexnet_jax.training import answers_file
from alexnet_jax.training.run import Run


def draw(run: Run, state: TrainState) -> dict[str, bytes]:
    """Draws conv1's kernels, if this process has them, and the confusion matrix, as PNGs.

    Args:
      run: a run that has ended, evaluated with one view.
      state: its final state.
    """
    drawn = {}
    conv1 = run.conv1(state)
    if conv1 is not None:
        title = f"conv1 after {run.last_step:,} updates"
        drawn["kernels"] = kernels.draw(conv1, run.config.model.columns, title).png()
    if picture := _confusion(run):
        drawn["confusion"] = picture.png()
    return drawn


def _confusion(run: Run) -> Picture | None:
    try:
        evaluated = answers_file.read(run.workdir)
    except FileNotFoundError:  # older code evaluated, and wrote no answers
        return None
    except files.DamagedFileError as error:  # a picture is no part of the run
        print(printable(error), file=sys.stderr, flush=True)
        return None
    answers, names = evaluated.answers, [spoken(name) for name in run.class_names]
    error = 100 * answers.wrong(1)[answers.counted].mean()
    title = f"{evaluated.split}: top-1 error {error:.2f} %, one view, {evaluated.step:,} updates"
    return confusion.of_answers(answers, names, title)
