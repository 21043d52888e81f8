// What goes on: asks for the figures every two seconds, and makes rates of the differences.

import { api, url } from "./api.js";
import { draw, tips } from "./charts.js";
import { h, worded } from "./dom.js";
import { phaseName } from "./phases.js";
import { duration, gettext, moment, number, percent, versionNumber } from "./texts.js";

const EVERY_MS = 2000;
const MOST_POINTS = 150;
const page = document.getElementById("live");
const series = new Map();
const times = [];
const latency = { median: [], p95: [] };
let before = null;

const STATES = {
  serving: [gettext("serving"), "good"],
  starting: [gettext("starting"), "warn"],
  loading: [gettext("loading"), "warn"],
  ready: [gettext("ready to move"), "accent"],
  refused: [gettext("refused"), "bad"],
  behind: [gettext("behind"), "bad"],
  dead: [gettext("silent"), "bad"],
};
const JOBS = {
  queued: [gettext("waits"), ""],
  running: [gettext("runs"), "accent"],
  succeeded: [gettext("done"), "good"],
  failed: [gettext("failed"), "bad"],
  cancelled: [gettext("cancelled"), "warn"],
};
const badge = ([text, kind]) => h("span", { class: "badge", "data-kind": kind }, text);

// --- figures of the time between two looks ---------------------------------------------------------------------

/** The share of requests that took at most so long, between two counts; linear within a bucket. */
function quantile(now, earlier, share) {
  const counts = now.latency.map((count, at) => count - (earlier?.latency[at] ?? 0));
  const all = counts[counts.length - 1];
  if (!(all > 0)) return null;
  const at = counts.findIndex((count) => count >= share * all);
  const bounds = [...now.latency_bounds_s, now.latency_bounds_s[now.latency_bounds_s.length - 1]];
  const lower = at ? bounds[at - 1] : 0;
  const below = at ? counts[at - 1] : 0;
  return lower + (bounds[at] - lower) * ((share * all - below) / Math.max(1, counts[at] - below));
}

function total(processes) {
  const figures = processes.map((each) => each.figures).filter(Boolean);
  if (!figures.length) return null;
  const sum = (key) => figures.reduce((whole, each) => whole + each[key], 0);
  const longest = figures.reduce((one, other) => (other.latency.length > one.latency.length ? other : one));
  return {
    requests: sum("requests"), answers: sum("answers"), probability_sum: sum("probability_sum"), unknown: sum("unknown"), known: sum("known"), queue: sum("queue"), in_hand: sum("in_hand"),
    latency_bounds_s: longest.latency_bounds_s,
    latency: longest.latency.map((_, at) => figures.reduce((whole, each) => whole + (each.latency[at] ?? 0), 0)),
  };
}

function sameProcesses(now, earlier) {
  return earlier && now.map((each) => each.id).join() === earlier.map((each) => each.id).join();
}

function set(key, text) {
  page.querySelector(`[data-figure="${key}"]`).textContent = text ?? "–";
}

const recent = []; // what the shares of answers rest on: about a minute

function showFigures(now, seconds) {
  const whole = total(now.processes);
  const same = before && sameProcesses(now.processes, before.processes);
  const earlier = same ? total(before.processes) : null;
  if (!whole) return { median: null, p95: null };
  set("queue", number(whole.queue));
  set("requests", earlier ? number((whole.requests - earlier.requests) / seconds, 1) : null);
  if (!same) recent.length = 0;
  recent.push(whole);
  if (recent.length > 30) recent.shift();
  const since = recent.length > 1 && whole.answers > recent[0].answers ? recent[0] : { answers: 0, probability_sum: 0, unknown: 0, known: 0 };
  const answers = whole.answers - since.answers;
  set("confidence", answers ? percent((whole.probability_sum - since.probability_sum) / answers, 1) : null);
  const told = whole.unknown + whole.known - since.unknown - since.known;
  set("unknown", told ? percent((whole.unknown - since.unknown) / told, 1) : null);
  const of = whole.requests > (earlier?.requests ?? 0) ? earlier : null;
  const [median, p95] = [0.5, 0.95].map((share) => (whole.requests ? quantile(whole, of, share) : null));
  set("median", median === null ? null : duration(median));
  set("p95", p95 === null ? null : duration(p95));
  return of || !earlier ? { median, p95 } : { median: null, p95: null };
}

