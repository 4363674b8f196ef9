# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 논문을 절마다 실행하기
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/alexnet_jax/blob/main/launch/notebooks/the_paper.ko.ipynb)
#
# A. Krizhevsky, I. Sutskever, G. Hinton, *ImageNet Classification with Deep Convolutional Neural
# Networks*, NIPS 2012. 각 절은 논문의 주장을 먼저 적고, 이 패키지의 코드와 손으로 한 계산을 나란히 실행해
# 확인한다. 내려받는 것은 없으며 모든 그림은 여기서 그린다. 코드는 [the_paper](the_paper.ipynb)와 같다.

# %%
# Adds this package to an environment that has JAX (Colab, Kaggle, yours); changes nothing there.
import importlib.util
import pathlib
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/alexnet_jax"
here = pathlib.Path.cwd()
checkouts = [p for p in (here, *here.parents) if (p / "alexnet_jax" / "main.py").is_file()]
sys.path += map(str, checkouts[:1])
if importlib.util.find_spec("alexnet_jax") is None:
    pip = [sys.executable, "-m", "pip", "install", "-q", f"git+{REPOSITORY}"]
    subprocess.run(pip, check=True)

# %%
import jax

try:
    jax.config.update("jax_num_cpu_devices", 2)  # has no effect on GPUs and TPUs
except RuntimeError:
    print(f"JAX was started with {jax.device_count()} devices")

import tempfile

import jax.numpy as jnp
import numpy as np

from alexnet_jax import configs, inference, model, train
from alexnet_jax.figures.picture import Picture
from alexnet_jax.inference import pictures
from alexnet_jax.layers import standard_tree

home = pathlib.Path(tempfile.mkdtemp(prefix="alexnet-"))


def small(**fields):
    """Returns the default recipe for drawn patterns: AlexNet at a quarter of its width."""
    config = configs.get("default")
    config.data_dir, config.mesh.data = str(home / "data"), 1
    config.num_epochs, config.log_every_steps = 3, 10
    for name, value in fields.items():
        setattr(config, name, value)
    return config


# %% [markdown]
# ## 3.1 ReLU
#
# *주장: ReLU를 쓴 신경망은 같은 구조의 tanh 신경망보다 여섯 배 빠르게 CIFAR-10에서 훈련 오류 25 %에 이른다.*
# tanh와 시그모이드의 기울기는 포화 영역에서 사라진다. max(x, 0)의 기울기는 유닛이 켜져 있는 곳이면 어디서나
# 1이다.

# %%
x = np.linspace(-6, 6, 241, dtype=np.float32)
figure = Picture(figsize=(10, 3.2), layout="constrained")
left, right = figure.subplots(1, 2)
for name, f in (("ReLU", jax.nn.relu), ("tanh", jnp.tanh), ("sigmoid", jax.nn.sigmoid)):
    left.plot(x, f(x), label=name)
    right.plot(x, jax.vmap(jax.grad(f))(x), label=name)
left.set(title="activation", ylim=(-1.2, 3), xlabel="x")
right.set(title="its gradient: where it is small, nothing is learned", xlabel="x")
left.legend()
figure

# %% [markdown]
# 필드 하나만 바꾸어 같은 신경망을 세 번 훈련한다.

# %%
for activation in ("relu", "tanh", "sigmoid"):
    config = small()
    config.model.activation = activation
    train.train(config, home / activation)
pictures.curves([home / name for name in ("relu", "tanh", "sigmoid")])

