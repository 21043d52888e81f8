// The classes: chosen over several pages of the list, and edited in a dialog that says before what would change.

import { Problem, api, upload, url } from "./api.js";
import { parentOf, prepare, showBusy, showProblem, tellOfJob, toastAfterLoad } from "./dialogs.js";
import { h } from "./dom.js";
import { gettext, ngettext, number, percent, versionNumber } from "./texts.js";
import { zipped } from "./archive.js";

const chosen = new Set();
const dialog = prepare(document.getElementById("dialog"));
const body = document.getElementById("dialog-body");
const mergeButton = document.getElementById("merge-button");
let stop = null;
let asked = 0;

function showChosen() {
  for (const box of document.querySelectorAll("[data-choose]")) box.checked = chosen.has(box.dataset.choose);
  if (!mergeButton) return;
  mergeButton.disabled = chosen.size < 2;
  mergeButton.querySelector("span").textContent =
    chosen.size > 1 ? ngettext("Merge %(count)s class", "Merge %(count)s classes", chosen.size) : gettext("Merge the chosen");
}

async function openDialog(names) {
  const query = new URLSearchParams(names.map((name) => ["name", name]));
  await window.htmx.ajax("GET", url(`/part/classes/edit?${query}`), { target: "#dialog-body", swap: "innerHTML" });
  const form = document.getElementById("edit-form");
  if (form) prepareForm(form);
  dialog.showModal();
}

document.addEventListener("change", (event) => {
  const name = event.target.dataset?.choose;
  if (name === undefined) return;
  if (event.target.checked) chosen.add(name);
  else chosen.delete(name);
  showChosen();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-edit]");
  if (button) openDialog([button.dataset.edit]);
});
mergeButton?.addEventListener("click", () => openDialog([...chosen]));
document.addEventListener("htmx:afterSwap", showChosen);
dialog.addEventListener("close", () => {
  stop?.();
  stop = null;
});

// --- one edit --------------------------------------------------------------------------------------------------

function wished(form) {
  const merged = form.dataset.merge ? JSON.parse(form.dataset.merge) : null;
  const kind = merged ? "merge" : form.elements.kind.value;
  const given = (name) => form.elements[name]?.value.trim() || undefined;
  const names = merged ?? [form.dataset.class];
  if (kind === "rename") {
    const name = given("name") === form.dataset.class ? undefined : given("name");
    return { kind, classes: names, name, prompt: given("prompt") };
  }
  if (kind === "swap") return { kind, classes: [...names, given("other")].filter(Boolean) };
  if (kind === "merge") return { kind, classes: names, name: given("name"), prompt: given("prompt") };
  return { kind, classes: names };
}

function incomplete(wish) {
  if (wish.kind === "rename" && !wish.name && !wish.prompt) return gettext("Write another name, another prompt, or both.");
  if (wish.kind === "swap" && wish.classes.length < 2) return gettext("Name the other class.");
  if (wish.kind === "merge" && !wish.name) return gettext("Write what the classes are called then.");
  return null;
}

function sentences(found) {
  const lines = [];
  const { classes_before: before, classes_after: after } = found;
  if (before !== after) lines.push(gettext("Classes: %(before)s now, %(after)s then.", { before: number(before), after: number(after) }));
  for (const facts of found.affected) {
    const parts = [ngettext("%(count)s image", "%(count)s images", facts.images)];
    if (facts.accuracy !== null) parts.push(gettext("accuracy %(share)s", { share: percent(facts.accuracy) }));
    if (facts.nearest) parts.push(gettext("nearest to %(name)s", { name: facts.nearest.label }));
    lines.push(`${facts.name}: ${parts.join(", ")}.`);
  }
  if (found.edit.prompt) lines.push(gettext("Prompt: %(prompt)s", { prompt: found.edit.prompt }));
  for (const each of found.test_sets) {
    const text = { name: each.test_set, images: ngettext("%(count)s image", "%(count)s images", each.images) };
    lines.push(gettext("Test set %(name)s: %(images)s of them.", text));
  }
  for (const what of found.removed) lines.push(gettext("Removed: %(what)s.", { what }));
  for (const what of found.remains) lines.push(gettext("Remains: %(what)s.", { what }));
  if (found.statistics === "approximate") lines.push(gettext("The statistics that all classes share are scaled, since this class's part was not kept apart."));
  lines.push(gettext("A rollback undoes it."));
  return lines;
}

