"""answers.safetensors: the last evaluation's answer for each image, and reads of damaged files."""

import numpy as np
import pytest

from alexnet_jax.host.files import DamagedFileError
from alexnet_jax.steps.answers import Answers
from alexnet_jax.training import answers_file


def some(count: int = 6) -> Answers:
    rng = np.random.default_rng(0)
    probabilities = np.sort(rng.dirichlet(np.ones(5), count).astype(np.float32))[:, ::-1]
    classes = np.stack([rng.permutation(5) for _ in range(count)]).astype(np.int32)
    labels = rng.integers(0, 5, count).astype(np.int32)
    return Answers(labels, np.arange(count) != 2, classes, probabilities)


def test_what_was_written_is_read(tmp_path):
    folder = tmp_path / "caf\udce9 [1]"
    folder.mkdir()
    written = answers_file.Evaluated(12, "val\udcff[:3]", some())
    answers_file.write(folder, written)
    read = answers_file.read(folder)
    assert (read.step, read.split) == (12, "val\udcff[:3]")
    for name, array in vars(written.answers).items():
        np.testing.assert_array_equal(getattr(read.answers, name), array)
    with pytest.raises(FileNotFoundError):
        answers_file.read(tmp_path)


def test_a_damaged_file_is_named_or_read_and_nothing_else(tmp_path):
    answers_file.write(tmp_path, answers_file.Evaluated(12, "val", some()))
    path, rng, refused = tmp_path / answers_file.ANSWERS_FILE, np.random.default_rng(1), 0
    whole = path.read_bytes()
    for _ in range(300):
        data = bytearray(whole[: rng.integers(len(whole) + 1)] if rng.random() < 0.3 else whole)
        for place in rng.integers(0, max(len(data), 1), 3) if data else ():
            data[place] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        try:
            answers = answers_file.read(tmp_path).answers
        except DamagedFileError as error:
            assert answers_file.ANSWERS_FILE in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert len(answers.labels) == len(answers.classes) == len(answers.readable)
    assert 100 < refused < 300


@pytest.mark.parametrize(
    "names",
    [["labels"], ["readable"], ["classes"], ["probabilities"], ["classes", "probabilities"]],
    ids=" and ".join,
)
def test_arrays_that_do_not_belong_together_are_refused(tmp_path, names):
    own = vars(some()) | {name: getattr(some(5), name) for name in names}
    answers_file.write(tmp_path, answers_file.Evaluated(1, "val", Answers(**own)))
    with pytest.raises(DamagedFileError, match="do not belong together"):
        answers_file.read(tmp_path)