function showProcesses(now, seconds) {
  const earlier = new Map((before?.processes ?? []).map((each) => [each.id, each.figures]));
  const rows = now.processes.map((each) => {
    const was = earlier.get(each.id);
    const rate = each.figures && was ? (each.figures.requests - was.requests) / seconds : null;
    if (!series.has(each.id)) series.set(each.id, times.map(() => null));
    series.get(each.id).push(rate);
    const median = each.figures && each.figures.requests ? quantile(each.figures, was && each.figures.requests > was.requests ? was : null, 0.5) : null;
    const cell = (text, label) => h("td", { class: "end number", "data-label": label }, text ?? "–");
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, each.id, h("span", { class: "hint" }, `${each.device}, pid ${each.pid}`), each.reason ? h("span", { class: "hint" }, worded(each.reason)) : null),
      h("td", { "data-label": gettext("State") }, badge(STATES[each.state])),
      h("td", { "data-label": gettext("Serves") }, each.serving ? h("a", { class: "version", href: url(`/versions/${each.serving}`) }, versionNumber(each.serving)) : "–"),
      cell(rate === null ? null : number(rate, 1), gettext("Requests per second")),
      cell(median === null ? null : duration(median), gettext("Median")),
      cell(each.figures ? number(each.figures.in_hand) : null, gettext("In hand")),
      cell(each.figures ? number(each.figures.queue) : null, gettext("Waiting images")),
    );
  });
  for (const values of series.values()) if (values.length < times.length + 1) values.push(null);
  document.getElementById("processes").replaceChildren(...rows);
}

/** Whether a job is a task that was taught, which has a page. */
function learns(job) {
  return !(job.merges || job.evaluates || job.edit || job.corrections);
}

function showJobs(jobs) {
  const list = document.getElementById("jobs");
  if (!list) return;
  document.getElementById("no-jobs").hidden = !(jobs && !jobs.length);
  list.replaceChildren(
    ...(jobs ?? []).map((job) => {
      const progress = job.state === "running" ? job.progress : null;
      const share = progress?.steps ? progress.step / progress.steps : null;
      const words = progress ? `${phaseName(progress.phase)}${progress.eta_s ? `, ${gettext("about %(time)s left in this phase", { time: duration(progress.eta_s) })}` : ""}` : moment(job.finished_at ?? job.created_at);
      return h(
        "li",
        {},
        h("div", { class: "row spread" }, h("strong", {}, learns(job) ? h("a", { href: url(`/teach/${job.job_id}`) }, job.name) : job.name), badge(JOBS[job.state])),
        progress ? h("progress", { max: 1, value: share ?? 0, "aria-label": job.name }) : null,
        h("span", { class: "hint" }, words),
        job.error ? h("span", { class: "hint" }, worded(job.error.detail)) : null,
      );
    }),
  );
}

// --- the charts --------------------------------------------------------------------------------------------------

const clock = (value) => new Intl.DateTimeFormat(document.documentElement.lang, { timeStyle: "medium" }).format(value);

function lines(palette, named, format) {
  const colours = palette.series;
  return {
    grid: { left: 52, right: 12, top: named.length > 1 ? 30 : 12, bottom: 24 },
    legend: named.length > 1 ? { top: 0, textStyle: { color: palette.soft }, icon: "circle", itemWidth: 8 } : undefined,
    tooltip: tips(palette, (shown) => [clock(new Date(shown[0].value[0])), ...shown.filter((each) => each.value[1] !== null).map((each) => `${each.seriesName}: ${format(each.value[1])}`)].join("\n"), { trigger: "axis" }),
    xAxis: { type: "time", axisLabel: { color: palette.soft, hideOverlap: true }, axisLine: { lineStyle: { color: palette.line } }, splitLine: { show: false } },
    yAxis: { type: "value", min: 0, minInterval: 0, axisLabel: { color: palette.soft, formatter: format }, splitLine: { lineStyle: { color: palette.line } } },
    series: named.map(([name, values], at) => ({ name, type: "line", showSymbol: false, connectNulls: false, lineStyle: { width: 2 }, color: colours[at % colours.length], areaStyle: named.length === 1 ? { opacity: 0.12 } : undefined, data: times.map((time, place) => [time, values[place] ?? null]) })),
  };
}
const rate = draw(document.getElementById("rate"), (palette) => lines(palette, [...series].slice(0, 5), (value) => number(value, 1)));
const time = draw(document.getElementById("latency"), (palette) => lines(palette, [[gettext("median"), latency.median], [gettext("95 of 100"), latency.p95]], (value) => duration(value)));

// --- the loop --------------------------------------------------------------------------------------------------

async function look() {
  const now = await api("/part/live");
  const at = performance.now();
  const seconds = before ? (at - before.at) / 1000 : 1;
  document.getElementById("broker").hidden = now.broker;
  showProcesses(now, seconds);
  const { median, p95 } = showFigures(now, seconds);
  showJobs(now.jobs);
  times.push(Date.now());
  latency.median.push(median);
  latency.p95.push(p95);
  if (times.length > MOST_POINTS) for (const list of [times, latency.median, latency.p95, ...series.values()]) list.shift();
  for (const [id, values] of series) if (values.every((value) => value === null) && !now.processes.some((each) => each.id === id)) series.delete(id);
  rate.paint();
  time.paint();
  before = { ...now, at };
}

async function forever() {
  if (!document.hidden) {
    try {
      await look();
      document.getElementById("connection").hidden = true;
    } catch {
      document.getElementById("connection").hidden = false;
    }
  }
  setTimeout(forever, EVERY_MS);
}
forever();
