"""Weights in and out of other formats, against those formats' own writers."""

import dataclasses
import json
import pathlib
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from alexnet_jax import configs, convert, model
from alexnet_jax.config import ModelConfig
from alexnet_jax.data.statistics import Statistics
from alexnet_jax.inference import trained
from alexnet_jax.layers import standard_tree
from alexnet_jax.steps import augment
from alexnet_jax.training import run_weights
from alexnet_jax.weights import caffe, formats, layout, onnx_file, pickled, torch_file
from alexnet_jax.weights.types import Origin, Weights, WeightsError

LAYERS = ModelConfig().layers()


@pytest.fixture
def narrow(monkeypatch):
    """Recipes of a sixteenth of the width and thirteen classes: the files stay small."""
    get = configs.get

    def of(name):
        config = get(name)
        config.model.width = 1 / 16
        return config

    monkeypatch.setattr(formats.configs, "get", of)
    return of


def random_params(config, classes=13, seed=0):
    network = model.build(config.model, classes, "float32")
    shapes = standard_tree.abstract_parameters(network, config.image_size)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: (0.1 * rng.standard_normal(s.shape)).astype(np.float32), shapes)


def assert_same(a, b):
    for path, leaf in jax.tree_util.tree_leaves_with_path(a):
        np.testing.assert_array_equal(leaf, b[path[0].key][path[1].key], err_msg=str(path))


def ours(weights, images):
    """Logits of centre crops, (B, R, R, 3) uint8, by the weights' own config."""
    c = weights.config
    network = model.build(c.model, len(weights.params["fc8"]["bias"]), "float32")
    [view] = augment.Views.of(c, weights.statistics).evaluation(jnp.asarray(images), 1)
    return np.asarray(standard_tree.logits(network, weights.params, view))


def torchvision_alexnet(nn, width, classes):
    """torchvision.models.alexnet, written again."""
    c = [round(n * width) for n in (64, 192, 384, 256, 256, 4096)]

    class AlexNet(nn.Module):
        def __init__(self):
            super().__init__()
            pool = nn.MaxPool2d(3, 2)
            self.features = nn.Sequential(
                *(nn.Conv2d(3, c[0], 11, 4, 2), nn.ReLU(), pool),
                *(nn.Conv2d(c[0], c[1], 5, 1, 2), nn.ReLU(), pool),
                *(nn.Conv2d(c[1], c[2], 3, 1, 1), nn.ReLU()),
                *(nn.Conv2d(c[2], c[3], 3, 1, 1), nn.ReLU()),
                *(nn.Conv2d(c[3], c[4], 3, 1, 1), nn.ReLU(), pool),
            )
            self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
            self.classifier = nn.Sequential(
                *(nn.Dropout(), nn.Linear(c[4] * 36, c[5]), nn.ReLU()),
                *(nn.Dropout(), nn.Linear(c[5], c[5]), nn.ReLU(), nn.Linear(c[5], classes)),
            )

        def forward(self, x):
            return self.classifier(self.avgpool(self.features(x)).flatten(1))

    return AlexNet().eval()


