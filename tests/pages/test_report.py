"""report.html: what it says of runs, and how a browser shows it."""

import base64
import dataclasses
import html
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import small
from browser import browser, problems
from PIL import Image

from alexnet_jax import report, train
from alexnet_jax.config import MeshConfig, flatten
from alexnet_jax.inference import predictions
from alexnet_jax.inference.network import Network
from alexnet_jax.pages import answers, charts, comparison, page, run
from alexnet_jax.training import history


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three seeds of a small run, one of them on two devices."""
    root = tmp_path_factory.mktemp("runs")
    small.write_folder(root / "set", train=40, val=24)
    for seed in range(3):
        config = small.config(root / "set")
        config.seed, config.num_steps = seed, 10
        if seed == 2:
            config.mesh = MeshConfig(1, 2)
        train.train(config, root / f"seed{seed}")
    return root


@pytest.fixture(scope="module")
def one(folder):
    """The page of one run."""
    return report.make([folder / "seed2"], folder / "one.html", with_answers=True)


@pytest.fixture(scope="module")
def several(folder):
    """The page of three."""
    workdirs = [folder / f"seed{seed}" for seed in range(3)]
    return report.make(workdirs, folder / "several.html", with_answers=False)


def test_a_page_needs_nothing_else(one):
    text = one.read_text()
    assert one.stat().st_size < 5_000_000
    addresses = re.findall(r"(?:src|href)=\"([^\"#][^\"]*)\"", text)
    assert addresses and all(address.startswith("data:") for address in addresses)
    assert "@import" not in text and "url(" not in text


def test_every_picture_says_what_it_shows(one):
    for picture in re.findall(r"<img[^>]*>", one.read_text()):
        [alt] = re.findall(r'alt="([^"]*)"', picture)
        assert len(alt) > 10


def test_it_says_what_was_measured(folder, one):
    summary = json.loads((folder / "seed2" / "summary.json").read_text())
    assert f"<strong>{100 * summary['top1_error']:.2f} %</strong>" in one.read_text()


def test_everything_of_a_run_is_on_it(folder, one):
    """A part for each thing that a page is asked to show."""
    text = html.unescape(one.read_text())
    titles = re.findall(r"<figcaption>([^<]*)", text)
    wanted = [
        *("loss", "top-1 error", "learning rate", "images/s", "waiting for data"),
        *("mean |weight| by layer", "mean |update| by layer"),
        *("the surest right answers", "the surest wrong answers"),
        *("confusion: top-1 error", "errors by class", "conv1", "after each layer: "),
        "Figure 2 with 2 devices: each sends ",
    ]
    assert [w for w in wanted if not any(title.startswith(w) for title in titles)] == []
    about = json.loads((folder / "seed2" / "environment.json").read_text())
    shown = re.sub(r"<[^>]*>", " ", text)
    for part in (
        f"{about['processor']}, {about['cores']} cores; 8 x cpu",
        "train (40 images) to learn from, val (24) to test; 2 classes; fingerprint ",
        about["commit"] or "not known",
        f"jax {about['packages']['jax']}",
        "fields differ from the recipe of the paper's text",
        "lost: computed, and undone by an end",
        "away: between an end and the next start",
        "start at step 0, 2 x cpu in 1 process",
        "% of ",
    ):
        assert part in shown, part
    assert "data_dir" not in re.findall(r"<li><code>([^<]*)", text)
    line = text[text.index('class="line"') :]
    assert all(f'class="{kind}"' in line for kind in ("stretch", "save", "evaluation"))


def test_ten_worst_are_shown_where_few_are_wrong():
    probabilities = np.linspace(0.5, 0.99, 30)[:, None] * [1, 0.01]
    labels = np.zeros(30, np.int32)
    classes = np.tile([0, 1], (30, 1))
    classes[[4, 20]] = [1, 0]
    found = predictions.Predictions(
        *(labels, np.ones(30, bool), classes, probabilities), [str(i) for i in range(30)]
    )
    best, worst, wrong = answers._extremes(found)
    assert best == list(range(29, 20, -1)) + [19]
    assert (worst, wrong) == ([20, 4, 0, 1, 2, 3, 5, 6, 7, 8], 2)


def test_many_runs_stay_one_page(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "MOST_WITH_ANSWERS", 1)
    workdirs = [folder / f"seed{seed}" for seed in range(3)]
    path = report.make(workdirs, tmp_path / "many.html", with_answers=True)
    assert "only the first 1 runs have pictures of answers" in capsys.readouterr().err
    assert sum("conv1" in alt for alt in pictures_of(path)) == 1


def pictures_of(path):
    """The alternative texts of a page's pictures."""
    return re.findall(r'<img[^>]*alt="([^"]*)"', path.read_text())


