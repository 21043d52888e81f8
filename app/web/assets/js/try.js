// The page "Try": asks the service about images, and shows what it answers, by one version or two.

import { api, Problem } from "./api.js";
import { takesPhotographs } from "./camera.js";
import { confirmed, explained, h, icon, notice, worded, toast } from "./dom.js";
import { looksLikeImage, takesChoices, takesDrops, takesPastes } from "./drops.js";
import { bytes, gettext, ngettext, number, percent, versionNumber } from "./texts.js";

const AT_ONCE = 8;
const SHOWN = 5;

const page = document.getElementById("try");
const results = document.getElementById("results");
const failure = document.getElementById("failure");
const status = document.getElementById("status");
const form = document.getElementById("options");
const known = new Set([...document.querySelectorAll("#classes option")].map((option) => option.value));
const mostImages = Number(page.dataset.mostImages);
const mostBytes = Number(page.dataset.mostBytes);
const canCorrect = page.dataset.canCorrect === "yes";

const shown = []; // {file, preview, card}, the newest first
let round = new AbortController(); // answers of an earlier one are too late

function asked() {
  const words = [...new Set(form.elements.words.value.split(/[,;\n]/).map((word) => word.trim()).filter(Boolean))];
  return {
    words,
    withClasses: words.length > 0 && form.elements.with_classes.checked && !form.elements.with_classes.disabled,
    path: form.elements.path.value,
    coverage: words.length ? "" : form.elements.set_coverage.value,
    versions: ["", form.elements.version?.value ?? ""].filter((version, at) => !at || version),
  };
}

async function classify(files, options, version, signal) {
  const body = new FormData();
  for (const file of files) body.append("images", file, file.name || "image");
  body.append("top_k", String(SHOWN));
  body.append("path", options.path);
  for (const word of options.words) body.append("labels", word);
  if (options.words.length === 1) body.set("labels", JSON.stringify(options.words));
  if (options.withClasses) body.append("with_classes", "true");
  if (options.coverage) body.append("set_coverage", options.coverage);
  if (version) body.append("version", version);
  return api("/v1/classify", { method: "POST", form: body, signal });
}

function add(found) {
  const images = found.filter(looksLikeImage);
  const others = found.length - images.length;
  if (others) toast(ngettext("%(count)s file is no image, and was left out.", "%(count)s files are no images, and were left out.", others));
  const large = images.filter(({ file }) => file.size > mostBytes);
  if (large.length) toast(gettext("Images of more than %(size)s are left out.", { size: bytes(mostBytes) }));
  const taken = images.filter(({ file }) => file.size <= mostBytes);
  if (!taken.length) return;
  const items = taken.map(({ file }) => ({ file, preview: URL.createObjectURL(file), card: h("article", { class: "card result" }) }));
  shown.unshift(...items);
  results.prepend(...items.map((item) => item.card));
  ask(items);
}

async function ask(items, asOf = round) {
  const options = asked();
  failure.replaceChildren();
  results.classList.toggle("wide", options.versions.length > 1);
  for (const item of items) wait(item);
  const size = Math.min(AT_ONCE, mostImages);
  for (let start = 0; start < items.length; start += size) {
    const some = items.slice(start, start + size);
    try {
      const files = some.map((item) => item.file);
      const answers = [];
      for (const version of options.versions) answers.push(await classify(files, options, version, asOf.signal));
      if (asOf !== round) return;
      some.forEach((item, at) => show(item, answers.map((answer) => ({ ...answer, result: answer.results[at] })), options));
    } catch (problem) {
      if (asOf !== round) return;
      if (!(problem instanceof Problem)) throw problem;
      failure.replaceChildren(notice("error", problem.title, explained(problem)));
      for (const item of items.slice(start)) unanswered(item);
      return;
    }
  }
  document.getElementById("no-classes")?.remove();
  status.textContent = ngettext("%(count)s image is answered.", "%(count)s images are answered.", items.length);
}

function head(item, ...middle) {
  return h(
    "header",
    {},
    h("img", { src: item.preview, alt: "" }),
    h("div", {}, ...middle, h("p", { class: "file" }, item.file.name)),
    h("button", { type: "button", class: "quiet", "aria-label": gettext("Remove %(name)s from this page", { name: item.file.name }), onclick: () => remove(item) }, icon("x")),
  );
}

function wait(item) {
  item.card.setAttribute("aria-busy", "true");
  item.card.replaceChildren(head(item, h("p", { class: "waiting" }, gettext("Looking …"))));
}

function unanswered(item) {
  item.card.removeAttribute("aria-busy");
  item.card.replaceChildren(head(item, h("p", { class: "waiting" }, gettext("Not answered"))));
}

function remove(item) {
  URL.revokeObjectURL(item.preview);
  shown.splice(shown.indexOf(item), 1);
  item.card.remove();
}

