// Calls the documented API as whoever is signed in. Errors are sentences.

import { gettext } from "./texts.js";

const root = document.documentElement.dataset.root;
const token = document.querySelector('meta[name="csrf-token"]')?.content;

/** What went wrong: `title` in the page's language, and more in `said`, where the page says it, or in the service's `detail`. */
export class Problem extends Error {
  constructor(document) {
    super(document.said ?? document.detail ?? document.title);
    this.title = gettext(document.title);
    this.said = document.said ?? null;
    this.detail = document.detail ?? null;
    this.status = document.status;
  }
}

function headers() {
  return token ? { "X-CSRF-Token": token } : {};
}

function unreachable() {
  return new Problem({
    title: "The service cannot be reached",
    said: gettext("Look whether it runs, and whether you are connected. Then try again."),
    status: 0,
  });
}

function signInIfNeeded(status) {
  if (status !== 401) return;
  const here = (location.pathname.slice(root.length) || "/") + location.search;
  location.assign(`${root}/sign-in?next=${encodeURIComponent(here)}`);
}

/** Ask a path of the API and return its JSON; null for an empty answer. Throws a Problem. */
export async function api(path, { method = "GET", json = undefined, form = undefined, signal = undefined } = {}) {
  const asked = { method, headers: headers(), signal };
  if (json !== undefined) {
    asked.body = JSON.stringify(json);
    asked.headers["Content-Type"] = "application/json";
  } else if (form !== undefined) asked.body = form;
  let response;
  try {
    response = await fetch(root + path, asked);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
  return read(response.status, await response.text(), response.statusText);
}

function read(status, text, phrase) {
  signInIfNeeded(status);
  let document = null;
  let unreadable = false;
  try {
    document = text ? JSON.parse(text) : null;
  } catch {
    unreadable = true;
    document = { title: status < 300 || !phrase ? gettext("The answer cannot be read") : phrase, status };
  }
  if (status < 200 || status >= 300 || unreadable) throw new Problem(document ?? { title: phrase, status });
  return document;
}

/** Send a form and tell how much of it was sent, which fetch cannot. Throws a Problem. */
export function upload(path, form, { method = "POST", onProgress = () => {}, signal = undefined } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open(method, root + path);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded, event.total));
    request.addEventListener("load", () => {
      try {
        resolve(read(request.status, request.responseText, request.statusText));
      } catch (problem) {
        reject(problem);
      }
    });
    request.addEventListener("error", () => reject(unreachable()));
    request.addEventListener("abort", () => reject(new DOMException("aborted", "AbortError")));
    signal?.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

/** Return the address of a page or route as the browser reaches it. */
export function url(path) {
  return root + path;
}
