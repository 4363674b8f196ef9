"""Efficiency over devices by scheme, beside what others published."""

from collections.abc import Mapping

from alexnet_jax.figures import colours
from alexnet_jax.figures.picture import Picture

MARKS = ("o", "s", "^", "D", "v", "P")


def draw(
    measured: Mapping[str, Mapping[int, float]],
    published: Mapping[str, Mapping[int, float]],
    title: str,
) -> Picture:
    """Draws images a second and device, as a share of one device's.

    Args:
      measured: by scheme, then by devices: efficiency, 0 to 1.
      published: by hardware, then by devices: images/s.
      title: above it.
    """
    figure = Picture(figsize=(8.5, 5), layout="constrained", dpi=120)
    axis = figure.subplots()
    for number, (scheme, shares) in enumerate(measured.items()):
        counts = sorted(shares)
        axis.plot(
            counts,
            [100 * shares[count] for count in counts],
            color=colours.of(number),
            marker=MARKS[number % len(MARKS)],
            label=scheme,
        )
    for number, (hardware, speeds) in enumerate(published.items()):
        counts = sorted(speeds)
        shares = [100 * speeds[count] / count / speeds[counts[0]] for count in counts]
        style = {"color": "0.55", "ls": (":", "--", "-.")[number % 3], "lw": 1.2}
        axis.plot(counts, shares, label=hardware, **style)
    axis.set_xscale("log", base=2)
    every = sorted({count for shares in measured.values() for count in shares})
    axis.set_xticks(every, [str(count) for count in every])
    axis.set(title=title, xlabel="devices", ylabel="images a second and device, % of the fewest's")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
