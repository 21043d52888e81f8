// Shows how a task is learned: its instant version, the phases of its training with losses, and what both achieved.

import { url } from "./api.js";
import { h, holding, icon, notice, worded } from "./dom.js";
import { phaseName } from "./phases.js";
import { duration, gettext, ngettext, number, percent, versionNumber } from "./texts.js";

const OVER = ["succeeded", "failed", "cancelled"];

/** Show a job under `place` whenever `show` is called with it. `onCancel` is called when somebody wants it to end. */
export function followed(place, { onCancel }) {
  const stages = h("ol", { class: "stages" });
  const cancel = h("button", { type: "button", class: "secondary", id: "cancel", onclick: onCancel }, icon("ban"), gettext("Cancel"));
  const said = h("p", { class: "visually-hidden", role: "status", "aria-live": "polite" });
  const card = h("article", { class: "card" }, h("div", { class: "row spread" }, h("h2", {}, gettext("What becomes of it")), cancel), stages, said);
  const losses = new Losses();
  place.replaceChildren(card);
  let told = "";

  function show(job) {
    cancel.hidden = OVER.includes(job.state) || job.cancel_requested;
    losses.add(job.progress);
    stages.replaceChildren(...[sent(job), instant(job), training(job, losses), outcome(job)].filter(Boolean));
    losses.draw();
    serving(job);
    const sentence = spoken(job);
    if (sentence !== told) said.textContent = told = sentence;
  }
  return { show };
}

/** Say at the side which version is served, once a version of this task is. */
function serving(job) {
  const made = [job.result, job.instant].find((each) => each?.promoted);
  const place = document.getElementById("serving");
  if (made && place && !OVER.includes(first ??= job.state)) place.textContent = gettext("Serving version %(number)s", { number: versionNumber(made.version_id) });
}
let first = null; // how the task was when the page was opened: of one that was over, the server has said what is served

/** What a screen reader is told: when a stage or phase begins, and not every step. */
function spoken(job) {
  if (job.state === "succeeded") return gettext("The task is learned.");
  if (job.state === "failed") return gettext("The task failed.");
  if (job.state === "cancelled") return gettext("The task is cancelled.");
  if (job.progress) return phaseName(job.progress.phase);
  return job.instant?.promoted ? gettext("The instant version is served.") : gettext("The task waits.");
}

function stage(state, title, ...content) {
  const name = { now: "loader-circle", good: "circle-check", warn: "triangle-alert", bad: "circle-x", later: "clock" }[state];
  return h("li", { "data-state": state }, icon(name), h("div", { class: "stage" }, h("h3", {}, title), ...content.flat().filter(Boolean)));
}

function sent(job) {
  const names = Object.keys(job.validation?.classes ?? {});
  const text = `${ngettext("%(count)s class", "%(count)s classes", names.length)}, ${ngettext("%(count)s image", "%(count)s images", job.validation?.accepted ?? 0)}`;
  return stage("good", gettext("Sent and checked"), h("p", { class: "soft" }, text), labels(job.labels));
}

function labels(report) {
  if (!report?.likely_wrong_count) return null;
  const lines = report.likely_wrong.slice(0, 20).map((each) => h("li", { class: "plain" }, h("span", { class: "path" }, `${each.path}: ${gettext("taught as %(name)s", { name: each.label })}, ${gettext("looks like %(name)s", { name: each.likely })}`)));
  return h("details", {}, h("summary", {}, ngettext("%(count)s label is likely wrong", "%(count)s labels are likely wrong", report.likely_wrong_count)), h("ul", { class: "findings" }, lines));
}

