// What the phases of a job are called.

import { gettext } from "./texts.js";

/** Return the name of a phase, as jobs report it, in the page's language. */
export function phaseName(phase) {
  const names = {
    waiting: gettext("Waiting for its turn"),
    loading: gettext("Loading"),
    labels: gettext("Looking at the labels"),
    stem: gettext("Reading the images"),
    anchors: gettext("Making anchors of old classes"),
    teacher: gettext("Asking the version before"),
    train: gettext("Training"),
    drift: gettext("Measuring what moved"),
    prototypes: gettext("Making prototypes"),
    align: gettext("Aligning both paths"),
    merging: gettext("Merging"),
    editing: gettext("Editing the classes"),
    evaluating: gettext("Measuring"),
    publishing: gettext("Publishing"),
  };
  return names[phase] ?? phase;
}
