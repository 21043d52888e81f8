// Test sets: stored from an archive, and removed with a receipt.

import { api, upload } from "./api.js";
import { prepare, prepareMeasuring, showBusy, showProblem, toastAfterLoad } from "./dialogs.js";
import { h, notice } from "./dom.js";
import { holdStrayDrops, takesChoices, takesDrops } from "./drops.js";
import { bytes, gettext, ngettext } from "./texts.js";

prepareMeasuring();

// --- storing -----------------------------------------------------------------------------------------------------

const form = document.getElementById("store");
let file = null;

function choose(chosen) {
  file = chosen ?? null;
  document.getElementById("set-chosen").textContent = file ? `${file.name} (${bytes(file.size)})` : gettext("Choose or drop an archive");
}

function prepareForm() {
  const take = ([one]) => choose(one?.file);
  takesChoices(document.getElementById("set-file"), take);
  takesDrops(document.getElementById("set-drop"), take);
  holdStrayDrops();
  form.addEventListener("submit", store);
}

function counts(validation) {
  const lines = [ngettext("%(count)s image was stored.", "%(count)s images were stored.", validation.accepted)];
  if (validation.rejected_count) lines.push(ngettext("%(count)s file was rejected.", "%(count)s files were rejected.", validation.rejected_count));
  return [...lines, ...validation.notes];
}

async function store(event) {
  event.preventDefault();
  const status = document.getElementById("set-status");
  const progress = document.getElementById("set-progress");
  const name = form.elements.name;
  name.setAttribute("aria-invalid", String(!name.checkValidity()));
  if (!name.checkValidity() || !file) {
    const title = file ? gettext("Write a name of small letters, digits, dots and dashes.") : gettext("Choose an archive.");
    showProblem(status, { title });
    return;
  }
  const data = new FormData();
  for (const field of ["reason", "days"]) if (form.elements[field].value.trim()) data.append(field, form.elements[field].value.trim());
  data.append("archive", file, file.name);
  const button = form.querySelector("button");
  button.disabled = true;
  progress.hidden = false;
  try {
    const done = await upload(`/v1/test-sets/${encodeURIComponent(name.value)}`, data, {
      method: "PUT",
      onProgress: (sent, all) => {
        progress.value = sent / all;
        if (sent === all) showBusy(status, gettext("Every image is checked."));
      },
    });
    if (done.validation.rejected_count || done.validation.notes.length) {
      const again = h("button", { type: "button", onclick: () => location.reload() }, gettext("Show the test sets"));
      status.replaceChildren(notice("success", gettext("It is stored."), counts(done.validation).join(" ")), again);
    } else toastAfterLoad(counts(done.validation).join(" "));
  } catch (problem) {
    showProblem(status, problem);
    button.disabled = false;
  }
  progress.hidden = true;
}
if (form) prepareForm();

// --- removing ----------------------------------------------------------------------------------------------------

const dialog = prepare(document.getElementById("remove"));
const removal = document.getElementById("remove-form");
let wanted = null;

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-remove]");
  if (!button) return;
  wanted = button.dataset.remove;
  document.getElementById("remove-title").textContent = gettext("Remove the test set %(name)s?", { name: wanted });
  removal.reset();
  document.getElementById("remove-status").replaceChildren();
  dialog.showModal();
});
removal.addEventListener("submit", async (event) => {
  event.preventDefault();
  const status = document.getElementById("remove-status");
  const reason = removal.elements.reason.value.trim();
  if (!reason) return showProblem(status, { title: gettext("Say why: the journal keeps it.") });
  try {
    const receipt = await api(`/v1/test-sets/${encodeURIComponent(wanted)}?${new URLSearchParams({ reason })}`, { method: "DELETE" });
    const images = ngettext("%(count)s image", "%(count)s images", receipt.images);
    toastAfterLoad(gettext("Removed %(name)s: %(images)s, %(size)s.", { name: receipt.name, images, size: bytes(receipt.bytes) }));
  } catch (problem) {
    showProblem(status, problem);
  }
});
