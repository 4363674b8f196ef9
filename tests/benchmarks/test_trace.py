"""A recording of some updates, and the table that is made of it."""

import gzip
import json

import pytest
import small

from alexnet_jax import train
from alexnet_jax.benchmarks import trace
from alexnet_jax.benchmarks.trace import Part
from alexnet_jax.config import ConfigError
from alexnet_jax.training import profiler


@pytest.mark.parametrize("text", ["5", "0:3", "7:6", "a:b", ":4", "3:", "-1:2", "1:2:3"])
def test_what_is_no_pair_of_updates_is_refused(text):
    with pytest.raises(ConfigError, match="--profile: .* must be FROM:TO"):
        profiler.steps_of(text)


def test_instructions_belong_to_layers():
    text = """
HloModule jit_step
  %fusion.3 = f32[8,4]{1,0} fusion(%a), kind=kLoop, metadata={op_name="jit(s)/jvp(N)/conv2/add"}
  ROOT %dot.1 = f32[] dot(%a, %b), metadata={op_name="jit(s)/transpose(jvp(N))/fc6/dot_general"}
  %all-gather-start.2 = (f32[4], f32[8]) all-gather-start(%a), metadata={op_name="jit(s)/conv3/x"}
  %ffi.9 = f32[2] custom-call(%a), custom_call_target="__lib$conv", metadata={op_name="conv1"}
  %while.5 = (s32[]) while(%t), body=%b
  %copy.7 = f32[3]{0} copy(%a)
  %add.8 = f32[3]{0} add(%a, %b), metadata={op_name="jit(s)/mul"}
"""
    assert trace.parts_of(text) == {
        "fusion.3": Part("conv2"),
        "dot.1": Part("fc6", backward=True),
        "all-gather-start.2": Part("conv3", exchange=True),
        "ffi.9": Part("conv1"),
        "ffi.9__lib$conv": Part("conv1"),
        "copy.7": Part("other"),
        "add.8": Part("update"),
    }


def test_time_is_dealt_out_and_adds_up():
    conv, fc, sent = Part("conv1"), Part("fc6"), Part("fc6", exchange=True)
    found = trace.summed([(0, 4, conv), (2, 4, fc), (5, 9, sent), (8, 10, conv)], updates=2)
    assert found.parts == {conv: (2 + 1 + 0.5 + 1) / 2, fc: 1 / 2, sent: (3 + 0.5) / 2}
    assert (found.step, found.gap) == (5, 0.5)
    assert (found.exchanged, found.hidden) == (4 / 2, 1 / 2)
    assert sum(found.parts.values()) + found.gap == found.step


@pytest.mark.slow
def test_a_run_is_recorded_and_read(tmp_path, capsys):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    config.mesh.model, config.checkpoint_every_steps = 2, 100
    # The evaluation after the third update is not a part of it.
    train.train(config, tmp_path / "w", profiled=profiler.steps_of("1:4"))
    assert "profile: updates 1 to 3 are in" in capsys.readouterr().out
    found = trace.read(tmp_path / "w")
    assert found.updates == 3
    layers = {part.layer for part in found.parts}
    assert {"views", "conv1", "conv5", "fc6", "fc8", "update"} <= layers
    assert any(part.exchange and part.layer == "conv3" for part in found.parts)
    assert any(part.backward and part.layer == "conv2" for part in found.parts)
    assert 0 < found.exchanged < found.step
    assert sum(found.parts.values()) + found.gap == pytest.approx(found.step)
    said = trace.table(found)
    assert "conv1" in said and "of it hidden" in said
    assert json.loads(found.json())["updates"] == 3
    # What Perfetto and TensorBoard's profile plugin open: complete events, steps among them.
    [file] = (tmp_path / "w" / profiler.FOLDER).rglob("*.trace.json.gz")
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    spans = [event for event in events if event.get("ph") == "X"]
    assert all(event["dur"] >= 0 and "ts" in event for event in spans)
    assert sum(event["name"] == "update" for event in spans) == 3
    assert list((tmp_path / "w" / profiler.FOLDER).rglob("*.xplane.pb"))


@pytest.mark.slow
def test_a_start_without_those_updates_says_so(tmp_path, capsys):
    small.write_folder(tmp_path / "set")
    config = small.config(tmp_path / "set")
    train.train(config, tmp_path / "w", profiled=profiler.steps_of("50:60"))
    assert "profile: this start had no update from 50 to 60" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="holds no recording; train with --profile"):
        trace.read(tmp_path / "w")