def test_answers_are_those_of_the_evaluation(folder, one, tmp_path, monkeypatch, capsys):
    """The page reuses saved answers; if damaged or missing (older code), it predicts anew."""
    monkeypatch.setattr(Network, "predict", None)
    again = report.make([folder / "seed2"], tmp_path / "again.html", with_answers=True)
    assert pictures_of(again) == pictures_of(one)
    assert "24 images of val, after 10 updates" in again.read_text()
    monkeypatch.undo()
    shutil.copytree(folder / "seed2", tmp_path / "older")
    kept = tmp_path / "older" / "answers.safetensors"
    kept.write_bytes(b"[]")
    asked = report.make([tmp_path / "older"], tmp_path / "older.html", with_answers=True)
    assert "holds no answers of an evaluation" in capsys.readouterr().err
    kept.unlink()
    report.make([tmp_path / "older"], tmp_path / "older.html", with_answers=True)
    assert not capsys.readouterr().err
    assert pictures_of(asked) == pictures_of(tmp_path / "older.html")


def test_names_cannot_break_the_page(folder, tmp_path):
    own = run.read(folder / "seed0", name="</script><b>x")
    drawn = page.render([own, run.read(folder / "seed1")], {})
    assert "</script><b>" not in drawn
    assert drawn.count("</script>") == 2


