// The page "Teach": collects images, has them checked, has them taught, and follows what becomes of it.

import { api, Problem, upload, url } from "./api.js";
import { zipped } from "./archive.js";
import { ClassBox, entriesOf, nameOf, sorted } from "./collection.js";
import { confirmed, explained, h, icon, notice, toast } from "./dom.js";
import { chosen, looksLikeImage, takesChoices, takesDrops, takesPastes } from "./drops.js";
import { followJob } from "./events.js";
import { followed } from "./job_view.js";
import { reportOf } from "./report_view.js";
import { bytes, gettext, ngettext, percent } from "./texts.js";

const THUMBS = 9;

const page = document.getElementById("teach");
const form = document.getElementById("options");
const part = Object.fromEntries(
  ["boxes", "package", "failure", "report", "progress", "collect", "check", "learn", "stop", "sending", "sent", "sent-text"].map(
    (id) => [id, document.getElementById(id)],
  ),
);
const mostBytes = Number(page.dataset.mostBytes);

const boxes = [];
let source = null; // {blob, name, files}: an archive or a folder as it is
let made = null; // {blob, name, entries} of the last check
let sending = null; // an AbortController
let stopFollowing = () => {};

// Collecting

function add(found) {
  if (!page || part.collect.hidden || part.collect.inert) return;
  const sort = sorted(found);
  if (sort.mixed) return say(gettext("Drop one archive alone."));
  if ((sort.archive || sort.folder) && boxes.length) return say(gettext("There are classes already; remove them to teach an archive or a nested folder instead."));
  if ((sort.boxes || sort.loose) && source) return say(gettext("There is an archive already; remove it to name classes by hand instead."));
  if (sort.archive) source = { blob: sort.archive, name: sort.archive.name, files: null };
  else if (sort.folder) source = { blob: null, name: sort.folder[0].path.split("/")[0], files: sort.folder };
  else if (sort.boxes) for (const [name, images] of sort.boxes) fill(boxOf(name), images);
  else if (boxes.length === 1) fill(boxes[0], sort.loose);
  else return say(gettext("Name a class first, and drop the images into it; or drop a folder with its name."));
  changed();
}

function say(text) {
  part.failure.replaceChildren(notice("warning", text));
  document.getElementById("class-name").focus();
}

function boxOf(name) {
  const there = boxes.find((box) => box.name === name);
  if (there) return there;
  const box = new ClassBox(name);
  boxes.push(box);
  return box;
}

function fill(box, found) {
  const images = found.filter(looksLikeImage);
  const others = found.length - images.length;
  if (others) toast(ngettext("%(count)s file is no image, and was left out.", "%(count)s files are no images, and were left out.", others));
  box.images.push(...images.map(({ path, file }) => ({ path, file, preview: null })));
}

/** What was checked is no longer what is there. */
function changed() {
  made = null;
  part.failure.replaceChildren();
  part.report.replaceChildren();
  part.learn.hidden = true;
  part.check.hidden = false;
  part.check.disabled = !source && !boxes.some((box) => box.images.length);
  part.package.replaceChildren(...(source ? [packageCard()] : []));
  part.boxes.replaceChildren(...boxes.map(boxCard));
}

function packageCard() {
  const size = source.blob ? source.blob.size : source.files.reduce((sum, { file }) => sum + file.size, 0);
  const told = source.blob ? bytes(size) : `${ngettext("%(count)s file", "%(count)s files", source.files.length)}, ${bytes(size)}`;
  return h(
    "div",
    { class: "card row spread" },
    h("span", {}, icon(source.blob ? "file-archive" : "folder"), ` ${source.name} `, h("span", { class: "soft" }, told)),
    h("button", { type: "button", class: "quiet", onclick: () => ((source = null), changed()) }, icon("x"), gettext("Remove")),
  );
}

function preview(image) {
  image.preview ??= URL.createObjectURL(image.file);
  return h("img", { src: image.preview, alt: "", loading: "lazy" });
}