async function showPreview(form) {
  const place = document.getElementById("preview");
  const wish = wished(form);
  const button = document.getElementById("edit-do");
  const lacking = incomplete(wish);
  const turn = ++asked;
  button.disabled = true;
  if (lacking) {
    place.replaceChildren(h("p", { class: "soft" }, lacking));
    return;
  }
  try {
    const found = await api("/v1/classes/preview", { method: "POST", json: wish });
    if (turn !== asked) return;
    place.replaceChildren(h("ul", {}, sentences(found).map((line) => h("li", {}, line))));
    button.disabled = wish.kind === "replace" && !form.elements.images.files.length;
  } catch (problem) {
    if (turn === asked) showProblem(place, problem);
  }
}

async function send(form) {
  const wish = wished(form);
  const reason = form.elements.reason.value.trim();
  const path = `/v1/classes/${encodeURIComponent(wish.classes[0])}`;
  if (wish.kind === "rename") return api(path, { method: "PATCH", json: { name: wish.name, prompt: wish.prompt, reason } });
  if (wish.kind === "swap") return api(path, { method: "PATCH", json: { name: wish.classes[1], swap: true, reason } });
  if (wish.kind === "delete") return api(`${path}?${new URLSearchParams({ reason })}`, { method: "DELETE" });
  if (wish.kind === "merge") {
    return api("/v1/classes/merge", { method: "POST", json: { classes: wish.classes, name: wish.name, prompt: wish.prompt, reason } });
  }
  const data = new FormData();
  const files = [...form.elements.images.files];
  const isArchive = files.length === 1 && !files[0].type.startsWith("image/");
  data.append("archive", isArchive ? files[0] : await zipped(files.map((file, at) => ({ path: `${wish.classes[0]}/${at}-${file.name}`, file }))), "images.zip");
  data.append("reason", reason.slice(0, 200));
  return upload(`${path}/replace`, data);
}

function prepareForm(form) {
  const status = document.getElementById("edit-status");
  let timer = null;

  function refresh() {
    for (const part of form.querySelectorAll("[data-for]")) part.hidden = part.dataset.for !== form.elements.kind?.value;
    document.getElementById("edit-do").disabled = true; // until it is said what would change
    clearTimeout(timer);
    timer = setTimeout(() => showPreview(form), 200);
  }

  form.addEventListener("input", refresh); // not "change": a text field sends that when the button is pressed
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const before = form.dataset.merge ? null : form.dataset.class;
    for (const part of form.elements) part.disabled = part.dataset.close === undefined;
    showBusy(status, gettext("It is sent."));
    try {
      const accepted = await send(form).catch((error) => Promise.reject(error instanceof Problem ? error : new Problem({ title: error.message, status: 0 })));
      stop = tellOfJob(accepted.job_id, status, async (outcome) => {
        if (outcome.kind !== "success") {
          for (const part of form.elements) part.disabled = false;
          showProblem(status, { title: outcome.text, said: outcome.why });
          return;
        }
        chosen.delete(before);
        toastAfterLoad(gettext("Done: version %(number)s is served.", { number: versionNumber(outcome.result.version_id) }), await parentOf(outcome.result.version_id));
      });
    } catch (problem) {
      for (const part of form.elements) part.disabled = false;
      showProblem(status, problem);
    }
  });
  refresh();
  form.querySelector("input:not([type=radio])")?.focus();
}