def test_torchvision_computes_the_same_and_comes_back(narrow, tmp_path, rng):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = torchvision_alexnet(torch.nn, 1 / 16, 13)
    torch.save(theirs.state_dict(), tmp_path / "in.pth")
    weights = formats.READERS["torchvision"](tmp_path / "in.pth", "")
    images = rng.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    crop = torch.from_numpy(images[:, 16:240, 16:240].astype(np.float32) / 255)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        want = theirs(((crop - mean) / std).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(ours(weights, images), want, rtol=1e-4, atol=1e-4 * abs(want).max())
    formats.WRITERS["torchvision"](weights, tmp_path / "out.pth")
    back = torch.load(tmp_path / "out.pth", weights_only=True)
    assert back.keys() == theirs.state_dict().keys()
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(back[name], tensor), name
    assert "divided by 58.395/57.12/57.375" in (tmp_path / "out.pth.md").read_text()


def net_parameter(layers, v1):
    """A NetParameter as protobuf's own library writes it, from the fields of caffe.proto."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name=f"c{v1}.proto", package=f"c{v1}")
    kinds = {"string": 9, "int32": 5, "int64": 3, "float": 2, "message": 11}

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            one = made.field.add(name=field, number=number, label=3 if repeated else 1)
            base, _, packed = kind.partition(" ")
            if base in kinds:
                one.type = kinds[base]
            else:
                one.type, one.type_name = 11, f".c{v1}.{base}"
            if packed:
                one.options.packed = True

    message("Shape", ("dim", 1, "int64 packed", True))
    old = [(n, i, "int32", False) for i, n in enumerate(("num", "channels", "height", "width"), 1)]
    message("Blob", *old, ("data", 5, "float packed", True), ("shape", 7, "Shape", False))
    name, kind, blobs = (4, 5, 6) if v1 else (1, 2, 7)
    message(
        "Layer",
        ("name", name, "string", False),
        ("type", kind, "int32" if v1 else "string", False),
        ("blobs", blobs, "Blob", True),
    )
    message("Net", ("name", 1, "string", False), ("layer", 2 if v1 else 100, "Layer", True))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    net = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"c{v1}.Net"))()
    net.name = "AlexNet"
    numbers = {"Convolution": 4, "InnerProduct": 14, "LRN": 15, "Pooling": 17}
    for layer, kind, arrays in layers:
        added = net.layer.add(name=layer, type=numbers[kind] if v1 else kind)
        for array in arrays:
            blob = added.blobs.add(data=array.ravel().tolist())
            if v1:
                shape = (1,) * (4 - array.ndim) + array.shape
                blob.num, blob.channels, blob.height, blob.width = shape
            else:
                blob.shape.dim.extend(array.shape)
    return net.SerializeToString()


def caffe_layers(tensors, order):
    """Caffe's layers, with normalisation and pooling after conv1 in the order that is asked for."""
    found = []
    for layer in LAYERS:
        kind = "Convolution" if layer.startswith("conv") else "InnerProduct"
        found.append((layer, kind, [tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]]))
        if layer == "conv1":
            found += [(f"{kind}1", kind, []) for kind in order]
    return found


