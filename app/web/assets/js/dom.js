// Makes elements. Texts are always texts: nothing here parses HTML.

import { url } from "./api.js";
import { iconAddress, language, sentence } from "./texts.js";

/** Return an element with properties (`class`, `data-…`, `onclick`, …) and children; null children are left out. */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && key !== "list") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return an icon of the sprite. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", iconAddress(name));
  svg.append(use);
  return svg;
}

/** Return a sentence of the service in the page's language, or marked as English; null if there is none. */
export function worded(text) {
  if (!text) return null;
  const said = sentence(text);
  return h("span", { lang: said === text && !language.startsWith("en") ? "en" : null }, said);
}

/** Return what a problem says beside its title; null if nothing. */
export function explained(problem) {
  return problem.said ?? worded(problem.detail);
}

/** Return what holds a version, in the reader's words; it is asked for once. */
export function holding(version) {
  if (!held.has(version)) {
    held.set(version, h("span"));
    window.htmx.ajax("GET", url(`/part/versions/${version}/held`), { target: held.get(version), swap: "innerHTML" });
  }
  return held.get(version);
}
const held = new Map();

/** Return a notice like that of the templates. */
export function notice(kind, title, text = null) {
  const name = { error: "circle-alert", warning: "triangle-alert", success: "circle-check" }[kind] ?? "info";
  const body = h("div", {}, h("strong", {}, title), text ? h("p", {}, text) : null);
  return h("div", { class: "notice", "data-kind": kind, role: kind === "error" ? "alert" : "status" }, icon(name), body);
}

/** Show a sentence at the edge of the page for a while, with something to do about it if `action` is given. */
export function toast(text, action = null) {
  const element = h("div", { class: "toast" }, h("span", {}, text));
  if (action) {
    element.append(h("button", { type: "button", onclick: () => (element.remove(), action.run()) }, action.label));
  }
  document.getElementById("toasts").append(element);
  const leave = () => (element.matches(":hover, :focus-within") ? setTimeout(leave, 2000) : element.remove());
  setTimeout(leave, action ? 10000 : 5000);
}

/** Ask whether to go on. Resolves to true if so; Escape and the other button say no. */
export function confirmed(title, text, action, refusal) {
  return new Promise((resolve) => {
    const yes = h("button", { type: "button", onclick: () => dialog.close("yes") }, action);
    const no = h("button", { type: "button", class: "secondary", onclick: () => dialog.close("no") }, refusal);
    const body = h("article", {}, h("h2", { id: "question" }, title), h("p", {}, text), h("footer", {}, no, yes));
    const dialog = h("dialog", { "aria-labelledby": "question" }, body);
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
    yes.focus();
  });
}