function accuracy(evaluation) {
  const overall = evaluation?.overall;
  if (!overall) return h("p", { class: "soft" }, gettext("It was not measured, because no image was held out."));
  const told = [
    [percent(overall.fused, 1), gettext("right by both paths")],
    [percent(overall.text, 1), gettext("by text")],
    [percent(overall.visual, 1), gettext("by prototypes")],
    [number(overall.images), gettext("images measured on")],
  ];
  return h("dl", { class: "figures" }, told.map(([value, name]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function reasons(made) {
  if (made.promoted) return null;
  if (made.held_because?.length) return notice("warning", gettext("The gate holds it: it is published, and not served."), holding(made.version_id));
  return notice("warning", gettext("It is published, and not served."), worded(made.not_promoted_because));
}

function instant(job) {
  const made = job.instant;
  if (!made) {
    if (OVER.includes(job.state) || job.state === "running") return null;
    return stage("now", gettext("Instant version"), h("p", { class: "soft" }, gettext("Made without training, within seconds.")));
  }
  if (made.error) return stage("warn", gettext("No instant version"), h("p", {}, worded(made.error.message)), h("p", { class: "soft" }, gettext("The task is trained all the same.")));
  return stage(
    made.promoted ? "good" : "warn",
    gettext("Instant version %(number)s after %(time)s", { number: versionNumber(made.version_id), time: duration(made.seconds) }),
    accuracy(made.evaluation),
    reasons(made),
    made.promoted && !job.result ? tryIt() : null,
  );
}

function tryIt() {
  return h("p", {}, h("a", { href: url("/") }, gettext("It answers already: try it")), " ", icon("arrow-right"));
}

function training(job, losses) {
  if (OVER.includes(job.state)) return losses.any ? stage(job.state === "succeeded" ? "good" : "warn", gettext("Training"), losses.element) : null;
  const progress = job.progress;
  if (!progress) return stage(job.instant ? "now" : "later", gettext("Training"), h("p", { class: "soft" }, gettext("Waits for its turn. What is served goes on answering.")));
  const bar = progress.steps ? h("progress", { max: progress.steps, value: progress.step, "aria-label": phaseName(progress.phase) }) : h("progress", { "aria-label": phaseName(progress.phase) });
  const times = [
    progress.steps ? gettext("step %(step)s of %(steps)s", { step: number(progress.step), steps: number(progress.steps) }) : null,
    gettext("for %(time)s", { time: duration(progress.elapsed_s) }),
    progress.eta_s === null ? null : gettext("about %(time)s left in this phase", { time: duration(progress.eta_s) }),
  ].filter(Boolean);
  return stage("now", job.cancel_requested ? gettext("Being cancelled …") : phaseName(progress.phase), bar, h("p", { class: "hint" }, times.join(" · ")), losses.any ? losses.element : null);
}

function outcome(job) {
  if (job.state === "cancelled") return stage("warn", gettext("Cancelled"), h("p", {}, gettext("The images are removed. What was served before stays.")));
  if (job.state === "failed") return stage("bad", gettext("Failed"), notice("error", gettext("The task was not learned"), worded(job.error?.detail)));
  const result = job.result;
  if (!result) return stage("later", gettext("Trained version"), h("p", { class: "soft" }, gettext("It takes the place of the instant one if it passes the gate.")));
  const same = job.instant?.version_id === result.version_id;
  const title = same ? gettext("Version %(number)s stays: no training was asked for", { number: versionNumber(result.version_id) }) : gettext("Trained version %(number)s", { number: versionNumber(result.version_id) });
  const gain = same ? null : difference(job.instant?.evaluation, result.evaluation);
  return stage(
    result.promoted ? "good" : "warn",
    title,
    same ? null : accuracy(result.evaluation),
    gain,
    reasons(result),
    h("div", { class: "row" }, h("a", { href: url("/"), class: "button" }, icon("scan-search"), gettext("Try it")), h("a", { href: url("/versions"), class: "button secondary" }, icon("git-branch"), gettext("To the versions"))),
  );
}

function difference(before, now) {
  if (!before?.overall || !now?.overall) return null;
  const points = 100 * (now.overall.fused - before.overall.fused);
  const amount = number(Math.abs(points), 1);
  if (Math.abs(points) < 0.05) return h("p", { class: "soft" }, gettext("As accurate as the instant version."));
  return h("p", { class: "soft" }, points > 0 ? gettext("%(amount)s points more than the instant version.", { amount }) : gettext("%(amount)s points less than the instant version.", { amount }));
}

/** The losses of a training: their last values, and how they went, drawn once there is something to draw. */
class Losses {
  constructor() {
    this.values = h("p", { class: "losses" });
    this.place = h("div", { class: "chart", role: "img", "aria-label": gettext("How the losses went"), hidden: true });
    this.element = h("div", {}, this.values, this.place);
    this.series = new Map();
    this.seen = "";
    this.chart = null;
    this.loading = false;
  }

  get any() {
    return this.series.size > 0;
  }

  add(progress) {
    const now = progress ? `${progress.phase} ${progress.step}` : "";
    if (!progress || now === this.seen || !Object.keys(progress.loss_history).length) return;
    this.seen = now;
    for (const [name, points] of Object.entries(progress.loss_history)) {
      const newest = name in progress.losses && points.at(-1)[0] < progress.step ? [[progress.step, progress.losses[name]]] : [];
      this.series.set(name, [...points, ...newest]);
    }
    const told = [...this.series].map(([name, points]) => h("span", {}, `${name} ${number(points.at(-1)[1], 3)}`));
    this.values.replaceChildren(...told);
  }

  async draw() {
    if (this.chart) return this.update();
    if (this.loading || Math.max(0, ...[...this.series.values()].map((points) => points.length)) < 2) return;
    this.loading = true;
    const { themed } = await import("./charts.js");
    this.place.hidden = false;
    this.chart = themed(this.place);
    this.update();
  }

  update() {
    const series = [...this.series].map(([name, data]) => ({ name, data, type: "line", showSymbol: false, lineWidth: 2 }));
    this.chart.setOption({
      animation: false,
      legend: { top: 0 },
      grid: { left: 44, right: 12, top: 30, bottom: 24 },
      tooltip: { trigger: "axis", renderMode: "richText" },
      xAxis: { type: "value", minInterval: 1 },
      yAxis: { type: "value", scale: true },
      series,
    });
  }
}
