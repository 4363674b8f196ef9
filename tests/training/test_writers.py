import contextlib
import json
import os
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from alexnet_jax.figures import curves
from alexnet_jax.host.progress import Progress
from alexnet_jax.training.board import Board
from alexnet_jax.training.rows import MetricsError, read_rows
from alexnet_jax.training.writers import MetricsFile, Writers


def row(step, split="train", **more):
    return {"step": step, "split": split, "loss": 1.0, "top1_error": 0.5} | more


def test_a_resume_drops_later_rows_and_a_line_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps(row(i)) + "\n" for i in range(1, 6)]
    path.write_text("".join(lines) + '{"step": 6, "spl')
    file = MetricsFile(path, last_step=3)
    file.write(row(4, loss=2.0))
    file.close()
    assert read_rows(path) == [row(1), row(2), row(3), row(4, loss=2.0)]


def test_a_line_without_its_newline_does_not_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(row(1)) + "\n" + json.dumps(row(2)))
    assert read_rows(path) == [row(1)]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("{]\n" + json.dumps(row(2)) + "\n")
    with pytest.raises(MetricsError, match=r"metrics.jsonl: line 1 is not JSON"):
        read_rows(path)


def test_learning_curves_are_drawn(tmp_path):
    rows = [row(i, learning_rate=0.1) for i in range(1, 9)] + [row(4, "val"), row(8, "val")]
    curves.draw_run(rows).save(tmp_path / "plots" / "a.png")
    assert (tmp_path / "plots" / "a.png").read_bytes()[:4] == b"\x89PNG"
    curves.draw_run([row(1, "val")]).save(tmp_path / "plots" / "b.png")
    assert (tmp_path / "plots" / "b.png").exists()
    ten = [row(1, "val", top1_error=0.5), row(1, "val", views=10, top1_error=0.4)]
    axes = curves.draw_run(ten).axes[1]
    assert [line.get_label() for line in axes.lines] == ["val", "val, 10 views"]
    assert [list(line.get_ydata()) for line in axes.lines] == [[50.0], [40.0]]
    assert axes.get_title() == "top-1 error ends at 40.00 %"


def events_of(folder):
    """The events of a folder's one file, in TensorBoard's format: length, sum, bytes, sum."""
    (file,) = folder.iterdir()
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return found


def test_tensorboard_gets_every_number_and_forgets_later_steps(tmp_path):
    with Writers(tmp_path, last_step=7) as writers:
        writers.write(row(8, learning_rate=0.25))
        writers.write(row(9, "val"))
        writers.sync()
        _, begin, *rows = events_of(tmp_path / "tensorboard")
    assert (begin.step, begin.session_log.status) == (8, SessionLog.START)
    assert [event.step for event in rows] == [8, 9]
    numbers = [{v.tag: v.simple_value for v in event.summary.value} for event in rows]
    assert numbers[0] == {"train/loss": 1, "train/top1_error": 0.5, "train/learning_rate": 0.25}
    assert numbers[1] == {"val/loss": 1, "val/top1_error": 0.5}


def test_a_start_within_the_same_second_keeps_what_the_one_before_wrote(tmp_path):
    for last_step in (0, 3):
        with Writers(tmp_path, last_step) as writers:
            writers.write(row(last_step + 1))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_a_full_disk_is_an_error_of_the_row_that_names_the_file(tmp_path, monkeypatch):
    """/dev/full accepts nothing: a write to it fails when it is flushed."""
    writers = Writers(tmp_path, last_step=0)
    metrics, board = writers._metrics, writers._board._events._py_recordio_writer
    for owner, name, mode, path in (
        (metrics, "_file", "a", "metrics.jsonl"),
        (board, "_writer", "ab", "tensorboard"),
    ):
        disk = open("/dev/full", mode)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, disk)
            with pytest.raises(OSError, match=f"No space left on device.*{path}"):
                writers.write(row(1))
                writers.sync()
        disk.raw.close() if hasattr(disk, "raw") else disk.buffer.raw.close()
        with contextlib.suppress(OSError, ValueError):
            disk.close()
        writers.write(row(2))
    with writers:
        pass  # closes them


def test_plain_lines_where_there_is_no_terminal(capsys):
    with Progress("train", 0, 10, "step") as progress:
        progress.advance()
        progress.show("step 1/10", "loss 2.0")
        progress.say("evaluated")
    assert capsys.readouterr().out.splitlines() == ["step 1/10: loss 2.0", "evaluated"]


def test_tensorboard_shows_the_config(tmp_path):
    (tmp_path / "config.json").write_bytes(b'{"seed": 7}\xff')
    with Writers(tmp_path, 0):
        pass
    texts = {
        value.tag: value.tensor.string_val[0].decode()
        for event in events_of(tmp_path / "tensorboard")
        for value in event.summary.value
    }
    assert '{"seed": 7}' in texts["config/text_summary"]


def test_a_path_may_hold_bytes_that_are_no_text(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    board = Board(tmp_path, 0)
    board.write_text("config", f"dataset {name}\nseed 1", 1)
    board.write_settings({"dataset": name, "seed": 1}, {"val/loss": 0.5}, 1)
    board.close()
    found = b"".join(event.SerializeToString() for event in events_of(tmp_path))
    assert found.count(b"caf\\udce9") == 2 and b"dataset caf\\udce9\nseed 1" in found
