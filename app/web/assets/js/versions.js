// The versions: their lineage as a graph, what was forgotten as a heat map, and moves of what is served.

import { api, url } from "./api.js";
import { prepare, prepareMeasuring, showBusy, showProblem, toastAfterLoad } from "./dialogs.js";
import { h, notice } from "./dom.js";
import { gettext, moment, ngettext, number, percent, versionNumber } from "./texts.js";

const lineage = document.getElementById("lineage");
const heat = document.getElementById("heat");

prepareMeasuring();

// --- moves -----------------------------------------------------------------------------------------------------

const dialog = prepare(document.getElementById("move") ?? document.createElement("dialog"));
const form = document.getElementById("move-form");
let wished = null;

function describe({ move, version, held }) {
  const of = { number: version ? versionNumber(version) : null };
  const words = {
    promote: [gettext("Serve version %(number)s?", of), gettext("All servers load it before any of them answers with it."), gettext("Serve it")],
    rollback: [version ? gettext("Roll back to version %(number)s?", of) : gettext("Roll back to the version before?"), gettext("All servers load it before any of them answers with it. Nothing is removed: you can come back."), gettext("Roll back")],
    pin: [gettext("Pin version %(number)s?", of), gettext("A pinned version is not pruned."), gettext("Pin")],
    unpin: [gettext("Unpin version %(number)s?", of), gettext("It may be pruned again."), gettext("Unpin")],
  }[move];
  document.getElementById("move-title").textContent = words[0];
  document.getElementById("move-text").textContent = words[1];
  document.getElementById("move-do").textContent = words[2];
  document.getElementById("move-held").replaceChildren(
    ...(held ? [notice("warning", gettext("The gate holds this version."), held)] : []),
  );
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-move]");
  if (!button) return;
  const { move, version, expected } = button.dataset;
  const reasons = button.nextElementSibling; // a template, if the gate holds the version
  wished = { move, version, expected, held: reasons?.matches("template") ? reasons.content.cloneNode(true) : null };
  describe(wished);
  form.reset();
  document.getElementById("move-status").replaceChildren();
  document.getElementById("move-do").disabled = false;
  dialog.showModal();
  document.getElementById("move-reason").focus();
});

async function carryOut({ move, version, expected, held }, reason) {
  if (move === "pin") return api(`/v1/versions/${version}/pin`, { method: "POST", json: { reason } });
  if (move === "unpin") return api(`/v1/versions/${version}/pin?${new URLSearchParams({ reason })}`, { method: "DELETE" });
  const json = { reason };
  if (version) json.version_id = version;
  if (expected) json.expected = expected;
  if (move === "promote" && held) json.anyway = true;
  return api(`/v1/admin/${move}`, { method: "POST", json });
}

form?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const status = document.getElementById("move-status");
  const reason = form.elements.reason.value.trim();
  if (!reason) {
    form.elements.reason.setAttribute("aria-invalid", "true");
    showProblem(status, { title: gettext("Say why: the journal keeps it.") });
    return;
  }
  document.getElementById("move-do").disabled = true;
  showBusy(status, wished.move.endsWith("pin") ? gettext("It is being done.") : gettext("All servers load the version."));
  try {
    const done = await carryOut(wished, reason);
    const moved = !wished.move.endsWith("pin");
    const of = { number: versionNumber(moved ? done.to : wished.version) };
    const text = moved ? gettext("Version %(number)s is served.", of) : done.pinned ? gettext("Version %(number)s is pinned.", of) : gettext("Version %(number)s is not pinned any more.", of);
    toastAfterLoad(text, moved && done.from ? { to: done.from, expected: done.to } : null);
  } catch (problem) {
    document.getElementById("move-do").disabled = false;
    showProblem(status, problem);
  }
});

// --- two chosen versions -----------------------------------------------------------------------------------------

const chosen = [];

function showChosen() {
  for (const box of document.querySelectorAll("[data-compare]")) box.checked = chosen.includes(box.dataset.compare);
  const button = document.getElementById("compare-button");
  if (button) button.disabled = chosen.length !== 2;
}
document.addEventListener("change", (event) => {
  const version = event.target.dataset?.compare;
  if (version === undefined) return;
  if (event.target.checked) chosen.push(version);
  else chosen.splice(chosen.indexOf(version), 1);
  if (chosen.length > 2) chosen.shift();
  showChosen();
});
document.addEventListener("click", (event) => {
  if (!event.target.closest("#compare-button")) return;
  const [a, b] = chosen;
  location.assign(url(`/versions/compare?${new URLSearchParams({ a, b })}`));
});
document.addEventListener("htmx:afterSwap", showChosen);

