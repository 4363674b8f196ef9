"""Trains a config in a process of its own, and ends it with a signal at a given point.

run_and_die.py CONFIG.json WORKDIR "step 3" | "save 2" | "committing 2" | "sealing 2"
    | "sealed 2" | "evaluate 3" | "row 3" | "signal 15 2" | "upload 20" | "removal 3" | ""

"upload 20" dies at the 20th object to be written to a bucket, "removal 3" at the 3rd to be removed.
"""

import itertools
import os
import pathlib
import signal
import sys

sys.modules["torch"] = None  # if it is installed, tensorboardX imports it, which takes seconds

from alexnet_jax import train  # noqa: E402
from alexnet_jax.config import from_json  # noqa: E402
from alexnet_jax.feed import host as host_feed  # noqa: E402
from alexnet_jax.feed import resident  # noqa: E402
from alexnet_jax.host import bucket  # noqa: E402
from alexnet_jax.training import checkpoint, run, seal, writers  # noqa: E402


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str) -> None:
    """Replaces the function that the point names by one that dies there."""
    kind, *numbers = point.split()
    at = int(numbers[-1])
    save, evaluate = checkpoint.Checkpoints.save, run.Run.evaluate
    write, seal_it = writers.MetricsFile.write, seal.write

    def dying(training):  # noqa: ANN001, ANN202
        def feed(self, dispatches, stop):  # noqa: ANN001, ANN202
            for updates, fed in zip(dispatches, training(self, dispatches, stop), strict=True):
                step = updates[0]
                if kind == "step" and step == at:
                    end()  # update `at` is about to start
                if kind == "signal" and step == at:
                    os.kill(os.getpid(), int(numbers[0]))
                yield fed

        return feed

    def dying_save(self, step, state, rows):  # noqa: ANN001, ANN202
        if kind == "save" and step == at:
            end()
        save(self, step, state, rows)
        if kind == "committing" and step == at:
            end()  # the write in the background is under way

    def dying_seal(folder, step, *known):  # noqa: ANN001, ANN202
        if kind == "sealing" and step == at:
            end()  # Orbax is done
        seal_it(folder, step, *known)
        if kind == "sealed" and step == at:
            end()  # it has not got its name

    def dying_evaluate(self, state, views, progress, stop):  # noqa: ANN001, ANN202
        row = evaluate(self, state, views, progress, stop)
        if kind == "evaluate" and row["step"] == at:
            end()
        return row

    def dying_write(self, row):  # noqa: ANN001, ANN202
        if kind == "row" and row["step"] == at:
            self._file.write(f'{{"step": {at}, "spl')  # a line cut short
            self._file.flush()
            end()
        write(self, row)

    sent, removed = itertools.count(1), itertools.count(1)
    upload, delete = bucket.Bucket.upload, bucket.Bucket.delete

    def dying_upload(self, name, data):  # noqa: ANN001, ANN202
        if kind == "upload" and next(sent) >= at:
            end()
        upload(self, name, data)

    def dying_delete(self, name):  # noqa: ANN001, ANN202
        if kind == "removal" and next(removed) >= at:
            end()
        delete(self, name)

    bucket.Bucket.upload, bucket.Bucket.delete = dying_upload, dying_delete
    host_feed.HostFeed.training = dying(host_feed.HostFeed.training)
    resident.ResidentFeed.training = dying(resident.ResidentFeed.training)
    checkpoint.Checkpoints.save = dying_save
    seal.write = dying_seal
    run.Run.evaluate = dying_evaluate
    writers.MetricsFile.write = dying_write


if __name__ == "__main__":
    writers.Writers.draw = lambda self: None  # tested elsewhere; a second for each process
    if sys.argv[3]:
        arm(sys.argv[3])
    train.train(from_json(pathlib.Path(sys.argv[1]).read_text()), sys.argv[2])
