"""PyTorch's checkpoints as its own scripts save them, written by PyTorch itself."""

import argparse
import pathlib
import pickle

import numpy as np
import pytest

from alexnet_jax.weights import torch_file
from alexnet_jax.weights.types import WeightsError

torch = pytest.importorskip("torch")
nn = torch.nn


class AlexNet(nn.Module):
    """The layers of torchvision's, a few units wide."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(3, 4, 11), (4, 6, 5), (6, 8, 3), (8, 5, 3), (5, 5, 3)]
        convolutions = [nn.Conv2d(i, o, k) for i, o, k in sizes]
        pool = nn.MaxPool2d(3, 2)
        c1, c2, c3, c4, c5 = convolutions
        relu = nn.ReLU
        self.features = nn.Sequential(
            *(c1, relu(), pool, c2, relu(), pool, c3, relu(), c4, relu(), c5, relu(), pool)
        )
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(20, 7), relu(), nn.Dropout(), nn.Linear(7, 7), relu()),
            nn.Linear(7, 10),
        )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return AlexNet()


@pytest.fixture(scope="module")
def optimizer(network):
    made = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
    sum(parameter.sum() for parameter in network.parameters()).backward()
    made.step()
    return made


def renamed(state, rename):
    return {rename(name): value for name, value in state.items()}


def inside(name: str) -> str:
    return name.replace("features.", "features.module.")


FORMS = {
    "plain": lambda m, o: m.state_dict(),
    "DataParallel": lambda m, o: nn.DataParallel(m).state_dict(),
    "pytorch/examples": lambda m, o: {
        "epoch": 3,
        "arch": "alexnet",
        "state_dict": renamed(m.state_dict(), inside),
        "best_acc1": torch.tensor(3.0),
        "optimizer": o.state_dict(),
        "scheduler": {"last_epoch": 2, "_step_count": 3},
    },
    "torchvision's reference": lambda m, o: {
        "model": m.state_dict(),
        "optimizer": o.state_dict(),
        "lr_scheduler": {},
        "epoch": 89,
        "args": argparse.Namespace(lr=0.1, output_dir=pathlib.PurePosixPath("/x"), gpus={1, 2}),
    },
    "Lightning": lambda m, o: {
        "epoch": 1,
        "pytorch-lightning_version": "2.5",
        "state_dict": renamed(m.state_dict(), "model.{}".format),
        "optimizer_states": [o.state_dict()],
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_path": ""}},
    },
    "torch.compile of DDP": lambda m, o: renamed(m.state_dict(), "_orig_mod.module.{}".format),
    "model_state_dict": lambda m, o: {
        "optimizer_state_dict": {},
        "model_state_dict": m.state_dict(),
    },
    "nested": lambda m, o: {"checkpoint": {"net": m.state_dict(), "acc": 91.2}},
    "half": lambda m, o: renamed({k: v.half() for k, v in m.state_dict().items()}, str),
    "bfloat16": lambda m, o: {k: v.bfloat16() for k, v in m.state_dict().items()},
    "double": lambda m, o: {k: v.double() for k, v in m.state_dict().items()},
    "a whole module": lambda m, o: m,
    "a wrapped module": lambda m, o: nn.DataParallel(m),
    "a module among others": lambda m, o: {"net": m, "history": [1.0, 2.0]},
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before"])
@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_is_read_like_the_plain_state(network, optimizer, tmp_path, form, legacy):
    path = tmp_path / "checkpoint.pth"
    saved = FORMS[form](network, optimizer)
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    found = torch_file.read(path)
    wanted = {name: value.numpy() for name, value in network.state_dict().items()}
    assert found.keys() == wanted.keys()
    near = {"half": 1e-3, "bfloat16": 1e-2}.get(form, 0.0)
    for name, value in wanted.items():
        np.testing.assert_allclose(np.asarray(found[name], np.float32), value, rtol=near, atol=near)


@pytest.mark.parametrize("legacy", [False, True])
def test_storages_of_any_width_may_lie_between(network, tmp_path, legacy):
    """Also in lists and tuples: in the older format, whatever precedes the weights shifts them."""
    others = [
        torch.arange(5),
        (torch.ones(3, dtype=torch.uint8), torch.ones(7, dtype=torch.bool)),
        {"deep": [[torch.ones(2, dtype=torch.complex64), torch.ones(1, dtype=torch.int16)]]},
    ]
    path = tmp_path / "odd.pth"
    saved = {"ema_decay": others, "state_dict": network.state_dict()}
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    found = torch_file.read(path)
    for name, value in network.state_dict().items():
        np.testing.assert_array_equal(found[name], value.numpy(), err_msg=name)


class Hostile:
    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("legacy", [False, True])
def test_what_would_call_something_is_refused_by_name(network, tmp_path, legacy):
    path = tmp_path / "hostile.pth"
    torch.save(
        {"model": network.state_dict(), "args": Hostile()},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    with pytest.raises(WeightsError, match=r"a call of (__builtin__|builtins)\.exec"):
        torch_file.read(path)


def test_what_is_there_is_named(tmp_path):
    path = tmp_path / "other.pth"
    torch.save({"epoch": 1, "losses": [1.0]}, path)
    with pytest.raises(WeightsError, match="it holds epoch, losses"):
        torch_file.read(path)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(WeightsError, match="neither a ZIP archive nor of PyTorch's format"):
        torch_file.read(path)
    path.write_bytes(b"\x80\x02")
    with pytest.raises(WeightsError, match="is not a state dictionary"):
        torch_file.read(path)


def test_of_several_networks_it_is_said_which_is_read(network, tmp_path, capsys):
    state = network.state_dict()
    other = {name: value + 1 for name, value in state.items()}
    path = tmp_path / "net.pth"
    several = {
        "model": renamed(other, "ema_model.{}".format) | renamed(state, "model.{}".format),
        "state_dict": {"ema": other, "model": state},
        "net": renamed(state, "student.{}".format) | renamed(other, "teacher.{}".format),
    }
    for key, found in several.items():
        torch.save(found if key == "state_dict" else {key: found}, path)
        read = torch_file.read(path)
        np.testing.assert_array_equal(read["features.0.weight"], state["features.0.weight"])
        assert "note: there are several networks (" in capsys.readouterr().err
    torch.save(state, path)
    torch_file.read(path)
    assert capsys.readouterr().err == ""
    torch.save(state | renamed(other, "module.{}".format), path)
    with pytest.raises(WeightsError, match="features.0.weight is there twice, as module.features"):
        torch_file.read(path)
    averaged = {"n_averaged": torch.tensor(3), "epoch": 4, **renamed(state, "module.{}".format)}
    torch.save(averaged, path)
    read = torch_file.read(path)
    assert set(read) == set(state)
