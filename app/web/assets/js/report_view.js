// Shows what a check of images found, before anything is learned.

import { explained, h, icon, notice, worded } from "./dom.js";
import { gettext, ngettext, number, percent } from "./texts.js";

const LISTED = 100;

function finding(kind, title, items, count) {
  if (!count) return null;
  const more = count - items.length;
  return h(
    "details",
    { class: "card", open: kind !== "info" },
    h("summary", {}, icon(kind === "info" ? "info" : "triangle-alert"), ` ${title}`),
    h("ul", { class: "findings" }, items),
    more > 0 ? h("p", { class: "hint" }, ngettext("%(count)s more is not listed.", "%(count)s more are not listed.", more)) : null,
  );
}

function plain(path, reason) {
  return h("li", { class: "plain" }, h("span", { class: "path" }, path, h("span", { class: "soft" }, " – ", worded(reason))));
}

/**
 * Return the report of a check: `view` has the upload's validation, and the job's labels, state and error once known.
 * `actions` find an image by its path in the archive, leave it out, or move it to another class.
 */
export function reportOf(view, actions) {
  const { validation: found, labels, state, error } = view;
  const names = Object.keys(found.classes);
  const card = h("article", { class: "card" }, h("h2", {}, gettext("What was found")), figures(found, names, labels));
  if (error) card.append(notice("error", gettext("This cannot be taught"), explained(error)));
  else if (!labels && !["succeeded", "failed", "cancelled"].includes(state)) {
    card.append(h("p", { class: "soft", role: "status" }, gettext("Looking for labels that are likely wrong …"), " ", h("progress", { "aria-label": gettext("Looking at the labels") })));
  } else if (labels && !labels.likely_wrong_count && !labels.nearly_same_count) {
    card.append(notice("success", gettext("No label looks wrong."), null));
  }
  card.append(
    h(
      "div",
      { class: "scroll" },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, gettext("Class")), h("th", { scope: "col" }, gettext("Images")), h("th", { scope: "col" }, gettext("Held out")))),
        h("tbody", {}, names.slice(0, LISTED).map((name) => h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "number" }, number(found.classes[name])), h("td", { class: "number" }, found.held_out?.[name] ? number(found.held_out[name]) : gettext("a share of them"))))),
      ),
    ),
    ...(names.length > LISTED ? [h("p", { class: "hint" }, ngettext("%(count)s more is not listed.", "%(count)s more are not listed.", names.length - LISTED))] : []),
    ...(found.notes ?? []).map((note) => h("p", { class: "hint" }, worded(note))),
  );
  return h(
    "div",
    { class: "stack" },
    card,
    labels ? finding("warning", ngettext("%(count)s label is likely wrong", "%(count)s labels are likely wrong", labels.likely_wrong_count), labels.likely_wrong.map((each) => likelyWrong(each, actions)), labels.likely_wrong_count) : null,
    labels ? finding("warning", ngettext("%(count)s pair of pictures is nearly the same in two classes", "%(count)s pairs of pictures are nearly the same in two classes", labels.nearly_same_count), labels.nearly_same.map((each) => nearlySame(each, actions)), labels.nearly_same_count) : null,
    finding("warning", ngettext("%(count)s file was rejected", "%(count)s files were rejected", found.rejected_count), found.rejected.map((each) => plain(each.path, each.reason)), found.rejected_count),
    finding("warning", ngettext("%(count)s picture is there twice", "%(count)s pictures are there twice", found.repeated_count), found.repeated.map((each) => plain(each.path, gettext("the same as %(path)s", { path: each.first_path }))), found.repeated_count),
    finding("info", ngettext("%(count)s entry was passed over", "%(count)s entries were passed over", found.passed_over_count), found.passed_over.map((each) => plain(each.path, each.reason)), found.passed_over_count),
    finding("info", ngettext("%(count)s class is taught under another spelling", "%(count)s classes are taught under another spelling", found.renamed.length), found.renamed.map((each) => plain(each.typed, gettext("taught as %(name)s", { name: each.taught }))), found.renamed.length),
  );
}

function figures(found, names, labels) {
  const told = [
    [number(names.length), gettext("classes")],
    [number(found.accepted), gettext("images")],
    [number(found.rejected_count), gettext("rejected")],
    [number(found.repeated_count), gettext("there twice")],
    [labels ? number(labels.likely_wrong_count) : "…", gettext("likely wrong labels")],
  ];
  return h("dl", { class: "figures" }, told.map(([value, name]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function likelyWrong(each, actions) {
  const image = actions.imageOf(each.path);
  const text = gettext("is among %(label)s, and looks like %(likely)s (%(share)s)", { label: each.label, likely: each.likely, share: percent(each.likely_probability) });
  return row(each.path, image, text, actions, [
    [gettext("Move to %(name)s", { name: each.likely }), () => actions.moveTo(each.path, each.likely)],
    [gettext("Leave out"), () => actions.leaveOut(each.path)],
  ]);
}

function nearlySame(each, actions) {
  const text = gettext("is among %(label)s, and nearly the same as %(path)s", { label: each.label, path: each.other_path });
  return row(each.path, actions.imageOf(each.path), text, actions, [[gettext("Leave out"), () => actions.leaveOut(each.path)]]);
}

function row(path, image, text, actions, choices) {
  image?.classList.add("thumb");
  const item = h("li", { class: image ? "" : "plain" }, image, h("span", { class: "path" }, path, h("span", { class: "soft" }, ` ${text}`)));
  if (image) {
    const buttons = choices.map(([label, run]) => h("button", { type: "button", class: "quiet", onclick: () => run() && done() }, label));
    const place = h("span", { class: "row" }, buttons);
    const done = () => {
      item.classList.add("gone");
      place.replaceChildren(h("span", { class: "badge" }, icon("check"), gettext("Done")));
    };
    item.append(place);
  }
  return item;
}