# %% [markdown]
# 시그모이드는 이 시간 안에 아무것도 배우지 못한다. tanh는 ReLU와 비슷하거나 앞선다. 여기서는 커널을
# He 등(2015)의 방법으로 초기화하므로 포화되는 유닛이 없기 때문이다. 저자들의 설정 파일대로 초기화하면
# CIFAR-10에서 tanh에는 ReLU의 3.3배(각자 가장 좋은 학습률), 6.6배(같은 학습률)의 에폭이 필요하고, 입력 수에
# 맞춘 초기화에서는 0.6배면 된다([experiments/cifar](../../experiments/cifar/README.md)). 논문의 주장은
# 2012년식으로 초기화한 신경망에서 참이다.
#
# ## 3.2 GPU 두 개
#
# *주장: 3 GB GPU 하나에 들어가지 않는 신경망을 두 개에 나누어, 커널을 절반씩 맡긴다. 두 GPU는 몇몇 층에서만
# 통신한다. 너비가 절반인 한 줄짜리 신경망보다 오류도 1.7, 1.2 포인트 낮다.*
#
# 두 장치로 나눈 스텝을 컴파일한 프로그램에서 그림 2를 읽어 그린다.

# %%
from alexnet_jax.configs.sizes import feature_sizes
from alexnet_jax.figures import split
from alexnet_jax.steps import communication

devices = min(2, jax.device_count())
config = small(num_classes=12)
config.mesh.model = devices
collectives = communication.compiled(train.compile_train_step(config))
split.draw(config, 12, collectives)

# %% [markdown]
# conv2, conv4, conv5는 자기 장치의 맵만 읽고, conv3과 완전 연결 층은 양쪽 모두를 읽는다. 메모리, 기울기,
# 여덟 장치는 [two_gpus](two_gpus.ipynb)에서 이어진다.
#
# ## 3.3 국소 반응 정규화(LRN)
#
# *주장: 오류를 1.4, 1.2 포인트 낮춘다.* 유닛의 값을 이웃 채널의 활동으로 나눈다.
#
# $$b^i = a^i \Big/ \Big(k + \alpha \sum_{j = i - n/2}^{i + n/2} (a^j)^2\Big)^\beta, \qquad k = 2,\ n = 5,\ \alpha = 10^{-4},\ \beta = 0.75$$
#
# 픽셀 하나의 채널 하나를 손으로, 그리고 패키지로 계산한다.

# %%
from alexnet_jax.ops.lrn import lrn, spatial_response_norm
from alexnet_jax.ops.lrn_formula import CONVENTIONS, Lrn

rng = np.random.default_rng(0)
pixel = rng.uniform(0, 200, 8).astype(np.float32)  # eight channels
i = 3
by_hand = pixel[i] / (2 + 1e-4 * (pixel[i - 2 : i + 3] ** 2).sum()) ** 0.75
print(f"by hand {by_hand:.6f}, by the package {lrn(pixel)[i]:.6f}")
assert np.isclose(by_hand, lrn(pixel)[i], rtol=1e-5)

# %% [markdown]
# 네 프레임워크는 같은 상수를 적어 놓고 서로 다른 세 가지를 뜻한다. alpha를 창 크기로 나누는 것이 있고,
# k가 1인 것이 있다. 다른 곳에서 가져온 가중치가 조금씩, 또는 크게 어긋나는 까닭이다.

# %%
for name, (divided, k) in CONVENTIONS.items():
    value = lrn(pixel, Lrn.named(name))[i]
    rule = f"alpha {'/ 5' if divided else '   '}, k = {k:g}"
    print(f"{name:14} {rule:22} {value:9.4f}")

# %% [markdown]
# 이름은 측면 억제에서 왔다. 흥분한 뉴런은 옆 뉴런을 가라앉힌다. 망막에서 이것이 헤르만 격자를 만든다.
# 교차점은 주위에 빛이 더 많으므로 길보다 어두워 보인다. 이 식의 공간 형태(저자들의 #145번 신경망은 두 번째
# 정규화 뒤에 이것을 둔다)는 격자 그림에 같은 일을 한다.

# %%
grid = np.zeros((96, 96), np.float32)
for street in range(12, 96, 24):
    grid[street : street + 6] = grid[:, street : street + 6] = 1
