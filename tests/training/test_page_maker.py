"""The page of a run, which another process makes while the run trains."""

import pathlib

from alexnet_jax.training import page_maker
from alexnet_jax.training.page_maker import PageMaker, make_page


class Started:
    """Stands for a process; counts them."""

    def __init__(self, command, **about):
        self.over = False
        started.append((self, command, about["env"]))

    def poll(self):
        return 0 if self.over else None


started: list = []


def test_one_at_a_time_and_not_too_often(tmp_path, monkeypatch):
    started.clear()
    now = [0.0]
    monkeypatch.setattr(page_maker.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(page_maker.subprocess, "Popen", Started)
    maker = PageMaker(tmp_path, 10)
    for now[0], running in ((599, 0), (600, 1), (601, 1), (1300, 1)):
        maker.make_if_due()
        assert len(started) == running
    started[0][0].over = True
    maker.make_if_due()
    assert len(started) == 2
    _, command, environment = started[0]
    assert "--noanswers" in command and environment["JAX_PLATFORMS"] == "cpu"
    package = pathlib.Path(page_maker.__file__).parents[2]
    assert environment["PYTHONPATH"].split(":")[0] == str(package)


def test_never_where_none_is_asked_for(tmp_path, monkeypatch):
    started.clear()
    monkeypatch.setattr(page_maker.time, "monotonic", lambda: 1e9)
    monkeypatch.setattr(page_maker.subprocess, "Popen", Started)
    PageMaker(tmp_path, 0).make_if_due()
    assert started == []


def test_a_page_that_cannot_be_made_is_a_line(tmp_path, capsys):
    assert make_page(tmp_path) == ""
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / 'report.html'}: error: {tmp_path / 'config.json'}")
    assert len(said.splitlines()) == 1