function boxCard(box) {
  const name = h("input", { value: box.name, maxLength: 200, "aria-label": gettext("Name of the class"), autocomplete: "off" });
  name.addEventListener("change", () => {
    box.name = name.value.trim() || box.name;
    changed();
  });
  const choose = h("input", { type: "file", accept: "image/*", multiple: true, class: "visually-hidden", "aria-label": gettext("Choose images of %(name)s", { name: box.name }) });
  choose.addEventListener("change", () => (fill(box, chosen(choose)), changed()));
  const more = box.images.length - THUMBS;
  const card = h(
    "article",
    { class: "card box", "data-class": box.name },
    h(
      "header",
      {},
      name,
      h("button", { type: "button", class: "quiet", "aria-label": gettext("Remove the class %(name)s", { name: box.name }), onclick: () => drop(box) }, icon("trash-2")),
    ),
    box.images.length
      ? h("div", { class: "thumbs" }, box.images.slice(0, THUMBS).map(preview), more > 0 ? h("span", { class: "more" }, `+${more}`) : null)
      : null,
    h(
      "p",
      { class: "hint" },
      box.images.length ? ngettext("%(count)s image. ", "%(count)s images. ", box.images.length) : gettext("Drop its images here. "),
      h("label", {}, choose, gettext("Choose images")),
    ),
  );
  takesDrops(card, (found) => {
    const images = found.filter(({ file }) => !/\.zip$/i.test(file.name));
    if (images.length < found.length) toast(gettext("Archives have classes of their own. Drop one on the page, beside the classes."));
    fill(box, images);
    changed();
  });
  return card;
}

function drop(box) {
  const at = boxes.indexOf(box);
  boxes.splice(at, 1);
  changed();
  toast(gettext("%(name)s was removed.", { name: box.name }), {
    label: gettext("Undo"),
    run: () => part.collect.inert || (boxes.splice(at, 0, box), changed()),
  });
}

// Checking and teaching

async function packed() {
  if (made) return made;
  if (source?.blob) return (made = { blob: source.blob, name: source.name, entries: [] });
  const entries = source ? source.files : entriesOf(boxes.filter((box) => box.images.length));
  const blob = await zipped(entries, {
    signal: sending.signal,
    onProgress: (share) => tell(share / 2, gettext("Packing … %(share)s", { share: percent(share) })),
  });
  return (made = { blob, name: "images.zip", entries });
}

function fields(dryRun) {
  const body = new FormData();
  const names = source ? [source.name.replace(/\.[^.]+$/, "")] : boxes.filter((box) => box.images.length).map((box) => box.name);
  body.append("name", form.elements.name.value.trim() || nameOf(names));
  if (form.elements.template.value.trim()) body.append("template", form.elements.template.value.trim());
  if (form.elements.extend.checked) body.append("extend", "true");
  if (form.elements.only_instant.checked) body.append("config", JSON.stringify({ strategy: "prototypes" }));
  if (dryRun) body.append("dry_run", "true");
  return body;
}

function tell(share, text) {
  part.sent.value = share;
  part["sent-text"].textContent = text;
}

function busy(isBusy) {
  part.sending.hidden = !isBusy;
  part.stop.hidden = !isBusy;
  part.check.disabled = part.learn.disabled = isBusy;
  part.collect.inert = isBusy; // what is sent is what is shown
}

async function send(dryRun) {
  sending = new AbortController();
  part.failure.replaceChildren();
  busy(true);
  try {
    const archive = await packed();
    if (archive.blob.size > mostBytes) {
      throw new Problem({ title: "The body is too large", said: gettext("The images have %(size)s together; at most %(most)s are taken at once.", { size: bytes(archive.blob.size), most: bytes(mostBytes) }), status: 413 });
    }
    const body = fields(dryRun);
    body.append("archive", archive.blob, archive.name);
    return await upload("/v1/tasks", body, {
      signal: sending.signal,
      onProgress: (sent, of) =>
        sent < of ? tell(0.5 + sent / of / 2, gettext("Sending … %(share)s", { share: percent(sent / of) })) : tell(1, gettext("The service looks at every image …")),
    });
  } catch (problem) {
    if (problem.name === "AbortError") return null;
    if (problem.name === "NotReadableError" || problem.name === "NotFoundError") {
      part.failure.replaceChildren(notice("error", gettext("A file cannot be read any more"), gettext("It was moved or changed since it was chosen. Choose it again.")));
      return null;
    }
    if (!(problem instanceof Problem)) throw problem;
    part.failure.replaceChildren(notice("error", problem.title, explained(problem)));
    return null;
  } finally {
    busy(false);
  }
}