inhibition = Lrn(size=13, scale=0.05, beta=0.75, k=1.0)
answer = np.asarray(spatial_response_norm(grid[None, :, :, None], inhibition))[0, :, :, 0]
crossing, street = answer[39, 39], answer[39, 27]
figure = Picture(figsize=(9, 4), layout="constrained")
for axes, picture, title in zip(
    figure.subplots(1, 2), (grid, answer), ("the grid", "what is left of it"), strict=True
):
    axes.imshow(picture, cmap="gray")
    axes.set(title=title, xticks=[], yticks=[])
print(f"in a street {street:.2f}, at a crossing {crossing:.2f}")
figure

# %% [markdown]
# ## 3.4 겹치는 풀링
#
# *주장: 2씩 움직이는 크기 3의 창은 크기 2의 창보다 오류를 0.4, 0.3 포인트 낮춘다.*

# %%
from alexnet_jax.ops.pooling import MAX_POOLS

row = np.array([1, 0, 4, 0, 2, 0, 3], np.float32)
plane = np.tile(row, (7, 1))[None, :, :, None]
for size, pool in MAX_POOLS.items():
    print(f"windows of {size}: {np.asarray(pool(plane))[0, 0, :, 0].tolist()} of {row.tolist()}")

# %% [markdown]
# ## 3.5 모든 형상을 손과 코드로, 그리고 224인가 227인가
#
# 크기 f, 보폭 s, 패딩 p인 합성곱은 S 픽셀을 (S + 2p - f) / s + 1 픽셀로 만든다. 본문에는 224라고 적혀 있고,
# 그림 2에는 conv1 다음이 55 x 55라고 적혀 있다. 55가 나오는 이미지는 무엇인가?

# %%
for side, padding in ((224, 0), (227, 0), (224, 3)):
    outcome = (side + padding - 11) / 4 + 1
    print(f"{side} pixels and {padding} of padding in all: {outcome:g}")

# %% [markdown]
# 224만으로는 54.25가 되어 맞지 않는다. `paper`와 Caffe처럼 227로 자르거나, 저자들의 코드(`original_code`)처럼
# 224의 한쪽에 0을 세 줄 덧댄다. 나머지는 따라 나온다.


# %%
def after(side, size, stride=1, padding=0):
    """Returns the side of a map."""
    return (side + 2 * padding - size) // stride + 1


conv1 = after(227, 11, 4)
pool1 = after(conv1, 3, 2)
conv2 = after(pool1, 5, padding=2)
pool2 = after(conv2, 3, 2)
conv3 = conv4 = conv5 = after(pool2, 3, padding=1)
pool5 = after(conv5, 3, 2)
paper = configs.get("paper")
assert (conv1, pool1, conv2, pool2, conv5, pool5) == tuple(feature_sizes(paper))

network = model.build(paper.model, 1000, "float32")
shapes = standard_tree.abstract_parameters(network, paper.image_size)
fan_in = {  # two columns: conv2, conv4 and conv5 see half of the maps before them
    "conv1": 11 * 11 * 3,
    "conv2": 5 * 5 * 96 // 2,
    "conv3": 3 * 3 * 256,
    "conv4": 3 * 3 * 384 // 2,
    "conv5": 3 * 3 * 384 // 2,
    "fc6": pool5 * pool5 * 256,
    "fc7": 4096,
    "fc8": 4096,
}
units = dict(zip(fan_in, (96, 256, 384, 384, 256, 4096, 4096, 1000), strict=True))
total = 0
for layer, inputs in fan_in.items():
    hand = inputs * units[layer] + units[layer]
    code = sum(int(np.prod(leaf.shape)) for leaf in shapes[layer].values())
    assert hand == code
    total += hand
    print(f"{layer}: ({inputs:5} + 1) x {units[layer]:4} = {hand:11,}")
print(f"in all {total:,}: the paper's 60 million; fc6 alone has {9216 * 4096 / total:.0%}")

