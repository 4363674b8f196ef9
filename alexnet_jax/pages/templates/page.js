// The page's charts: uPlot with smoothing, logarithmic axes and the colours of the page.
(function () {
  "use strict";
  const charts = JSON.parse(document.getElementById("data").textContent);
  // Okabe and Ito's, which all eyes tell apart.
  const colours = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];
  // A curve's line, and what the legend draws for it.
  const lines = [
    { dash: undefined, border: "solid" },
    { dash: [6, 4], border: "dashed" },
    { dash: [2, 3], border: "dotted" },
  ];
  const made = [];

  function smoothed(values, weight) {
    if (!weight) return values;
    let mean = 0, share = 0;
    return values.map(function (value) {
      if (value === null) return null;
      mean = weight * mean + (1 - weight) * value;
      share = weight * share + (1 - weight);
      return mean / share;
    });
  }

  // All curves of a chart over the steps that any of them has.
  function table(chart, weight, log) {
    const steps = [...new Set(chart.curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
    const columns = chart.curves.map(function (curve) {
      const own = new Map(curve.x.map((x, i) => [x, curve.y[i]]));
      const values = steps.map((x) => own.has(x) ? own.get(x) : null);
      const kept = log ? values.map((y) => y !== null && y > 0 ? y : null) : values;
      return curve.points ? kept : smoothed(kept, weight);
    });
    return [steps, ...columns];
  }

  function lineOf(curve) { return lines[Math.min(curve.dash, lines.length - 1)]; }

  function number(value) {
    if (value === null || value === undefined) return "--";
    return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(4);
  }

  function tick(value) {
    if (value === null) return "";
    const size = Math.abs(value);
    return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(0) : String(Number(value.toPrecision(4)));
  }

  function draw(index) {
    const chart = charts[index], place = document.querySelector(`[data-chart="${index}"]`);
    const log = document.querySelector(`[data-log="${index}"]`).checked;
    const weight = Number(document.getElementById("smoothing").value);
    const style = getComputedStyle(document.documentElement);
    const text = style.getPropertyValue("--text"), line = style.getPropertyValue("--line");
    const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line } };
    if (made[index]) made[index].destroy();
    made[index] = new uPlot({
      width: place.clientWidth,
      height: 260,
      scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
      axes: [axis, { ...axis, size: 62, values: (u, ticks) => ticks.map(tick) }],
      series: [
        { label: "step", value: (u, v) => v === null ? "--" : v.toLocaleString("en") },
        ...chart.curves.map((curve) => ({
          label: curve.label,
          stroke: colours[curve.colour % colours.length],
          width: 1.5,
          dash: lineOf(curve).dash,
          spanGaps: true,
          points: { show: curve.points, size: 5 },
          value: (u, v) => number(v),
        })),
      ],
      legend: { markers: { dash: (u, i) => lineOf(chart.curves[i - 1]).border } },
    }, table(chart, weight, log), place);
  }

  // Arrow keys read a curve, plus and minus zoom about what is read, 0 shows all.
  function key(index, event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;  // the browser's own
    const plot = made[index], steps = plot.data[0], { min, max } = plot.scales.x;
    if (steps.length < 2) return;  // nothing to zoom
    const first = steps.findIndex((x) => x >= min), last = steps.findLastIndex((x) => x <= max);
    const read = (at) => plot.setCursor({ left: plot.valToPos(steps[at], "x"), top: 0 });
    const at = plot.cursor.idx ?? (event.key === "ArrowLeft" ? last + 1 : first - 1);
    const half = (max - min) * (event.key === "-" ? 1 : 0.25);
    const middle = steps[plot.cursor.idx ?? Math.floor((first + last) / 2)];
    const ends = [steps[0], steps[steps.length - 1]];
    if (event.key === "ArrowLeft") read(Math.max(first, at - 1));
    else if (event.key === "ArrowRight") read(Math.min(last, at + 1));
    else if (event.key === "+" || event.key === "-") {
      const near = Math.max(ends[0], middle - half), far = Math.min(ends[1], middle + half);
      if (far > near) plot.setScale("x", { min: near, max: far });
    } else if (event.key === "0") plot.setScale("x", { min: ends[0], max: ends[1] });
    else return;
    event.preventDefault();
  }

  function all() { charts.forEach((_, index) => draw(index)); }
  document.getElementById("smoothing").addEventListener("input", all);
  document.querySelectorAll("[data-log]").forEach(function (box) {
    box.addEventListener("change", () => draw(Number(box.dataset.log)));
  });
  document.querySelectorAll(".chart").forEach(function (place) {
    place.addEventListener("keydown", (event) => key(Number(place.dataset.chart), event));
  });
  let width = window.innerWidth;
  window.addEventListener("resize", function () {
    if (window.innerWidth !== width) { width = window.innerWidth; all(); }
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", all);
  all();
})();
