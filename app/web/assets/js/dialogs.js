// Dialogs: opened and closed alike, and jobs that a change begins, followed to their end inside of one.

import { api } from "./api.js";
import { explained, h, holding, icon, notice, worded, toast } from "./dom.js";
import { followJob } from "./events.js";
import { phaseName } from "./phases.js";
import { gettext } from "./texts.js";

/** Have the buttons with `data-close` close a dialog, and a click beside it too. */
export function prepare(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
  });
  return dialog;
}

/** Show what went wrong, as a sentence. */
export function showProblem(place, problem) {
  place.replaceChildren(notice("error", problem.title ?? gettext("Something went wrong"), explained(problem) ?? (problem.title ? null : problem.message)));
}

/** Show that something is under way. */
export function showBusy(place, text) {
  place.replaceChildren(h("p", { class: "row" }, icon("loader-circle"), h("span", {}, text)));
}

/** Move CURRENT back to a version; toasts say what came of it. */
export async function undo(versionId, expected, reason) {
  try {
    await api("/v1/admin/rollback", { method: "POST", json: { version_id: versionId, expected, reason } });
    toast(gettext("Undone."));
    setTimeout(() => location.reload(), 600);
  } catch (problem) {
    toast(explained(problem) ?? problem.title ?? problem.message);
  }
}

/** Return how to undo a version that is served: by going back to its parent; null where that is not known. */
export async function parentOf(versionId) {
  try {
    const { parent } = await api(`/v1/versions/${versionId}`);
    return parent && { to: parent, expected: versionId };
  } catch {
    return null;
  }
}

/** Show a sentence after the page was loaded again, with something to undo. */
export function toastAfterLoad(text, undone = null) {
  sessionStorage.setItem("keepsight-toast", JSON.stringify({ text, undone }));
  location.reload();
}

const kept = sessionStorage.getItem("keepsight-toast");
if (kept) {
  sessionStorage.removeItem("keepsight-toast");
  const { text, undone } = JSON.parse(kept);
  const action = undone && { label: gettext("Undo"), run: () => undo(undone.to, undone.expected, gettext("undone on the page")) };
  toast(text, action);
}

/** What a job of a version came to: `text` says it, and `why` its reason, if there is one; null while it goes on. */
function outcomeOf(job) {
  if (job.state === "failed") return { kind: "error", text: gettext("The job failed."), why: worded(job.error?.detail) };
  if (job.state === "cancelled") return { kind: "warning", text: gettext("The job was cancelled."), why: null };
  if (job.state !== "succeeded") return null;
  const result = job.result;
  if (result?.held_because?.length) {
    return { kind: "warning", text: gettext("The gate holds it: it is published, and not served."), why: holding(result.version_id) };
  }
  if (result && !result.promoted && !job.evaluates) {
    return { kind: "warning", text: gettext("The new version is not served."), why: worded(result.not_promoted_because) };
  }
  return { kind: "success", text: gettext("Done."), why: null, result };
}

/** Follow a job and tell in `place` how it goes; `onEnd` gets its outcome. */
export function tellOfJob(jobId, place, onEnd) {
  showBusy(place, phaseName("waiting"));
  return followJob(
    jobId,
    (job) => {
      const outcome = outcomeOf(job);
      if (outcome) onEnd(outcome, job);
      else showBusy(place, `${phaseName(job.progress?.phase ?? "waiting")} …`);
    },
    () => showProblem(place, { title: gettext("The job is not known any more.") }),
  );
}

/** Have the buttons with `data-measure` measure versions on a test set, or on all. */
export function prepareMeasuring(under = document) {
  under.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-measure]");
    if (!button) return;
    button.disabled = true;
    const place = h("span", { class: "hint", role: "status" });
    button.after(place);
    try {
      const json = { versions: button.dataset.measure.split(" ") };
      if (button.dataset.set) json.test_set = button.dataset.set;
      const accepted = await api("/v1/evaluations", { method: "POST", json });
      tellOfJob(accepted.job_id, place, (outcome) => {
        if (outcome.kind === "success") location.reload();
        else showProblem(place, { title: outcome.text, said: outcome.why });
      });
    } catch (problem) {
      button.disabled = false;
      showProblem(place, problem);
    }
  });
}
