"""history.jsonl: what a run's time went to, whatever ended it."""

import json

import pytest
import small

from alexnet_jax import train
from alexnet_jax.errors import Interrupted
from alexnet_jax.host.stopwatch import Stopwatch
from alexnet_jax.training import history
from alexnet_jax.training.history import FINISHED, History, account, described


@pytest.fixture
def config(tmp_path):
    small.write_folder(tmp_path / "set")
    return small.config(tmp_path / "set")


def at(second):
    return f"2026-01-01T00:{second // 60:02}:{second % 60:02}.000+00:00"


def start(second, step):
    return {"event": "start", "at": at(second), "step": step, "processes": 1, "devices": "1 x cpu"}


def save(second, step, /, **spent):
    return {"event": "save", "at": at(second), "step": step, "spent": spent}


def end(second, step=0, reason="SIGTERM", /, **spent):
    return {"event": "end", "at": at(second), "step": step, "reason": reason, "spent": spent}


def killed(second):
    return {"event": "end", "at": at(second), "reason": history.KILLED}


def test_all_of_a_whole_run():
    found = account(
        [start(0, 0), save(70, 9, start=10.0, step=60.0), end(80, 9, FINISHED, save=10)]
    )
    assert found["goodput"] == pytest.approx(60 / 80)
    assert (found["seconds"], found["save"], found["lost"], found["away"]) == (80, 10, 0, 0)


def test_what_a_kill_undid_is_lost_and_the_time_after_it_away():
    found = account(
        [
            *(start(0, 0), save(50, 5, start=10.0, step=40.0), killed(80)),
            *(start(100, 5), save(160, 10, start=20.0, step=40.0), end(160, 10, FINISHED)),
        ]
    )
    assert (found["lost"], found["away"], found["step"], found["start"]) == (30, 20, 80, 30)
    assert found["seconds"] == 160 and found["starts"] == 2
    assert found["goodput"] == pytest.approx(0.5)


def test_a_checkpoint_that_is_not_taken_is_lost_too():
    found = account(
        [
            *(start(0, 0), save(20, 5, step=20.0), save(50, 10, step=30.0), killed(50)),
            *(start(50, 5), end(80, 10, FINISHED, step=30.0)),
        ]
    )
    assert (found["lost"], found["step"], found["seconds"]) == (30, 50, 80)


def test_an_error_after_the_last_save_loses_what_it_did_since():
    failed = end(60, 8, "NonFiniteError: step 8", step=40.0)
    found = account([start(0, 0), save(20, 5, step=20.0), failed, start(60, 5)])
    assert (found["lost"], found["step"]) == (40, 20)


def test_a_finished_run_that_goes_on_later_was_not_away():
    found = account([start(0, 0), end(10, 5, FINISHED, step=10.0), start(3000, 5)])
    assert found["away"] == 0 and found["goodput"] == 1


def test_the_line_names_what_is_worth_a_name():
    found = account([start(0, 0), save(50, 5, start=10.0, step=40.0, save=0.1), killed(80)])
    assert described(found) == "50 % of 80 s were updates (start 10 s, lost 30 s)"


def test_a_history_that_is_damaged_is_read_without_its_broken_lines(tmp_path, capsys):
    path = tmp_path / history.FILE
    lines = [json.dumps(start(0, 0)), '{"event": "save"}', "\0", json.dumps(save(9, 5, step=9.0))]
    path.write_text("\n".join([*lines, '{"event": "en']))
    assert [event["event"] for event in history.read(path)] == ["start", "save"]
    assert "line 2 is no event, nor are 1 others" in capsys.readouterr().err
    with History(tmp_path, Stopwatch("start")) as kept:
        kept.begin(5, 1, "1 x cpu")
        kept.finish()
    assert [event["event"] for event in history.read(path)][-3:] == ["end", "start", "end"]


@pytest.mark.parametrize(
    "line",
    [
        *("[]", '"start"', "1", "null", "{}", '{"event": "start"}', '{"event": ["start"]}'),
        '{"event": "start", "at": "2026-01-01", "step": 1.5}',
        '{"event": "start", "at": "2026-01-01"}',
        '{"event": "start", "at": 5, "step": 1}',
        '{"event": "start", "at": "0001-01-01", "step": 1}',
        '{"event": "save", "at": "2026-01-01", "step": 1, "spent": []}',
        '{"event": "save", "at": "2026-01-01", "step": 1, "spent": {"step": null}}',
        '{"event": "save", "at": "2026-01-01", "step": 1, "spent": {"step": NaN}}',
        '{"event": "end", "at": "2026-01-01", "spent": {"step": 1}}',
        "[" * 3000,
    ],
)
def test_what_is_no_event_is_left_out(tmp_path, line):
    (tmp_path / history.FILE).write_text(f"{json.dumps(start(0, 0))}\n{line}\n")
    found = history.read(tmp_path / history.FILE)
    assert len(found) == 1 and account(found)["starts"] == 1


def test_a_run_accounts_for_all_its_time(config, tmp_path):
    summary = train.train(config, tmp_path / "w")
    time = summary["time"]
    kinds = [*history.KINDS, "lost", "away"]
    assert sum(time[kind] for kind in kinds) == pytest.approx(time["seconds"], abs=0.01)
    for kind in ("step", "compile", "evaluate", "save", "start"):
        assert time[kind] > 0, kind
    assert (time["lost"], time["away"], time["starts"]) == (0, 0, 1)
    events = history.read(tmp_path / "w" / history.FILE)
    assert [e["step"] for e in events if e["event"] == "save"] == [2, 3, 4, 5]
    assert events[-1]["reason"] == FINISHED and events[-1]["step"] == summary["step"]


def test_a_run_that_ends_early_says_why(config, tmp_path, monkeypatch):
    def fails(*_):
        raise Interrupted("stopped and saved after step 2; run again to go on", 143)

    with monkeypatch.context() as patched:
        patched.setattr("alexnet_jax.training.loop.Loop.run", fails)
        with pytest.raises(Interrupted):
            train.train(config, tmp_path / "w")
    assert train.train(config, tmp_path / "w")["time"]["starts"] == 2
    reasons = [e["reason"] for e in history.read(tmp_path / "w" / history.FILE) if "reason" in e]
    assert reasons[0].endswith("(exit 143)") and reasons[1] == FINISHED