# %% [markdown]
# ## 4.1 데이터 증강
#
# *주장: 256에서 224를 잘라 내고 좌우로 뒤집으면 훈련 집합이 2,048배가 된다.* (256 - 224)^2개의 모서리와
# 거울상 둘이면 2,048이다. 마지막 행과 열의 모서리까지 세면 33^2 x 2 = 2,178이다.
#
# *주장: ImageNet의 색 축 방향으로 임의의 양을 더하면 top-1 오류가 1 포인트 넘게 낮아진다.* 논문의 "고윳값"이
# 0~255 픽셀의 것인지 0~1의 것인지, 아니면 그 제곱근인지는 적혀 있지 않다. 저자들의 코드에는 표준 편차가
# 들어 있다. 대부분의 프레임워크가 베껴 쓴 값은 첫째 축에서 절반이고 나머지 축에는 거의 없다. 여기서 그린
# 그림에 둘 다 적용한다(`photograph`에 256 x 256 x 3 uint8 사진을 넣어도 된다).

# %%
from alexnet_jax.steps.augment import LIGHTING, Views


def painted(side=256):
    """Paints a landscape, (side, side, 3) uint8."""
    y, x = np.mgrid[0:side, 0:side] / side
    sky = np.stack([0.45 + 0.4 * y, 0.62 + 0.25 * y, 0.95 - 0.1 * y], -1)
    hill = 0.62 + 0.09 * np.sin(5 * x) + 0.04 * np.sin(17 * x)
    grass = np.stack([0.25 + 0.2 * x, 0.5 - 0.2 * y, 0.18 + 0 * x], -1)
    picture = np.where((y > hill)[..., None], grass, sky)
    sun = (x - 0.75) ** 2 + (y - 0.2) ** 2 < 0.006
    picture[sun] = (1.0, 0.93, 0.6)
    house = (abs(x - 0.3) < 0.09) & (abs(y - 0.68) < 0.08)
    picture[house] = (0.75, 0.3, 0.22)
    noise = np.random.default_rng(0).normal(0, 0.02, picture.shape)
    return (255 * np.clip(picture + noise, 0, 1)).astype(np.uint8)


photograph = painted()


def views_of(lighting, count, **fields):
    """Draws training views of the photograph, (count, 224, 224, 3) uint8."""
    config = configs.get("original_code")
    config.augment.lighting, config.augment.chunk = lighting, 1
    for name, value in fields.items():
        setattr(config.augment, name, value)
    drawn = Views.of(config)
    numbers = np.arange(count, dtype=np.int32)
    batch = {"image": np.tile(photograph, (count, 1, 1, 1)), "index": numbers}
    batch |= {"epoch": numbers, "position": numbers}
    pixels = np.asarray(drawn.training(jax.tree.map(jnp.asarray, batch), jax.random.key(1)))
    return np.clip(pixels + np.asarray(config.augment.mean), 0, 255).astype(np.uint8)


rows = {
    "crops and flips": views_of("none", 6),
    "standard deviations\n(authors' code)": views_of("stddev", 6, random_crop=False, flip=False),
    "eigenvalues of [0, 1]\n(common copies)": views_of(
        "eigenvalue_unit_range", 6, random_crop=False, flip=False
    ),
}
figure = Picture(figsize=(12, 6), layout="constrained")
axes = figure.subplots(len(rows), 6)
for line, (name, shown) in zip(axes, rows.items(), strict=True):
    line[0].set_ylabel(name)
    for axis, view in zip(line, shown, strict=True):
        axis.imshow(view)
        axis.set(xticks=[], yticks=[])
figure

# %%
for name in ("stddev", "eigenvalue_unit_range"):
    scales, _ = LIGHTING[name]
    moved = ", ".join(f"{0.1 * scale:.2f}" for scale in sorted(scales, reverse=True))
    print(f"{name:22} one standard deviation moves the three axes by {moved} of 255")

# %% [markdown]
# ## 4.2 드롭아웃
#
# *주장: 드롭아웃이 없으면 심하게 과적합하며, 수렴까지의 갱신은 두 배쯤 든다.* 훈련하는 동안에는 fc6과 fc7
# 유닛의 절반이 0이고, 답할 때에는 모두 켜져 절반씩 기여한다. 많은 마스크에 대한 평균이 층 전체의 값이다.

