// Takes a photograph with the computer's camera. A phone has an app for that, which its file field opens.

import { h, icon } from "./dom.js";
import { gettext } from "./texts.js";

/** Have a file field open the camera where the browser lets a page look through one; else it stays as it is. */
export function takesPhotographs(field, onPhotograph) {
  if (!navigator.mediaDevices?.getUserMedia || matchMedia("(pointer: coarse)").matches) return;
  let without = false;
  let open = false;
  field.addEventListener("click", async (event) => {
    if (without) return;
    event.preventDefault();
    if (open) return;
    open = true;
    const stream = await opened();
    without = !stream;
    if (without) return field.click();
    try {
      const blob = await photographed(stream);
      if (blob) onPhotograph(new File([blob], gettext("photograph.jpg"), { type: blob.type }));
    } finally {
      for (const track of stream.getTracks()) track.stop();
      open = false;
      field.focus();
    }
  });
}

/** The camera's stream; null where there is none, or it is not allowed. */
async function opened() {
  try {
    return await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
  } catch {
    return null;
  }
}

/** Show what the camera sees until a photograph is taken. Resolves to a JPEG, or null if none was wanted. */
function photographed(stream) {
  return new Promise((resolve) => {
    let taken = null;
    const video = h("video", { autoplay: true, muted: true, playsInline: true, srcObject: stream, onloadeddata: () => ((take.disabled = false), take.focus()), "aria-label": gettext("What the camera sees") });
    const take = h("button", { type: "button", disabled: true, onclick: () => shoot() }, icon("camera"), gettext("Take it"));
    const leave = h("button", { type: "button", class: "secondary", onclick: () => dialog.close() }, gettext("Cancel"));
    const body = h("article", {}, h("h2", { id: "camera" }, gettext("Take a photograph")), video, h("footer", {}, leave, take));
    const dialog = h("dialog", { "aria-labelledby": "camera" }, body);
    const shoot = async () => {
      const canvas = h("canvas", { width: video.videoWidth, height: video.videoHeight });
      canvas.getContext("2d").drawImage(video, 0, 0);
      taken = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.95));
      dialog.close();
    };
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(taken);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