@pytest.mark.parametrize("v1", [False, True])
@pytest.mark.parametrize("recipe", ["bvlc_alexnet", "caffenet"])
def test_caffemodel(narrow, tmp_path, v1, recipe):
    params = random_params(narrow(recipe))
    tensors = layout.from_standard(params, layout.LAYOUTS["caffe"])
    order = ("LRN", "Pooling") if recipe == "bvlc_alexnet" else ("Pooling", "LRN")
    (tmp_path / "net.caffemodel").write_bytes(net_parameter(caffe_layers(tensors, order), v1))
    weights = formats.READERS["caffe"](tmp_path / "net.caffemodel", "")
    assert_same(params, weights.params)
    assert weights.config.model.layer1 == configs.get(recipe).model.layer1
    assert weights.config.num_classes == 13


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def of(number: int, content: bytes) -> bytes:
    """A field of bytes in protobuf's wire format."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def old_blob(array, double: bool) -> bytes:
    shape = (1,) * (4 - array.ndim) + array.shape
    sizes = b"".join(varint(n << 3) + varint(size) for n, size in enumerate(shape, 1))
    numbers = of(8, array.astype("<f8").tobytes()) if double else of(5, array.tobytes())
    return sizes + numbers


@pytest.mark.parametrize("double", [False, True])
def test_layers_of_2013_and_double_precision(narrow, tmp_path, double):
    """V0LayerParameter within V1LayerParameter (caffe.proto), written by its wire format alone."""
    params = random_params(narrow("caffenet"))
    tensors = layout.from_standard(params, layout.LAYOUTS["caffe"])
    kinds = {"LRN": b"lrn", "Pooling": b"pool", "Convolution": b"conv"}
    net = of(1, b"CaffeNet")
    for name, kind, arrays in caffe_layers(tensors, ("Pooling", "LRN")):
        inside = of(1, name.encode()) + of(2, kinds.get(kind, b"innerproduct"))
        inside += b"".join(of(50, old_blob(array, double)) for array in arrays)
        net += of(2, of(1, inside))
    (tmp_path / "net.caffemodel").write_bytes(net)
    weights = formats.READERS["caffe"](tmp_path / "net.caffemodel", "")
    assert_same(params, weights.params)
    assert weights.config.model.layer1 == configs.get("caffenet").model.layer1


def test_a_renamed_last_layer_is_taken_with_its_classes(narrow, tmp_path):
    params = random_params(narrow("caffenet"), classes=20)
    tensors = layout.from_standard(params, layout.LAYOUTS["caffe"])
    layers = caffe_layers(tensors, ("Pooling", "LRN"))
    renamed = [*layers[:-1], ("fc8_flickr", *layers[-1][1:])]
    (tmp_path / "net.caffemodel").write_bytes(net_parameter(renamed, False))
    weights = formats.READERS["caffe"](tmp_path / "net.caffemodel", "")
    assert_same(params, weights.params)
    assert weights.config.num_classes == 20
    two = [*renamed, ("fc9", *layers[-1][1:])]
    (tmp_path / "net.caffemodel").write_bytes(net_parameter(two, False))
    with pytest.raises(WeightsError, match=r"fc8.bias is missing; there are conv1.weight, "):
        formats.READERS["caffe"](tmp_path / "net.caffemodel", "")


def test_tensorflow_s_thousand_and_one_classes_begin_with_the_background(narrow, tmp_path):
    for classes, first in ((1000, "n01440764"), (1001, "background"), (1002, None)):
        params = random_params(narrow("caffenet"), classes=classes)
        tensors = layout.from_standard(params, layout.LAYOUTS["caffe"])
        layers = caffe_layers(tensors, ("Pooling", "LRN"))
        (tmp_path / "net.caffemodel").write_bytes(net_parameter(layers, False))
        names = formats.READERS["caffe"](tmp_path / "net.caffemodel", "").class_names
        assert names[:1] == ([first] if first else [])
        assert len(names) == (classes if first else 0) and names[-1:] in ([], ["n15075141"])


def test_torchvision_s_names_in_safetensors(narrow, tmp_path):
    params = random_params(narrow("torchvision"))
    tensors = layout.from_standard(params, layout.LAYOUTS["torchvision"])
    path = tmp_path / "model.safetensors"
    for before in ("", "module.", "model."):
        save_file({f"{before}{name}": values for name, values in tensors.items()}, path)
        weights = formats.READERS["safetensors"](path, "")
        assert_same(params, weights.params)
        assert weights.config.augment.mean == configs.get("torchvision").augment.mean


def test_caffe_reads_blue_first_and_channels_before_rows(narrow, tmp_path, rng):
    """A forward pass of Caffe's own layout in PyTorch."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    shapes = {"conv1": (6, 3, 11, 11), "conv2": (16, 3, 5, 5), "conv3": (24, 16, 3, 3)}
    shapes |= {"conv4": (24, 12, 3, 3), "conv5": (16, 12, 3, 3)}
    shapes |= {"fc6": (256, 16 * 36), "fc7": (256, 256), "fc8": (13, 256)}
    w = {
        k: (rng.standard_normal(s) / np.sqrt(np.prod(s[1:]))).astype(np.float32)
        for k, s in shapes.items()
    }
    b = {k: (0.1 * rng.standard_normal(s[0])).astype(np.float32) for k, s in shapes.items()}
    named = {f"{k}.weight": v for k, v in w.items()} | {f"{k}.bias": v for k, v in b.items()}
    data = net_parameter(caffe_layers(named, ("LRN", "Pooling")), False)
    (tmp_path / "net.caffemodel").write_bytes(data)
    weights = formats.READERS["caffe"](tmp_path / "net.caffemodel", "")
    images = rng.integers(0, 256, (1, 256, 256, 3), dtype=np.uint8)
    bgr = images[:, 14:241, 14:241, ::-1] - np.array([104.00699, 116.66877, 122.67891])
    v = torch.from_numpy(bgr.transpose(0, 3, 1, 2).astype(np.float32).copy())
    w, b = ({k: torch.from_numpy(v) for k, v in d.items()} for d in (w, b))

    def conv(name, v, **how):
        return f.relu(f.conv2d(v, w[name], b[name], **how))

    def norm_pool(v):
        return f.max_pool2d(f.local_response_norm(v, 5, 1e-4, 0.75, 1.0), 3, 2)

    v = norm_pool(conv("conv1", v, stride=4))
    v = norm_pool(conv("conv2", v, padding=2, groups=2))
    v = conv("conv4", conv("conv3", v, padding=1), padding=1, groups=2)
    v = f.max_pool2d(conv("conv5", v, padding=1, groups=2), 3, 2).flatten(1)
    for layer in ("fc6", "fc7"):
        v = f.relu(f.linear(v, w[layer], b[layer]))
    want = f.linear(v, w["fc8"], b["fc8"]).numpy()
    got = ours(weights, images)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * abs(want).max())