# %%
from alexnet_jax.ops.elementwise import dropout, keep_mask

activations = jnp.asarray(rng.uniform(0, 1, 8).astype(np.float32))
masks = keep_mask(jax.random.split(jax.random.key(0), 20_000), 8, 0.5)
dropped = jax.vmap(lambda keep: dropout(activations, keep))(masks)
print("mean over 20,000 masks", np.round(dropped.mean(0), 2))
print("half of each unit     ", np.round(activations / 2, 2))

# %% [markdown]
# ## 5 갱신 규칙
#
# $$v \leftarrow 0.9\,v - 0.0005\,\epsilon\,w - \epsilon\,g, \qquad w \leftarrow w + v$$
#
# 학습률이 속도 안에 있다. 대부분의 프레임워크에서는 밖에 있어, 학습률이 떨어질 때 결과가 달라진다. 학습률이
# 그 사이에 열 배 떨어지는 두 번의 갱신을 손으로, 그리고 패키지로 계산한다.

# %%
from alexnet_jax.steps import optimizer

settings = configs.get("paper").optimizer
w, v = 1.0, 0.0
params = {"fc8": {"kernel": jnp.float32(w)}}
update = optimizer.build(settings)
state = update.init(params)
for gradient, rate in ((2.0, 0.01), (1.5, 0.001)):
    v = 0.9 * v - 0.0005 * rate * w - rate * gradient
    w = w + v
    step, state = update.update(
        {"fc8": {"kernel": jnp.float32(gradient)}},
        state,
        params,
        rates={"fc8": {"kernel": jnp.float32(rate)}},
        finite=jnp.bool_(True),
    )
    params = jax.tree.map(jnp.add, params, step)
    print(f"by hand {w:.8f}, by the package {params['fc8']['kernel']:.8f}")
assert np.isclose(w, params["fc8"]["kernel"], rtol=1e-6)

# %% [markdown]
# ## 6.1 두 줄의 커널
#
# *주장: 한 GPU의 커널은 색을 가리지 않고 다른 GPU의 커널은 색에 특화되며, 모든 실행에서 그렇다.* 그린 무늬로
# 세 에폭을 훈련한 커널은 실마리만 보여 준다. 더 긴 실행의 결과는
# [experiments/ablations](../../experiments/ablations/README.md)에 있다. 사진 열 종류에서는 두 줄이 나뉘지
# 않았다.

# %%
trained = inference.load(home / "relu")
pictures.kernels(trained)

# %% [markdown]
# ## 6 결과
#
# | | 논문, top-1 / top-5 | 여기 |
# |---|---|---|
# | ILSVRC-2010, 테스트 | 37.5 / 17.0 % | 측정하지 않음: ImageNet이 없었다 |
# | ILSVRC-2012, 검증 | 40.7 / 18.2 % | 측정하지 않음 |
# | 매개변수 | 6천만 | 60,965,224 |
# | Caffe 신경망을 지나는 사진 | - | 모든 맵이 Caffe의 값과 1e-5 이내 |
# | ReLU와 tanh, CIFAR-10 (그림 1) | 6배 | 각자 가장 좋은 학습률에서 3.3배 |
# | 너비가 절반인 한 줄 | +1.7 포인트 | +2.9 ± 1.9 (열 종류, 시드 다섯) |
# | 정규화, CIFAR-10 | 2 포인트 | 네 에폭 뒤 1.2 ± 0.3, 나중에는 같음 |
# | 열 시점과 한 시점 | -1.5 포인트 | -1.7 (열 종류, 시드 다섯) |
# | 다섯 신경망의 평균 | -2.6 포인트 | -1.7 (열 종류) |
# | 두 줄의 색 | 모든 실행에서 나뉨 | 우리 실행에서는 아님 |
#
# 각 행의 명령과 편차는 [experiments](../../experiments)에 있다.

# %%
# What was made here is in `home`; this removes it.
import shutil

shutil.rmtree(home)