function show(item, answers, options) {
  item.card.removeAttribute("aria-busy");
  const first = answers[0].result;
  if (first.error) {
    item.card.replaceChildren(head(item, notice("error", gettext(first.error.title), worded(first.error.detail))));
    return;
  }
  const best = first.predictions[0];
  const badges = h(
    "div",
    { class: "badges" },
    h("span", { class: "badge", "data-kind": "accent" }, percent(best.probability, best.probability < 0.995 ? 0 : 1)),
    first.unknown ? h("span", { class: "badge", "data-kind": "warn" }, icon("circle-help"), gettext("Unknown: looks like none of the classes")) : null,
    answers.length > 1 && answers[1].result.predictions[0].label !== best.label
      ? h("span", { class: "badge", "data-kind": "warn" }, icon("git-compare"), gettext("The versions differ"))
      : null,
  );
  item.card.replaceChildren(
    head(item, h("p", { class: "best" }, best.label), badges),
    h("div", { class: "answers" }, answers.map((answer) => bars(answer, answers.length > 1))),
    ...(canCorrect ? [h("footer", {}, correction(item, answers[0], options))] : []),
  );
}

function bars(answer, named) {
  const { result } = answer;
  const inSet = new Set(result.label_set ?? []);
  const cosine = (value) => (value === null ? "–" : number(value, 2));
  const rows = result.predictions.map((prediction) =>
    h(
      "div",
      { class: inSet.has(prediction.label) ? "bar-row in-set" : "bar-row", role: "row" },
      h("span", { class: "label", role: "cell" }, prediction.label, h("meter", { min: 0, max: 1, value: prediction.probability, "aria-hidden": "true" })),
      h("span", { role: "cell" }, percent(prediction.probability, 1)),
      h("span", { class: "small", role: "cell" }, cosine(prediction.text_score)),
      h("span", { class: "small", role: "cell" }, cosine(prediction.visual_score)),
    ),
  );
  const heads = [gettext("Label"), gettext("Probability"), gettext("Text"), gettext("Visual")];
  return h(
    "section",
    { class: "answer" },
    named ? h("h3", {}, gettext("Version %(number)s", { number: versionNumber(answer.model_version) })) : null,
    h(
      "div",
      { class: "bars", role: "table", "aria-label": gettext("Labels with their probabilities, and how each path scores them") },
      h("div", { class: "bar-row head", role: "row" }, heads.map((text) => h("span", { role: "columnheader" }, text))),
      rows,
    ),
    result.label_set ? h("p", { class: "hint" }, setSentence(result.label_set)) : null,
    answer.alike?.length ? h("p", { class: "hint" }, gettext("The model cannot tell these apart: %(labels)s", { labels: answer.alike.map((group) => group.join(", ")).join("; ") })) : null,
  );
}

function setSentence(labels) {
  const names = labels.slice(0, 8).join(", ") + (labels.length > 8 ? " …" : "");
  return ngettext("The set has %(count)s label: %(names)s", "The set has %(count)s labels: %(names)s", labels.length, { names });
}

function correction(item, answer, options) {
  const id = `right-${shown.indexOf(item)}-${Date.now()}`;
  const input = h("input", { id, name: "label", required: true, maxLength: 200, autocomplete: "off", placeholder: gettext("right class") });
  input.setAttribute("list", "classes");
  const told = h("form", { class: "correct" }, h("label", { htmlFor: id }, gettext("This is …")), input, h("button", { class: "secondary" }, icon("check"), gettext("Correct")));
  told.addEventListener("submit", async (event) => {
    event.preventDefault();
    const label = input.value.trim();
    if (!label) return;
    const body = new FormData();
    body.append("image", item.file, item.file.name || "image");
    body.append("label", label);
    if (!known.has(label)) {
      const title = gettext("%(label)s is no class yet", { label });
      const text = gettext("Begin a new class with this image? It is learned with the other corrections that wait.");
      if (!(await confirmed(title, text, gettext("Begin the class"), gettext("Cancel")))) return;
      body.append("new_class", "true");
    }
    if (!options.words.length) body.append("answer_id", answer.result.id);
    try {
      const kept = await api("/v1/corrections", { method: "POST", form: body });
      told.replaceWith(kindly(item, answer, options, kept));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      told.after(notice("error", problem.title, explained(problem)));
    }
  });
  return told;
}

function kindly(item, answer, options, kept) {
  const line = h("div", { class: "row spread" });
  const undo = h("button", { type: "button", class: "quiet", onclick: async () => {
    try {
      await api(`/v1/corrections/${kept.number}`, { method: "DELETE" });
      line.replaceWith(correction(item, answer, options));
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      line.after(notice("error", problem.title, explained(problem)));
    }
  } }, icon("undo-2"), gettext("Undo"));
  line.append(h("span", { class: "badge", "data-kind": "good" }, icon("circle-check"), gettext("Kept as %(label)s until it is learned", { label: kept.label })), undo);
  return line;
}

let timer = null;
function askAgain() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    round.abort();
    round = new AbortController();
    if (shown.length) ask([...shown]);
  }, 400);
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", askAgain);
for (const name of ["choose", "photograph"]) {
  takesChoices(document.getElementById(name), add);
}
takesPhotographs(document.getElementById("photograph"), (file) => add([{ file, path: file.name }]));
takesDrops(document.getElementById("drop"), add);
takesDrops(document.body, add); // beside its place is as good
takesPastes(add);