def test_something_else_in_a_dictionarys_place_is_refused(tmp_path):
    for found in ([1, [2, [np.zeros(3)]], {}], (np.zeros(2),), np.array(3.0)):
        with pytest.raises(WeightsError, match=r"net.npy: holds a \w+, not a dictionary"):
            caffe._named(tmp_path / "net.npy", found)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", ["lists", "dictionaries"])
def test_npy_dictionaries(narrow, tmp_path, protocol, form):
    params = random_params(narrow("bvlc_alexnet"))
    tensors = layout.from_standard(params, layout.LAYOUTS["caffe dictionary"])
    found: dict = {}
    for layer in LAYERS:
        kernel, bias = tensors[f"{layer}.kernel"], tensors[f"{layer}.bias"]
        pair = {"weights": kernel, "biases": bias}
        found[layer] = [kernel, bias] if form == "lists" else pair
    array = np.empty((), object)
    array[()] = found
    with (tmp_path / "net.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": ()}
        )
        pickle.dump(array, file, protocol)
    assert_same(params, formats.READERS["caffe"](tmp_path / "net.npy", "").params)


class Evil:
    def __reduce__(self):
        return (pathlib.Path.touch, (pathlib.Path("executed"),))


def test_pickles_are_read_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in range(2, 6):
        data = pickle.dumps({"a": [1, 2.5, None, True, "text"], "evil": Evil()}, protocol)
        with pytest.raises(pickled.PickleError, match=r"a call of .*(touch|Path|getattr)"):
            pickled.read(data)
    np.save("evil.npy", np.array({"conv1": Evil()}, dtype=object), allow_pickle=True)
    with pytest.raises(WeightsError, match=r"evil.npy: .*a call of"):
        caffe.read_dictionary(pathlib.Path("evil.npy"))
    with zipfile.ZipFile("evil.pth", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"conv1": Evil()}, 2))
    with pytest.raises(WeightsError, match=r"evil.pth: .*a call of"):
        torch_file.read(pathlib.Path("evil.pth"))
    assert not pathlib.Path("executed").exists()


def test_pickles_that_unfold_without_end_are_finished_or_refused():
    """Fifty lists, each holding the one before twice, are 2 ** 50 when unfolded."""
    value: list = []
    for _ in range(50):
        value = [value, value]
    got = pickled.read(pickle.dumps(value))
    for _ in range(50):
        assert len(got) == 2
        assert got[0] is got[1]
        got = got[0]
    value = []
    value.append(value)
    with pytest.raises(pickled.PickleError, match="holds itself"):
        pickled.read(pickle.dumps(value))
    deep = b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b"."
    with pytest.raises(pickled.PickleError, match="nested too deeply"):
        pickled.read(deep)


def test_pickles_of_plain_data(rng):
    value = {"x": rng.random((3, 4), np.float32), "y": [(1, -2, 3.5), b"bytes", "text", {}]}
    for protocol in range(2, 5):
        got = pickled.read(pickle.dumps(value, protocol))
        np.testing.assert_array_equal(got["x"], value["x"])
        assert got["y"][0] == (1, -2, 3.5)


def onnx_graph(onnx, tensors):
    """The nodes and the tensors of a network with Caffe's weights, in order."""
    nodes, before = [], "data"
    for layer in LAYERS:
        kind = "Conv" if layer.startswith("conv") else "Gemm"
        stride, zeros = onnx_file.MOVES.get(layer, (0, 0))
        more = {"strides": [stride] * 2, "pads": [zeros or 0] * 4} if stride else {"transB": 1}
        inputs = [before, f"{layer}_w_0", f"{layer}_b_0"]
        nodes.append(onnx.helper.make_node(kind, inputs, [layer], **more))
        before = layer
    names = {f"{k}.weight": f"{k}_w_0" for k in LAYERS} | {f"{k}.bias": f"{k}_b_0" for k in LAYERS}
    return nodes, [onnx.numpy_helper.from_array(v, names[k]) for k, v in tensors.items()]