def test_the_command_gives_the_same_config(folder):
    """It is parsed as a person would run it."""
    own = run.read(folder / "seed1")
    command = own.command.removeprefix("python -m alexnet_jax.main ")
    script = (
        "import shlex, sys; from alexnet_jax.configs import flags as f; from absl import flags; "
        "from alexnet_jax.config import flatten; f.define(); "
        "flags.DEFINE_string('workdir', '', ''); "
        "sys.argv = f.resolve(['x', *shlex.split(sys.argv[1])]); flags.FLAGS(sys.argv); "
        "print(flatten(f.value()))"
    )
    done = subprocess.run([sys.executable, "-c", script, command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, wanted = eval(done.stdout), flatten(own.config)
    assert {k: v for k, v in found.items() if k not in run.SILENT} == {
        k: v for k, v in wanted.items() if k not in run.SILENT
    }


def test_means_are_over_seeds_alone(folder):
    runs = run.read_all([folder / f"seed{seed}" for seed in range(3)])
    found = comparison.groups(runs)
    assert [group.names for group in found] == [["seed0", "seed1"], ["seed2"]]
    errors = [r.last[1]["top1_error"] for r in runs[:2]]
    mean, half = found[0].errors[1]
    assert mean == pytest.approx(np.mean(errors))
    assert half == pytest.approx(12.706 * np.std(errors, ddof=1) / 2**0.5)
    assert dict(comparison.differences(runs)).keys() == {"seed", "mesh.model"}


def test_runs_of_one_name_are_told_apart(folder, tmp_path):
    (tmp_path / "seed0").symlink_to(folder / "seed0")
    names = [r.name for r in run.read_all([folder / "seed0", tmp_path / "seed0"])]
    assert len(set(names)) == 2


def test_of_several_runs_each_has_a_colour_and_each_series_a_line(folder):
    runs = run.read_all([folder / f"seed{seed}" for seed in range(3)])
    loss = charts.charts(runs)[0]
    assert {(c.label.split(":")[0], c.colour) for c in loss.curves} == {
        (f"seed{seed}", seed) for seed in range(3)
    }
    lines = {c.label.split(": ")[1]: c.dash for c in loss.curves}
    assert lines["train"] == 0 and len(set(lines.values())) == len(lines) > 1
    [alone, *_] = charts.charts(runs[:1])
    assert [c.colour for c in alone.curves] == list(range(len(alone.curves)))


def test_curves_keep_their_ends_when_they_are_thinned(folder):
    rows = [{"step": i, "split": "train", "loss": 1.0 / i} for i in range(1, 10_001)]
    own = dataclasses.replace(run.read(folder / "seed0"), rows=rows)
    [chart] = charts.charts([own])
    [curve] = chart.curves
    assert len(curve.x) <= charts.MOST_POINTS + 1
    assert (curve.x[0], curve.x[-1], curve.y[-1]) == (1.0, 10_000.0, 1e-4)
    assert "least 0.0001 at step 10,000" in curve.described()


def test_layers_have_curves_as_the_program_of_2012_printed_them(folder):
    own = run.read(folder / "seed0")
    by_title = {chart.title: chart for chart in charts.charts([own])}
    for title in ("mean |weight| by layer", "mean |update| by layer"):
        assert [c.label for c in by_title[title].curves][:2] == ["conv1", "conv2"]
        assert len(by_title[title].curves) == 8


def event(second, kind, **about):
    return {"event": kind, "at": f"2026-01-01T00:00:{second:02}.000+00:00"} | about


def test_a_time_line_has_a_stretch_for_each_start(folder):
    events = [
        *(event(0, "start", step=0), event(5, "save", step=5, spent={}), event(10, "end")),
        *(event(20, "start", step=5), event(30, "evaluate", step=9)),
        event(40, "end", reason=history.FINISHED, step=9, spent={}),
    ]
    found = dataclasses.replace(run.read(folder / "seed0"), events=events).stretches
    assert [(s.start, s.length) for s in found] == [(0, 0.25), (0.5, 0.5)]
    assert found[0].saves == [0.125] and found[1].evaluations == [0.75]
    assert found[1].end == "finished"


def test_a_run_that_lost_its_files_still_has_a_page(folder, tmp_path, capsys):
    import shutil

    shutil.copytree(folder / "seed2", tmp_path / "w")
    for name in ("history.jsonl", "environment.json", "exchanges.json", "dataset.json"):
        (tmp_path / "w" / name).unlink()
    made = report.make([tmp_path / "w"], tmp_path / "w" / "report.html", with_answers=True)
    assert "without answers (" in capsys.readouterr().err
    assert "kept no history" in made.read_text()


@pytest.mark.slow
def test_the_command_of_a_run_makes_it(folder, tmp_path):
    config = small.config(folder / "set")
    config.num_steps, config.report_every_minutes = 2, 10.0
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from alexnet_jax.config import from_json\n"
        f"def get_config():\n    return from_json({json.dumps(dataclasses.asdict(config))!r})\n"
    )
    command = [sys.executable, "-m", "alexnet_jax.main", "--workdir=w", f"--config={recipe}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    plots = "w/plots/learning_curves.png"
    assert f"see w/report.html, {plots}, or: tensorboard --logdir w/tensorboard" in done.stdout
    assert "the surest" in (tmp_path / "w" / "report.html").read_text()


def shown(found, path):
    found.get(path.as_uri())
    assert problems(found) == []
    return found


def test_a_browser_draws_it_and_tells_values(one):
    with browser() as found:
        shown(found, one)
        assert len(found.find_elements("css selector", ".chart canvas")) >= 7
        chart = found.find_element("css selector", ".chart .u-over")
        found.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
        from selenium.webdriver import ActionChains

        ActionChains(found).move_to_element(chart).perform()
        legend = found.find_element("css selector", ".chart .u-legend").text
        assert re.search(r"step:?\s*\d+", legend) and re.search(r"train:?\s*\d", legend), legend
        found.find_element("css selector", "[data-log='0']").click()
        found.execute_script(
            "const s = document.getElementById('smoothing'); s.value = 0.9;"
            "s.dispatchEvent(new Event('input'))"
        )
        assert problems(found) == []
        pictures = found.find_elements("css selector", "img")
        assert pictures and all(
            found.execute_script(
                "arguments[0].loading = 'eager'; return arguments[0].decode()"
                ".then(() => arguments[0].naturalWidth > 100)",
                picture,
            )
            for picture in pictures
        )


@pytest.mark.exhaustive
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [380, 1200])
def test_a_screen_of_any_kind_shows_all_of_it(one, several, width, dark):
    for path in (one, several):
        with browser(width, 900, dark) as found:
            shown(found, path)
            across = found.execute_script("return document.documentElement.scrollWidth")
            assert across <= width
            image = Image.open(io.BytesIO(found.get_screenshot_as_png())).convert("L")
            pixels = np.asarray(image)
            assert pixels.std() > 10  # there is something on it
            assert (np.median(pixels) < 80) == dark


@pytest.mark.exhaustive
def test_a_legend_has_a_piece_of_each_curve(several):
    with browser() as found:
        shown(found, several)
        markers = found.execute_script(
            "return [...document.querySelector('.chart').querySelectorAll('.u-marker')].map(one =>"
            " { const s = getComputedStyle(one); return [s.borderTopColor, s.borderTopStyle,"
            " s.borderTopWidth, s.borderBottomWidth, one.offsetWidth]; })"
        )
        _, *lines = markers  # the first is of the steps
        assert len({(colour, style) for colour, style, *_ in lines}) == len(lines) >= 4
        assert {style for _, style, *_ in lines} >= {"solid", "dashed"}
        assert all(
            width >= 15 and (top, bottom) == ("2px", "0px") for *_, top, bottom, width in lines
        )


@pytest.mark.exhaustive
def test_paper_has_all_of_it(one):
    visible = "return [...document.querySelectorAll('details > *, img')].map(one =>"
    visible += " one.checkVisibility({contentVisibilityAuto: true, visibilityProperty: true}))"
    with browser() as found:
        shown(found, one)
        # Without having been scrolled to.
        assert found.execute_script(
            "return [...document.images].every(one => one.complete && one.naturalWidth > 100)"
        )
        assert not all(found.execute_script(visible))
        found.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
        assert all(found.execute_script(visible))
        pdf = found.execute_cdp_cmd("Page.printToPDF", {})["data"]
        assert base64.b64decode(pdf).count(b"/Subtype /Image") >= len(pictures_of(one)) - 1


@pytest.mark.exhaustive
def test_the_keyboard_reads_curves_and_zooms(one):
    from selenium.webdriver.common.keys import Keys

    def read():
        return int(re.search(r"step:?\s*([\d,]+)", legend.text)[1].replace(",", ""))

    with browser() as found:
        shown(found, one)
        chart = found.find_element("css selector", ".chart")
        legend = chart.find_element("css selector", ".u-legend")
        chart.send_keys(Keys.ARROW_RIGHT)
        first = read()
        chart.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
        assert read() == first + 2
        chart.send_keys(Keys.ARROW_LEFT)
        assert read() == first + 1
        ticks = "return document.querySelector('.chart canvas').toDataURL()"
        whole = found.execute_script(ticks)
        chart.send_keys("+")
        nearer = found.execute_script(ticks)
        chart.send_keys("0")
        assert whole != nearer and found.execute_script(ticks) == whole
        assert problems(found) == []


@pytest.mark.exhaustive
def test_the_keyboard_reaches_everything(one):
    from selenium.webdriver.common.keys import Keys

    with browser() as found:
        shown(found, one)
        reached = []
        for _ in range(40):
            found.switch_to.active_element.send_keys(Keys.TAB)
            own = found.switch_to.active_element
            reached.append((own.tag_name, own.get_attribute("id") or own.get_attribute("href")))
        kinds = {tag for tag, _ in reached}
        assert {"a", "input", "summary"} <= kinds
        assert reached[0][1].endswith("#results")  # past the links, at once
