// What every page does: the menu of small screens, times in the reader's zone, errors of htmx, and the connection.

import { toast } from "./dom.js";
import { gettext, moment } from "./texts.js";

const button = document.getElementById("menu-button");
button.addEventListener("click", () => {
  const open = document.getElementById("side-body").classList.toggle("open");
  button.setAttribute("aria-expanded", String(open));
});

function localTimes(under) {
  for (const time of under.querySelectorAll("time[datetime]:not([data-local])")) {
    time.textContent = moment(time.dateTime);
    time.dataset.local = "";
  }
}
localTimes(document);
document.addEventListener("htmx:load", (event) => localTimes(event.detail.elt));
document.addEventListener("htmx:sendError", () => toast(gettext("The service cannot be reached")));