async function check() {
  const accepted = await send(true);
  if (!accepted) return;
  const view = { validation: accepted.validation, labels: null, state: "queued", error: null };
  const actions = { imageOf, leaveOut, moveTo };
  part.report.replaceChildren(reportOf(view, actions));
  part.check.hidden = true;
  part.learn.hidden = false;
  part.report.scrollIntoView({ behavior: "smooth", block: "start" });
  stopFollowing();
  stopFollowing = followJob(accepted.job_id, (job) => {
    if (made) part.report.replaceChildren(reportOf({ ...view, labels: job.labels, state: job.state, error: job.error }, actions));
  });
}

function entryOf(path) {
  return made?.entries.find((entry) => entry.path === path && entry.box);
}

function imageOf(path) {
  const entry = entryOf(path);
  return entry ? preview(entry.image) : null;
}

/** Take an image out, as a finding suggests. The archive is made again; the report stays, as it is about the rest too. */
function leaveOut(path) {
  const entry = entryOf(path);
  if (!entry) return false;
  entry.box.images.splice(entry.box.images.indexOf(entry.image), 1);
  mend(entry);
  return true;
}

function moveTo(path, name) {
  const entry = entryOf(path);
  if (!leaveOut(path)) return false;
  boxOf(name).images.push(entry.image);
  part.boxes.replaceChildren(...boxes.map(boxCard));
  return true;
}

function mend(entry) {
  made.entries.splice(made.entries.indexOf(entry), 1);
  made.stale = true;
  part.boxes.replaceChildren(...boxes.map(boxCard));
}

async function learn() {
  if (made?.stale) made = null; // the archive is made again from what is left
  const accepted = await send(false);
  if (!accepted) return;
  boxes.length = 0;
  location.assign(url(`/teach/${accepted.job_id}`));
}

function watch(jobId) {
  stopFollowing();
  const view = followed(part.progress, { onCancel: () => cancel(jobId) });
  stopFollowing = followJob(jobId, view.show, () => {
    part.failure.replaceChildren(notice("warning", gettext("No such job"), gettext("It ended more than 30 days ago, or the queue has lost it.")));
  });
}

async function cancel(jobId) {
  const title = gettext("Cancel this task?");
  const text = gettext("What is already served stays: an instant version can be rolled back under Versions.");
  if (!(await confirmed(title, text, gettext("Cancel the task"), gettext("Go on")))) return;
  try {
    await api(`/v1/jobs/${jobId}`, { method: "DELETE" });
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    part.failure.replaceChildren(notice("error", problem.title, explained(problem)));
  }
}

document.getElementById("new-class").addEventListener("submit", (event) => {
  event.preventDefault();
  const input = event.target.elements.name;
  const name = input.value.trim();
  if (!name) return input.focus();
  if (source) return say(gettext("There is an archive already; remove it to name classes by hand instead."));
  boxOf(name);
  input.value = "";
  changed();
});
for (const id of ["choose-folder", "choose-archive"]) {
  takesChoices(document.getElementById(id), add);
}
form.addEventListener("submit", (event) => event.preventDefault());
part.check.addEventListener("click", check);
part.learn.addEventListener("click", learn);
part.stop.addEventListener("click", () => sending?.abort());
window.addEventListener("beforeunload", (event) => {
  if (boxes.length || sending?.signal.aborted === false && !part.sending.hidden) event.preventDefault();
});
const dropPlace = document.getElementById("drop");
if (dropPlace) takesDrops(dropPlace, add);
takesDrops(document.body, add);
takesPastes(add);
if (page.dataset.job) watch(page.dataset.job);