def test_onnx(narrow, tmp_path):
    onnx = pytest.importorskip("onnx")
    params = random_params(narrow("bvlc_alexnet"))
    nodes, stored = onnx_graph(onnx, layout.from_standard(params, layout.LAYOUTS["onnx"]))
    graph = onnx.helper.make_graph(nodes, "net", [], [], stored)
    path = tmp_path / "net.onnx"
    onnx.save(onnx.helper.make_model(graph), str(path))
    assert_same(params, formats.READERS["onnx"](path, "").params)
    assert formats.READERS["onnx"](path, "").config.augment.mean == formats.CAFFE_MEAN
    for kind, first in (("LRN", "relu norm pool"), ("MaxPool", "relu pool norm")):
        more = [onnx.helper.make_node(kind, ["conv1"], ["after"])]
        graph = onnx.helper.make_graph([*nodes[:1], *more, *nodes[1:]], "net", [], [], stored)
        onnx.save(onnx.helper.make_model(graph), str(path))
        assert formats.READERS["onnx"](path, "").config.model.layer1 == first
    wrong = {
        "conv2 has strides": ("conv2", {"strides": [4, 4], "pads": [2] * 4}),
        "conv3 has pads": ("conv3", {"pads": [0] * 4}),
        "fc6 has alpha = 3.0, where AlexNet has 1.0": ("fc6", {"transB": 1, "alpha": 3.0}),
        "fc7 has transA": ("fc7", {"transB": 1, "transA": 1}),
    }
    for message, (layer, attributes) in wrong.items():
        own = [n for n in nodes if n.output[0] != layer]
        at = LAYERS.index(layer)
        inputs = list(nodes[at].input)
        own.insert(at, onnx.helper.make_node(nodes[at].op_type, inputs, [layer], **attributes))
        graph = onnx.helper.make_graph(own, "net", [], [], stored)
        onnx.save(onnx.helper.make_model(graph), str(path))
        with pytest.raises(WeightsError, match=message):
            formats.READERS["onnx"](path, "")
    left_over = onnx.numpy_helper.from_array(np.zeros(3, np.float64), "left_over")
    graph = onnx.helper.make_graph(nodes, "net", [], [], [*stored, left_over])
    onnx.save(onnx.helper.make_model(graph), str(path))
    with pytest.raises(WeightsError, match="left_over belongs to no layer"):
        formats.READERS["onnx"](path, "")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"net.onnx"):
        formats.READERS["onnx"](path, "")


def test_an_onnx_of_torchvision_reads_red_first(narrow, tmp_path):
    """Its kernels come through as they are, and the mean is that recipe's."""
    onnx = pytest.importorskip("onnx")
    params = random_params(narrow("torchvision"))
    tensors = layout.from_standard(params, layout.LAYOUTS["onnx, rgb"])
    nodes, before = [], "data"
    for layer in LAYERS:
        inputs = [before, f"{layer}.weight", f"{layer}.bias"]
        stride, zeros = onnx_file.MOVES.get(layer, (0, 0))
        more = {"strides": [stride] * 2, "pads": [zeros or 0] * 4} if stride else {"transB": 1}
        kind = "Conv" if stride else "Gemm"
        nodes.append(onnx.helper.make_node(kind, inputs, [layer], **more))
        before = layer
    stored = [onnx.numpy_helper.from_array(v, k) for k, v in tensors.items()]
    path = tmp_path / "net.onnx"
    graph = onnx.helper.make_graph(nodes, "net", [], [], stored)
    onnx.save(onnx.helper.make_model(graph), str(path))
    weights = formats.READERS["onnx"](path, "torchvision")
    assert_same(params, weights.params)
    assert weights.config.augment.mean == configs.get("torchvision").augment.mean


