// Draws with ECharts in the page's colours. Only pages that draw load it.

import * as echarts from "../vendor/echarts/echarts.esm.min.mjs";

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
  const chart = echarts.init(element, theme);
  new ResizeObserver(() => chart.resize()).observe(element);
  return chart;
}
