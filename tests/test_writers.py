import json

import pytest

from alexnet_jax.progress import Progress
from alexnet_jax.writers import MetricsError, MetricsFile, learning_curves, read_rows


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
    learning_curves(rows, tmp_path / "plots" / "a.png")
    assert (tmp_path / "plots" / "a.png").read_bytes()[:4] == b"\x89PNG"
    learning_curves([row(1, "val")], tmp_path / "plots" / "b.png")
    assert (tmp_path / "plots" / "b.png").exists()


def test_plain_lines_where_there_is_no_terminal(capsys):
    with Progress("train", 0, 10, "step") as progress:
        progress.advance()
        progress.show("step 1/10: loss 2.0")
        progress.say("evaluated")
    assert capsys.readouterr().out.splitlines() == ["step 1/10: loss 2.0", "evaluated"]