def test_a_run_to_safetensors_and_back(trained_run, tmp_path):
    run = run_weights.read("workdir", trained_run / "w")
    formats.WRITERS["safetensors"](run, tmp_path / "run.safetensors")
    read = formats.READERS["safetensors"](tmp_path / "run.safetensors", "")
    assert_same(run.params, read.params)
    assert read.class_names == ["dark", "light"]
    card = (tmp_path / "run.safetensors.md").read_text()
    assert "over 14 images of `val`" in card
    assert "`model.width` = 0.0625" in card
    run_weights.write("workdir", read, tmp_path / "w2")
    again = trained.load(tmp_path / "w2")
    assert_same(run.params, jax.tree.map(np.asarray, again.params))
    assert again.step == run.step
    with pytest.raises(WeightsError, match="w2: is there already"):
        run_weights.write("workdir", read, tmp_path / "w2")
    assert {p.name for p in tmp_path.iterdir()} == {"run.safetensors", "run.safetensors.md", "w2"}


def test_what_has_another_form_is_not_torchvisions(trained_run, tmp_path):
    run = run_weights.read("workdir", trained_run / "w")
    with pytest.raises(WeightsError, match=r"has model.columns = 1, not 2; use safetensors"):
        formats.WRITERS["torchvision"](run, tmp_path / "out.pth")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("conv3.bias"), "conv3.bias is missing"),
        (lambda t: t.update({"conv9.bias": t["conv1.bias"]}), "conv9.bias belongs to no layer"),
        (lambda t: t.update({"fc7.kernel": t["fc7.kernel"][1:]}), r"fc7.kernel is \(255, 256\)"),
        (lambda t: t.update({"fc6.bias": np.full_like(t["fc6.bias"], np.nan)}), "fc6.bias holds N"),
        (lambda t: t.update({"fc6.bias": t["fc6.bias"].astype(int)}), "fc6.bias holds int64"),
    ],
)
def test_wrong_tensors_are_named_and_nothing_is_written(trained_run, tmp_path, change, message):
    from safetensors.numpy import load_file, save_file

    run = run_weights.read("workdir", trained_run / "w")
    path = tmp_path / "run.safetensors"
    formats.WRITERS["safetensors"](run, path)
    import safetensors

    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(WeightsError, match=message):
        formats.READERS["safetensors"](path, "")


def change_config(metadata, **fields):
    config = json.loads(metadata["config"])
    for name, value in fields.items():
        config["model" if name in config["model"] else name] = (
            config["model"] | {name: value} if name in config["model"] else value
        )
    metadata["config"] = json.dumps(config)


NOWHERE = "does not say which network it holds"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m, t: change_config(m, num_classes=7), "fc8.bias has 2 classes, its config 7"),
        (lambda m, t: m.update(class_names='["a", "b", "c"]'), "2 classes, its config .* 3 names"),
        (lambda m, t: m.update(class_names="3"), NOWHERE),
        (lambda m, t: m.update(class_names="null"), NOWHERE),
        (lambda m, t: m.update(step="-5"), NOWHERE),
        (lambda m, t: m.update(step="99999999999999999999"), NOWHERE),
        (lambda m, t: m.update(config="[]"), NOWHERE),
        (lambda m, t: m.update(config='{"model": 3}'), NOWHERE),
        (lambda m, t: change_config(m, width=99.0), "its config has layers of .* units"),
        (lambda m, t: t["statistics.axes"].fill(np.nan), "statistics.axes holds NaN or Inf"),
        (
            lambda m, t: t.update({"statistics.channel_mean": np.zeros(5)}),
            r"statistics.channel_mean is float64 \(5,\), not floating-point \(3,\)",
        ),
        (
            lambda m, t: t.update({"statistics.axes": np.zeros((3, 3), np.int8)}),
            "statistics.axes is int8",
        ),
    ],
)
def test_what_a_safetensors_file_says_of_itself_is_checked(trained_run, tmp_path, change, message):
    import safetensors
    from safetensors.numpy import load_file, save_file

    run = run_weights.read("workdir", trained_run / "w")
    side = run.config.resize
    colours = Statistics(
        np.zeros((side, side, 3), np.float32), np.zeros(3), np.eye(3), np.ones(3), np.eye(3)
    )
    path = tmp_path / "run.safetensors"
    formats.WRITERS["safetensors"](dataclasses.replace(run, statistics=colours), path)
    assert formats.read("safetensors", path).statistics is not None
    with safetensors.safe_open(path, framework="numpy") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    change(metadata, tensors)
    save_file(tensors, path, metadata)
    with pytest.raises(WeightsError, match=message):
        formats.read("safetensors", path)