// --- the graph ---------------------------------------------------------------------------------------------------

const NAMES = {
  first: gettext("begun"),
  instant: gettext("instant"),
  trained: gettext("trained"),
  merged: gettext("merged"),
  edited: gettext("edited"),
  corrected: gettext("corrected"),
  held: gettext("held"),
};
const COLOURS = { instant: "#d99a12", edited: "#7a5bd0", corrected: "#2f7fd6", merged: "#c2569b", held: "#c8404a" };
const MOST_SHOWN = 40;

function tipOf(node) {
  const lines = [gettext("Version %(number)s", { number: node.number }) + `, ${NAMES[node.made]}`];
  if (node.what) lines.push(node.what);
  lines.push(ngettext("%(count)s class", "%(count)s classes", node.classes));
  if (node.accuracy !== null) lines.push(gettext("accuracy %(share)s", { share: percent(node.accuracy, 1) }));
  lines.push(moment(node.created_at));
  return lines.join("\n");
}

function graphOptions(found, palette, tips) {
  const { nodes } = found;
  const lanes = Math.max(...nodes.map((node) => node.lane), 0);
  const at = new Map(nodes.map((node) => [node.id, node]));
  const lines = nodes.flatMap((node) => node.parents.filter((parent) => at.has(parent)).map((parent) => ({ from: at.get(parent), to: node })));
  const first = Math.max(0, 100 - (100 * MOST_SHOWN) / nodes.length);
  return {
    grid: { left: 16, right: 24, top: 22, bottom: nodes.length > MOST_SHOWN ? 52 : 28 },
    tooltip: tips(palette, (shown) => (shown.data?.node ? tipOf(shown.data.node) : "")),
    xAxis: { type: "value", min: -1, max: nodes.length, axisLine: { show: false }, axisTick: { show: false }, splitLine: { show: false }, interval: Math.max(1, Math.round(Math.min(nodes.length, MOST_SHOWN) / 12)), axisLabel: { color: palette.soft, formatter: (value) => nodes[value]?.number ?? "" } },
    yAxis: { type: "value", min: -0.7, max: Math.max(lanes, 1) + 0.7, inverse: true, show: false },
    dataZoom: nodes.length > MOST_SHOWN ? [{ type: "slider", start: first, end: 100, height: 18, bottom: 6, showDetail: false, borderColor: palette.line, fillerColor: palette.raised, handleStyle: { color: palette.accent } }, { type: "inside", start: first, end: 100, zoomOnMouseWheel: "ctrl" }] : [],
    series: [
      {
        type: "custom",
        silent: true,
        data: lines.map(({ from, to }) => [from.at, from.lane, to.at, to.lane]),
        encode: { x: [0, 2], y: [1, 3] },
        renderItem: (_, value) => {
          const [x1, y1] = value.coord([value.value(0), value.value(1)]);
          const [x2, y2] = value.coord([value.value(2), value.value(3)]);
          const middle = x1 + Math.min(22, (x2 - x1) / 2);
          return { type: "bezierCurve", shape: { x1, y1, x2, y2, cpx1: middle, cpy1: y1, cpx2: y1 === y2 ? x1 : middle, cpy2: y2 }, style: { stroke: palette.line, lineWidth: 2, fill: "none" } };
        },
        clip: true,
      },
      {
        type: "scatter",
        symbolSize: (_, shown) => (shown.data.node.current ? 20 : 13),
        data: nodes.map((node) => ({
          value: [node.at, node.lane],
          node,
          symbol: node.made === "held" ? "emptyCircle" : node.made === "merged" ? "diamond" : "circle",
          itemStyle: { color: COLOURS[node.made] ?? (node.made === "first" ? palette.soft : palette.accent), borderColor: node.current ? palette.text : palette.surface, borderWidth: node.current ? 3 : 1 },
          label: { show: node.current || node.pinned, position: "top", color: palette.text, formatter: node.current ? gettext("current") : gettext("pinned") },
        })),
        cursor: "pointer",
        clip: true,
      },
    ],
  };
}

