// Corrections that wait: learned together, or removed.

import { api } from "./api.js";
import { parentOf, showProblem, tellOfJob, toastAfterLoad } from "./dialogs.js";
import { confirmed, explained, toast } from "./dom.js";
import { gettext, ngettext, number, versionNumber } from "./texts.js";

const place = document.getElementById("learning");

document.getElementById("learn")?.addEventListener("click", async (event) => {
  const button = event.currentTarget;
  button.disabled = true;
  try {
    const accepted = await api("/v1/corrections/learn", { method: "POST" });
    tellOfJob(accepted.job_id, place, async (outcome, job) => {
      if (outcome.kind !== "success") return showProblem(place, { title: outcome.text, said: outcome.why });
      const count = ngettext("%(count)s correction was learned", "%(count)s corrections were learned", job.corrections);
      const made = job.result.version_id;
      toastAfterLoad(gettext("%(count)s: version %(number)s is served.", { count, number: versionNumber(made) }), await parentOf(made));
    });
  } catch (problem) {
    button.disabled = false;
    showProblem(place, problem);
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-remove-one]");
  if (button) {
    const which = button.dataset.removeOne;
    const text = gettext("It is not learned, and its image is deleted for good.");
    if (!(await confirmed(gettext("Remove this correction?"), text, gettext("Remove"), gettext("Cancel")))) return;
    button.disabled = true;
    try {
      await api(`/v1/corrections/${which}`, { method: "DELETE" });
      toast(gettext("Correction %(number)s was removed.", { number: which }));
      document.querySelector(`[data-row="${which}"]`).remove();
      const left = document.querySelectorAll("[data-row]").length;
      document.getElementById("waiting-count").textContent = number(left);
      if (!left) location.reload();
    } catch (problem) {
      button.disabled = false;
      toast(explained(problem) ?? problem.title ?? problem.message);
    }
  }
  if (event.target.closest("[data-remove-all]")) await removeAll();
});

async function removeAll() {
  const text = gettext("They are not learned, and their images are deleted for good.");
  if (!(await confirmed(gettext("Remove all corrections?"), text, gettext("Remove all"), gettext("Cancel")))) return;
  try {
    const { removed } = await api("/v1/corrections", { method: "DELETE" });
    toastAfterLoad(ngettext("%(count)s correction was removed.", "%(count)s corrections were removed.", removed));
  } catch (problem) {
    showProblem(place, problem);
  }
}
