import os
import subprocess
import sys

import pytest

from alexnet_jax import predict


@pytest.fixture(scope="module")
def run(trained_run):
    return trained_run


def test_the_command_prints_five_best_and_draws_them(run):
    good = sorted((run / "set" / "val" / "light").iterdir())[0]
    bad = run / "broken.jpg"
    bad.write_bytes(b"broken")
    command = [sys.executable, "-m", "alexnet_jax.predict", f"--workdir={run / 'w'}"]
    done = subprocess.run([*command, str(bad), str(good)], capture_output=True, text=True)
    assert done.returncode == 1  # one of the two could not be read, the other was predicted
    assert "broken.jpg: is not a readable image" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(good)
    assert {line.split()[-1] for line in lines[1:3]} == {"dark", "light"}
    total = sum(float(line.split()[0]) for line in lines[1:3])
    assert total == pytest.approx(100, abs=0.02)
    assert (run / "w" / "plots" / "predictions" / f"{good.stem}.png").stat().st_size > 5_000


def test_photographs_of_one_name_and_names_of_every_kind(run, tmp_path):
    """Each has its own picture, none overwrites a photograph, and no name controls the terminal."""
    pixels = sorted((run / "set" / "val" / "light").iterdir())[0].read_bytes()
    names = ["a/x.jpg", "b/x.jpg", "b/X.JPG", "x_2.png", "out/y.png", "$_^\\{x}$.jpg"]
    names += [b"\xff\xfe.jpg", "esc\x1b[31m\nnext.jpg", "鹤.jpg", f"{'n' * 250}.jpg"]
    paths = [tmp_path / os.fsdecode(name) for name in names]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(pixels)
    before = [path.read_bytes() for path in paths]
    command = [sys.executable, "-m", "alexnet_jax.predict", f"--workdir={run / 'w'}"]
    command += [f"--out={tmp_path / 'out'}", str(tmp_path / "absent.jpg"), *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("error: ") == 1, done.stderr
    assert "absent.jpg: cannot be read (No such file or directory)" in done.stderr
    assert [path.read_bytes() for path in paths] == before
    drawn = [line for line in done.stdout.splitlines() if line.startswith("  drawn in ")]
    assert len(drawn) == len(set(drawn)) == len(names)
    assert len({path for path in (tmp_path / "out").iterdir()}) == len(names) + 1
    assert "\x1b" not in done.stdout and "esc\\x1b[31m\\nnext.jpg" in done.stdout
    assert "\\udcff\\udcfe.jpg" in done.stdout and "鹤.jpg" in done.stdout


def test_pictures_never_meet(tmp_path):
    photographs = [
        tmp_path / name for name in ("a/é.jpg", "b/e\u0301.jpg", "E\u0301.png", "é_2.gif")
    ]
    pictures = predict.pictures_of(photographs, tmp_path)
    assert [path.name for path in pictures] == [
        "é_2.png",
        "é_3.png".replace("é", "e\u0301"),
        *("E\u0301_4.png", "é_2_2.png"),
    ]


def test_a_link_to_the_photographs_leads_onto_none(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    photographs = [tmp_path / "photos" / "x.png", tmp_path / "photos" / ("鹤" * 100 + ".jpg")]
    first, second = predict.pictures_of(photographs, tmp_path / "link")
    assert first.name == "x_2.png"
    assert second.name == "鹤" * 66 + ".png"  # 198 bytes, and no half a letter