if (lineage) {
  const [{ draw, tips }, found] = await Promise.all([import("./charts.js"), api("/part/versions/graph")]);
  const lanes = Math.max(...found.nodes.map((node) => node.lane), 0);
  lineage.style.height = `${Math.min(28, 7.5 + 2.1 * Math.min(lanes, 9))}rem`;
  const chart = draw(lineage, (palette) => graphOptions(found, palette, tips));
  chart.on("click", (event) => event.data?.node && location.assign(url(`/versions/${event.data.node.id}`)));
}

// --- R ---------------------------------------------------------------------------------------------------------

const MOST_COLUMNS = 30;
const MOST_ROWS = 100;

function heatTable(report, by) {
  const columns = by === "tasks" ? report.tasks.filter((task) => task.test_images) : report.test_sets;
  const shown = columns.slice(-MOST_COLUMNS);
  const rows = report.rows.slice(-MOST_ROWS);
  const title = (column) => (by === "tasks" ? gettext("Task %(number)s", { number: column.task }) : column);
  const about = (column) => (by === "tasks" ? column.classes.slice(0, 20).join(", ") : "");
  const value = (row, column) => (by === "tasks" ? row.accuracies[report.tasks.indexOf(column)] : (row.by_test_set[column] ?? null));
  const cell = (found) => {
    const element = h("td", { class: "number" }, found === null ? "–" : percent(found));
    if (found !== null) {
      element.style.setProperty("--share", `${Math.round(found * 100)}%`);
      element.className = found > 0.62 ? "number hot" : "number warm";
    }
    return element;
  };
  const table = h(
    "table",
    { class: "heat" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, gettext("Version")), shown.map((column) => h("th", { scope: "col", title: about(column) }, title(column))), h("th", { scope: "col" }, gettext("All")))),
    h("tbody", {}, rows.map((row) =>
      h("tr", {}, h("th", { scope: "row" }, h("a", { href: url(`/versions/${row.version_id}`) }, versionNumber(row.version_id)), row.in_part ? h("span", { class: "hint" }, gettext("in part")) : null), shown.map((column) => cell(value(row, column))), cell(row.seen)),
    )),
  );
  const cut = [
    columns.length > shown.length ? gettext("The last %(shown)s of %(total)s columns are shown.", { shown: number(shown.length), total: number(columns.length) }) : null,
    report.rows.length > rows.length ? gettext("The last %(shown)s of %(total)s versions are shown.", { shown: number(rows.length), total: number(report.rows.length) }) : null,
  ];
  return [h("div", { class: "scroll" }, table), ...cut.filter(Boolean).map((line) => h("p", { class: "hint" }, line))];
}

function metrics(report) {
  const names = { last: gettext("Last"), average: gettext("Average"), forgetting: gettext("Forgetting"), backward_transfer: gettext("Backward transfer") };
  return Object.entries(names).map(([key, name]) =>
    h("div", {}, h("span", { class: "figure-name" }, name, " "), h("strong", { class: "number" }, report[key] === null ? "–" : percent(report[key], 1))),
  );
}

if (heat) {
  const show = async () => {
    const report = await api(`/v1/versions/${heat.dataset.version}/report`);
    const render = (by) => heat.replaceChildren(...heatTable(report, by));
    render("tasks");
    document.getElementById("heat-metrics").replaceChildren(...metrics(report));
    const missing = [...new Set(report.not_measured.map((cell) => cell.version_id))];
    if (missing.length) {
      const text = ngettext("%(count)s version was not measured yet.", "%(count)s versions were not measured yet.", missing.length);
      const button = h("button", { type: "button", class: "secondary" }, gettext("Measure"));
      button.dataset.measure = missing.slice(0, 100).join(" ");
      document.getElementById("heat-missing").replaceChildren(h("span", { class: "soft" }, text), button);
    }
    for (const button of document.querySelectorAll("[data-by]")) {
      button.addEventListener("click", () => {
        for (const other of document.querySelectorAll("[data-by]")) other.setAttribute("aria-pressed", String(other === button));
        render(button.dataset.by);
      });
    }
  };
  show().catch((problem) => showProblem(heat, problem));
}
