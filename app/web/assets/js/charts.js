// Charts by ECharts in the colours of the page, drawn anew when these or the size change.

import * as echarts from "../vendor/echarts/echarts.esm.min.mjs";

/** Return a colour of the page's palette as the browser computes it, since a canvas knows no custom properties. */
export function colour(name) {
  const probe = document.createElement("span");
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

/** Draw a chart, and again when the theme or its size changes. `options` gets the palette. Returns a chart. */
export function draw(element, options) {
  const chart = echarts.init(element, null, { renderer: "canvas" });
  const palette = () => ({
    text: colour("--ks-text"),
    soft: colour("--ks-soft"),
    line: colour("--ks-line"),
    surface: colour("--ks-surface"),
    raised: colour("--ks-raised"),
    accent: colour("--ks-accent-fill"),
    warn: colour("--ks-warn"),
    bad: colour("--ks-bad"),
    good: colour("--ks-good"),
  });
  const font = getComputedStyle(document.body).fontFamily;
  const paint = () =>
    chart.setOption(
      { animation: false, textStyle: { fontFamily: font, fontSize: 12, color: palette().text }, ...options(palette()) },
      { notMerge: true },
    );
  paint();
  new ResizeObserver(() => chart.resize()).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  return { chart, paint };
}

/** Return how tips look: drawn on the canvas, because the content security policy forbids styles in elements. */
export function tips(palette, formatter, more = {}) {
  return {
    renderMode: "richText",
    confine: true,
    backgroundColor: palette.surface,
    borderColor: palette.line,
    textStyle: { color: palette.text, fontSize: 12 },
    formatter,
    ...more,
  };
}