def test_the_card_says_where_weights_come_from_through_every_format(trained_run, tmp_path):
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    run = run_weights.read("workdir", trained_run / "w")
    formats.WRITERS["safetensors"](run, first)
    again = formats.read("safetensors", first)
    again.config.dataset = "elsewhere"
    run_weights.write("workdir", again, tmp_path / "v")
    formats.WRITERS["safetensors"](run_weights.read("workdir", tmp_path / "v"), second)
    lines = (tmp_path / "b.safetensors.md").read_text().splitlines()
    assert f"- data: `{run.config.dataset}`, split `train`" in lines
    assert any("over 14 images of `val`" in line for line in lines)
    unsaid = dataclasses.replace(run, origin=Origin())
    formats.WRITERS["safetensors"](unsaid, first)
    assert (
        "- data: not said by the file they come from" in (tmp_path / "a.safetensors.md").read_text()
    )
    for damaged in ("{", "[]", '{"who": "me"}', '{"errors": 3}'):
        (tmp_path / "v" / run_weights.ORIGIN_FILE).write_text(damaged)
        with pytest.raises(WeightsError, match=r"origin.json: is damaged \(.*convert the weights"):
            run_weights.read("workdir", tmp_path / "v")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        formats.WRITERS["safetensors"](run, tmp_path / "folder")
    assert not (tmp_path / "folder.md").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout_scaling": "test"}, "has model.dropout_scaling = 'train', not 'test'"),
        ({"width": 0.125}, "has model.width = 0.0625, not 0.125"),
        ({"image_size": 160}, r"fc6.kernel is .*; that of torchvision's network, for crops of 224"),
    ],
)
def test_only_torchvisions_own_network_is_written_for_it(narrow, tmp_path, changes, message):
    config = narrow("torchvision")
    for name, value in changes.items():
        setattr(config if hasattr(config, name) else config.model, name, value)
    weights = Weights(random_params(config), config, [], None, 0, tmp_path / "in")
    with pytest.raises(WeightsError, match=message):
        formats.WRITERS["torchvision"](weights, tmp_path / "out.pth")
    assert not list(tmp_path.iterdir())


def test_a_tensor_more_or_twice_is_refused(narrow, tmp_path):
    """The reader drops no tensor, and lets none take the place of another."""
    params = random_params(narrow("bvlc_alexnet"))
    tensors = layout.from_standard(params, layout.LAYOUTS["caffe"])
    layers = caffe_layers(tensors, ["LRN"])
    path = tmp_path / "net.caffemodel"
    name, kind, blobs = layers[2]
    more = [*layers[:2], (name, kind, [*blobs, blobs[1]]), *layers[3:]]
    for added, message in ((more, f"{name} has 3 blobs"), ([*layers, layers[2]], "is there twice")):
        path.write_bytes(net_parameter(added, False))
        with pytest.raises(WeightsError, match=message):
            formats.read("caffe", path)
    both = {"conv1": {"weights": np.zeros(3), "kernel": np.zeros(3), "biases": np.zeros(3)}}
    np.save(tmp_path / "net.npy", np.array(both, dtype=object), allow_pickle=True)
    with pytest.raises(WeightsError, match="conv1.kernel is there twice, as kernel too"):
        formats.read("caffe", tmp_path / "net.npy")


