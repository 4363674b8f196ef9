"""Convolutions and products by oneDNN."""

import concurrent.futures
import functools
import logging
import pathlib
import re
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.experimental.compilation_cache import compilation_cache
from x64 import enable_x64

from alexnet_jax import configs, evaluate, train
from alexnet_jax.ops import compilation, convolution, matmul, onednn
from alexnet_jax.steps import evaluation, training

needs_onednn = pytest.mark.skipif(not onednn.available(), reason="this jaxlib's oneDNN is unknown")


@pytest.fixture
def fresh():
    onednn.available.cache_clear()
    yield
    onednn.available.cache_clear()


def by_windows(x, kernel, stride, padding, groups):
    """The sum over taps and channels at each place, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), *padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))
    windows = np.split(windows[:, ::stride, ::stride], groups, axis=3)
    kernels = np.split(kernel.astype(np.float64), groups, axis=3)
    found = [np.einsum("nhwcij,ijco->nhwo", *pair) for pair in zip(windows, kernels, strict=True)]
    return np.concatenate(found, axis=-1)


def test_the_versions_that_users_get_are_known():
    """Before a pin moves, these tests must pass with the new version, and `VERSIONS` list it."""
    pins = pathlib.Path(__file__).parents[2].joinpath("requirements.txt").read_text()
    given = re.findall(r"^jaxlib==(\S+)", pins, re.MULTILINE)
    assert given
    assert set(given) <= set(onednn.VERSIONS)


@needs_onednn
@pytest.mark.parametrize(
    ("side", "channels", "size", "out", "stride", "padding", "groups"),
    [
        (31, 3, 11, 24, 4, 0, 1),
        (32, 3, 11, 8, 4, ((1, 2), (3, 0)), 1),
        (9, 24, 5, 64, 1, 2, 2),
        (5, 12, 3, 10, 1, 1, 2),
        (4, 3, 3, 1, 1, 0, 1),
    ],
)
def test_it_is_the_same_convolution(side, channels, size, out, stride, padding, groups):
    random = np.random.default_rng(0)
    x = random.standard_normal((2, side, side + 1, channels), np.float32)
    kernel = random.standard_normal((size, size, channels // groups, out), np.float32)
    own = functools.partial(convolution.conv, stride=stride, padding=padding, groups=groups)
    program = compilation.compiled(own, x, kernel)
    assert onednn.CONVOLUTION in program.as_text()
    zeros = ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding
    wanted = by_windows(x, kernel, stride, zeros, groups)
    np.testing.assert_allclose(program(x, kernel), wanted, rtol=0, atol=3e-6 * size**2 * channels)


@needs_onednn
def test_both_steps_have_it():
    config = configs.get("default")
    config.num_classes, config.batch_size = 10, 8
    texts = [
        way(config).as_text() for way in (evaluate.compile_eval_step, train.compile_train_step)
    ]
    # Of conv1's input there is no gradient.
    assert [text.count(f'"{onednn.CONVOLUTION}"') for text in texts] == [5, 5 + 4]
    # The five convolutions' biases too.
    assert [text.count(f'"{onednn.PRODUCT}"') for text in texts] == [3, 3 * 3 + 5]


@needs_onednn
@pytest.mark.parametrize("places", [(2, 3, 4, 6), (8, 55, 55, 96), (64, 27, 27, 8), (1, 1, 1, 1)])
def test_a_bias_s_gradient_is_the_sum_over_places(places):
    dy = np.random.default_rng(0).uniform(0, 1, places).astype(np.float32)

    def gradient(dy):
        bias = jnp.zeros(dy.shape[-1])
        return jax.vjp(convolution.add_bias, jnp.zeros_like(dy), bias)[1](dy)

    program = compilation.compiled(gradient, dy)
    assert program.as_text().count(f'"{onednn.PRODUCT}"') == 1
    of_x, of_bias = program(dy)
    np.testing.assert_array_equal(of_x, dy)
    if share := places[3] // 2:  # a device's share of the channels is summed as the whole
        part = np.ascontiguousarray(dy[..., :share])
        own = compilation.compiled(gradient, part)(part)[1]
        np.testing.assert_array_equal(own, of_bias[:share])
    np.testing.assert_allclose(of_bias, dy.astype(np.float64).sum(axis=(0, 1, 2)), rtol=1e-5)


@needs_onednn
@pytest.mark.parametrize(("rows", "depth", "columns"), [(4, 7, 5), (1, 64, 3), (33, 300, 1)])
def test_products_and_their_gradients_are_float64_s(rows, depth, columns):
    random = np.random.default_rng(0)
    x, matrix, dy = (
        random.standard_normal(shape, np.float32)
        for shape in ((rows, depth), (depth, columns), (rows, columns))
    )

    def all_three(x, matrix, dy):
        y, back = jax.vjp(matmul.fully_connected, x, matrix)
        return y, *back(dy)

    program = compilation.compiled(all_three, x, matrix, dy)
    assert program.as_text().count(f'"{onednn.PRODUCT}"') == 3
    wide = [a.astype(np.float64) for a in (x, matrix, dy)]
    wanted = wide[0] @ wide[1], wide[2] @ wide[1].T, wide[0].T @ wide[2]
    for got, want in zip(program(x, matrix, dy), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.sqrt(depth))


@needs_onednn
@pytest.mark.parametrize("columns", [12, 24, 96, 1000])
def test_a_share_of_a_product_is_summed_as_the_whole(columns):
    """Of its columns, as in tensor parallelism, and of its rows, as in data parallelism."""
    random = np.random.default_rng(0)
    x = random.standard_normal((32, 512), np.float32)
    matrix = random.standard_normal((512, columns), np.float32)

    def multiplied(x, matrix):
        return np.asarray(compilation.compiled(matmul.fully_connected, x, matrix)(x, matrix))

    whole = multiplied(x, matrix)
    for parts in (2, 4):
        share = columns // parts
        np.testing.assert_array_equal(multiplied(x, matrix[:, :share]), whole[:, :share])
        np.testing.assert_array_equal(multiplied(x[: 32 // parts], matrix), whole[: 32 // parts])


@needs_onednn
@pytest.mark.parametrize(
    ("size", "padding", "groups"), [(5, 2, 2), (3, 1, 1), (3, ((0, 2), (1, 0)), 2)]
)
def test_the_gradients_are_those_without_it(size, padding, groups, monkeypatch):
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 9, 8, 12), np.float32)
    kernel = random.standard_normal((size, size, 12 // groups, 10), np.float32)
    own = functools.partial(convolution.conv, padding=padding, groups=groups)
    dy = random.standard_normal(jax.eval_shape(own, x, kernel).shape, np.float32)

    def gradients(x, kernel, dy):
        return jax.vjp(own, x, kernel)[1](dy)

    program = compilation.compiled(gradients, x, kernel, dy)
    assert program.as_text().count(f'"{onednn.CONVOLUTION}"') == 1
    wanted = jax.vjp(
        lambda x, kernel: jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            ((padding, padding),) * 2 if isinstance(padding, int) else padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            precision="highest",
        ),
        x,
        kernel,
    )[1](dy)
    for got, want in zip(program(x, kernel, dy), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5 * np.abs(want).max())


@needs_onednn
def test_where_it_learns_it_learns_as_without_it(tmp_path, monkeypatch):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.num_steps = 4
    programs, compile_step = [], training.compile_train_step

    def seen(*arguments):
        programs.append(compile_step(*arguments))
        return programs[-1]

    monkeypatch.setattr(training, "compile_train_step", seen)
    train.train(config, tmp_path / "with")
    # Not `platform.using`: a run compiles in threads of its own.
    monkeypatch.setattr(onednn, "available", lambda: False)
    train.train(config, tmp_path / "without")
    assert [onednn.CONVOLUTION in program.as_text() for program in programs] == [True, False]
    losses = [[row["loss"] for row in small.rows(tmp_path / w)] for w in ("with", "without")]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@needs_onednn
@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float64])
def test_other_types_are_xlas(kind):
    with enable_x64(True):
        x, kernel = jnp.ones((1, 5, 5, 2), kind), jnp.ones((3, 3, 2, 4), kind)
        program = compilation.compiled(convolution.conv, x, kernel)
        assert onednn.CONVOLUTION not in program.as_text()
        assert (program(x, kernel) == 18).all()


@needs_onednn
@pytest.mark.parametrize(
    ("image", "taps", "padding"),
    [((1, 5, 5, 2), (3, 3, 2, 4), ((-1, -1), (0, 0))), ((2, 5, 5, 0), (3, 3, 0, 9), 0)],
)
def test_what_it_would_end_the_process_for_is_xlas(image, taps, padding):
    x, kernel = jnp.ones(image), jnp.ones(taps)
    own = functools.partial(convolution.conv, padding=padding)
    program = compilation.compiled(own, x, kernel)
    assert onednn.CONVOLUTION not in program.as_text()
    assert (program(x, kernel) == 9 * image[-1]).all()


@needs_onednn
def test_it_is_found_inside_a_trace_too(fresh):
    def asking(x):
        assert onednn.available()
        return x

    jax.jit(asking)(1.0)


@needs_onednn
def test_a_runs_own_evaluation_has_it(fresh, tmp_path, monkeypatch, caplog):
    """The loop compiles it under a guard against accidental transfers to a device."""
    small.write_folder(tmp_path / "set")
    programs, compile_step = [], evaluation.compile_eval_step

    def seen(*arguments):
        programs.append(compile_step(*arguments))
        return programs[-1]

    monkeypatch.setattr(evaluation, "compile_eval_step", seen)
    train.train(small.config(tmp_path / "set"), tmp_path / "w")
    assert programs and all(onednn.CONVOLUTION in program.as_text() for program in programs)
    assert "oneDNN" not in caplog.text


@needs_onednn
def test_two_threads_leave_the_cache_as_it_was():
    option = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[option]
    first_left, second_entered = threading.Event(), threading.Event()

    def second():
        with onednn.calls():
            second_entered.set()
            assert first_left.wait(60)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        with onednn.calls():
            ended = pool.submit(second)
            assert not second_entered.wait(0.5)
        first_left.set()
        ended.result()
    assert jax.config.values[option] == before


@needs_onednn
def test_a_kernel_may_be_larger_than_its_image():
    x, kernel = jnp.ones((2, 3, 3, 3)), jnp.ones((5, 5, 3, 4))
    assert compilation.compiled(convolution.conv, x, kernel)(x, kernel).size == 0


@needs_onednn
def test_one_function_is_traced_for_each():
    """The same jitted function, inside and outside."""
    function, x = jax.jit(convolution.conv), np.ones((1, 5, 5, 2), np.float32)
    kernel = np.ones((3, 3, 2, 4), np.float32)
    with onednn.calls():
        assert onednn.CONVOLUTION in function.lower(x, kernel).compile().as_text()
    assert onednn.CONVOLUTION not in function.lower(x, kernel).compile().as_text()


@needs_onednn
def test_its_programs_are_not_kept(tmp_path):
    """XLA reads memory that is not its own when it serialises one."""
    x, kernel = jnp.ones((1, 6, 6, 2)), jnp.ones((3, 3, 2, 4))
    options = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = [jax.config.values[option] for option in options]
    try:
        compilation_cache.reset_cache()
        for option, value in zip(options, (str(tmp_path), 0.0), strict=True):
            jax.config.update(option, value)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            program = compilation.compiled(convolution.conv, x, kernel)
        assert onednn.CONVOLUTION in program.as_text() and not list(tmp_path.iterdir())
        assert jax.config.values[options[1]] == 0
        jax.jit(convolution.conv).lower(x, kernel).compile()
        assert list(tmp_path.iterdir()), "no program is kept: this test cannot tell"
    finally:
        for option, value in zip(options, before, strict=True):
            jax.config.update(option, value)
        compilation_cache.reset_cache()


@pytest.mark.parametrize("reason", ["version", "machine", "backend"])
def test_what_is_not_known_computes_as_ever(fresh, monkeypatch, caplog, reason):
    if reason == "version":
        monkeypatch.setattr(onednn, "VERSIONS", ())
    elif reason == "machine":
        monkeypatch.setattr(onednn.platform, "machine", lambda: "arm64")
    else:
        monkeypatch.setattr(onednn.jax, "default_backend", lambda: "gpu")
    assert not onednn.available() and not caplog.text
    x, kernel = jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 4))
    program = compilation.compiled(convolution.conv, x, kernel)
    assert onednn.CONVOLUTION not in program.as_text()
    assert program(x, kernel).tolist() == np.full((1, 3, 3, 4), 18.0).tolist()


@needs_onednn
def test_a_jaxlib_built_without_it_says_so(fresh, monkeypatch, caplog):
    monkeypatch.setattr(onednn, "CONVOLUTION", "__no_such_library$convolution")
    with caplog.at_level(logging.WARNING):
        assert not onednn.available()
    assert "steps will be slower: oneDNN cannot be called" in caplog.text


@needs_onednn
def test_what_it_says_is_not_believed_unseen(fresh, monkeypatch, caplog):
    """As if another jaxlib understood the call in another way."""
    right = onednn.conv
    monkeypatch.setattr(onednn, "conv", lambda *args, **kwargs: 2 * right(*args, **kwargs))
    assert not onednn.available()
    assert "oneDNN cannot be called (ones sum up to [18. 18.])" in caplog.text
