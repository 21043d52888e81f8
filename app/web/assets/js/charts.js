// Draws with ECharts in the page's colours. Only pages that draw load it.

import { init } from "../vendor/echarts/echarts.mjs";

/** The colours that tell series apart, in light and in dark. */
const SERIES = {
  light: ["#0f6e6e", "#b45309", "#6d28d9", "#be185d", "#1d4ed8", "#4d7c0f"],
  dark: ["#5cc8c2", "#f0b060", "#b9a3ff", "#f59ac4", "#8fb4ff", "#b5d96b"],
};

/** Return a colour of the style sheet as the browser computes it: charts cannot read `light-dark()`. */
export function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const { color } = getComputedStyle(probe);
  probe.remove();
  return color;
}

/** Return whether the page is dark now, by choice or by the system. */
export function isDark() {
  const { theme } = document.documentElement.dataset;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Return a chart in an element. It follows the element's size. Tooltips must have `renderMode: "richText"`. */
export function themed(element) {
  const [text, soft, line] = ["--ks-text", "--ks-soft", "--ks-line"].map(colour);
  const axis = { axisLine: { lineStyle: { color: line } }, axisLabel: { color: soft }, splitLine: { lineStyle: { color: line } } };
  const theme = {
    color: SERIES[isDark() ? "dark" : "light"],
    backgroundColor: "transparent",
    textStyle: { color: text, fontFamily: getComputedStyle(document.body).fontFamily },
    legend: { textStyle: { color: soft } },
    valueAxis: axis,
    categoryAxis: axis,
    timeAxis: axis,
    tooltip: { backgroundColor: colour("--ks-surface"), borderColor: line, textStyle: { color: text } },
    graph: { label: { color: text } },
  };
  const chart = init(element, theme);
  new ResizeObserver(() => chart.resize()).observe(element);
  return chart;
}

let drawn = Promise.resolve();

/** Do work in a task of its own, after what was asked for before: the browser answers to people in between. */
function inTurn(work) {
  const task = () => new Promise((done) => setTimeout(() => {
    try { work(); } finally { done(); }
  }));
  drawn = drawn.then(task);
}

/**
 * Draw a chart in a moment, and again whenever the system's theme changes. `options` gets colours of the page.
 * Returns what paints it anew, and what listens to it.
 */
export function draw(element, options) {
  let chart = null;
  const listeners = [];
  const paint = () => {
    if (!chart) return; // it is painted when it begins
    const names = { text: "--ks-text", soft: "--ks-soft", line: "--ks-line", surface: "--ks-surface", raised: "--ks-raised", accent: "--ks-accent-fill" };
    const palette = Object.fromEntries(Object.entries(names).map(([name, property]) => [name, colour(property)]));
    chart.setOption({ animation: false, ...options({ ...palette, series: SERIES[isDark() ? "dark" : "light"] }) }, { notMerge: true });
  };
  const begin = () => {
    chart?.dispose();
    chart = themed(element);
    for (const [name, listener] of listeners) chart.on(name, listener);
    inTurn(paint);
  };
  inTurn(begin);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", begin);
  return { paint, on: (name, listener) => (listeners.push([name, listener]), chart?.on(name, listener)) };
}

/** Return a tooltip in the page's colours, drawn on the canvas as the content security policy asks for. */
export function tips(palette, formatter, more = {}) {
  return { renderMode: "richText", confine: true, backgroundColor: palette.surface, borderColor: palette.line, textStyle: { color: palette.text, fontSize: 12 }, formatter, ...more };
}