def test_damage_names_the_tensor(tmp_path):
    blob = b"\x0a\x05conv1" + b"\x3a\x0a" + b"\x3a\x02\x08\x03" + b"\x2a\x04" + bytes(4)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(b"\xa2\x06" + bytes([len(blob)]) + blob)
    with pytest.raises(WeightsError, match=r"conv1, blob 0, of shape \[3\], has 1 numbers"):
        formats.read("caffe", path)
    torch = pytest.importorskip("torch")
    torch.save({"one": torch.ones(4), "two": torch.zeros(4000)}, tmp_path / "in.pth")
    cut, compressed = tmp_path / "cut.pth", tmp_path / "compressed.pth"
    with zipfile.ZipFile(tmp_path / "in.pth") as archive:
        for name, how in ((cut, zipfile.ZIP_STORED), (compressed, zipfile.ZIP_DEFLATED)):
            with zipfile.ZipFile(name, "w") as out:
                for entry in archive.namelist():
                    content = archive.read(entry)
                    data = len(content) == 16000
                    half = content[:8000] if data and how == zipfile.ZIP_STORED else content
                    out.writestr(entry, half, how if data else zipfile.ZIP_STORED)
    with pytest.raises(WeightsError, match=r"cut.pth: two cannot be read \(storage 1 has 2000"):
        formats.read("torchvision", cut)
    with pytest.raises(WeightsError, match=r"compressed.pth: two cannot be read .*compressed"):
        formats.read("torchvision", compressed)
    data = bytearray((tmp_path / "in.pth").read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1  # encrypted, says the directory
    (tmp_path / "locked.pth").write_bytes(data)
    with pytest.raises(WeightsError, match=r"locked.pth: "):
        formats.read("torchvision", tmp_path / "locked.pth")
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (\n"
    (tmp_path / "net.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    )
    with pytest.raises(WeightsError, match=r"net.npy: is not a dictionary of layers"):
        formats.read("caffe", tmp_path / "net.npy")


@pytest.mark.parametrize("form", ["caffe", "torchvision", "onnx", "safetensors"])
def test_rubbish_is_refused_in_one_line(tmp_path, form, rng):
    suffix = {"caffe": "caffemodel", "torchvision": "pth"}.get(form, form)
    for n, data in enumerate((b"", b"\x00" * 100, rng.bytes(1000), b"{" * 9)):
        path = tmp_path / f"{n}.{suffix}"
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=rf"{n}.{suffix}: "):
            formats.READERS[form](path, "")


def test_oversized_tensors_are_refused(tmp_path):
    """A shape that the bytes do not hold, and a tensor that repeats its storage endlessly."""
    blob = b"\x0a\x05conv1" + b"\x3a\x0e" + b"\x3a\x08\x0a\x06" + b"\xff\xff\xff\x7f\x01\x01"
    blob += b"\x2a\x00" + b"\x2a\x00"[:0]
    path = tmp_path / "big.caffemodel"
    path.write_bytes(b"\xa2\x06" + bytes([len(blob)]) + blob)
    with pytest.raises(WeightsError, match=r"big.caffemodel"):
        formats.READERS["caffe"](path, "")
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(1).expand(10_000, 10_000)}, tmp_path / "big.pth")
    with pytest.raises(WeightsError, match="reaches outside its storage"):
        torch_file.read(tmp_path / "big.pth")


def test_files_too_large_for_alexnet_are_not_read(tmp_path):
    path = tmp_path / "big.caffemodel"
    with path.open("wb") as file:
        file.truncate(formats.MOST_BYTES + 1)  # no byte of it is on the disk
    with pytest.raises(WeightsError, match=r"big.caffemodel: has 2.0 GiB; weights of AlexNet"):
        formats.read("caffe", path)


def test_a_recipe_with_other_tensors_names_what_is_missing(narrow, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torchvision_alexnet(torch.nn, 1 / 16, 13).state_dict(), tmp_path / "in.pth")
    with pytest.raises(WeightsError, match=r"in.pth: norm1.mean is missing"):
        formats.read("torchvision", tmp_path / "in.pth", "alexnet_bn")


def test_the_command(trained_run, tmp_path):
    import commands

    out = tmp_path / "a.safetensors"
    said = commands.endings(
        "convert",
        trained_run,
        ["--from=workdir", "w", "--to=safetensors", str(out)],
        ["--from=safetensors", str(out), "--to=workdir", str(tmp_path / "w")],
        ["--from=safetensors", "nowhere", "--to=workdir", str(tmp_path / "v")],
        ["--from=workdir", "w", "--to=safetensors"],
    )
    assert said[:2] == ["", ""]
    assert said[2] == "error: nowhere: not found"
    assert "name one input and one output" in said[3]
    assert not (tmp_path / "v").exists()
    assert json.loads((tmp_path / "w" / "dataset.json").read_text())["class_names"] == [
        "dark",
        "light",
    ]
    assert set(convert.FROM) == set(run_weights.FORMATS)
    assert set(convert.TO) == {*formats.WRITERS, *formats.GRAPHS, "workdir"}
    assert dataclasses.is_dataclass(trained.load(tmp_path / "w"))
