// Follows the events of a job. A connection that is lost is made again, and the page says so meanwhile.

import { url } from "./api.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 10000;

function lost(isLost) {
  document.getElementById("connection").hidden = !isLost;
}

/**
 * Call `onJob` with a job now and after each of its changes, until it has ended. Returns a function that stops it.
 * A new stream begins with the job as it is, so nothing is missed.
 */
export function followJob(jobId, onJob, onGone = () => {}) {
  let source = null;
  let wait = FIRST_WAIT_MS;
  let timer = null;
  let stopped = false;

  function stop() {
    stopped = true;
    clearTimeout(timer);
    source?.close();
    lost(false);
  }

  function take(event) {
    wait = FIRST_WAIT_MS;
    lost(false);
    const job = JSON.parse(event.data);
    if (["succeeded", "failed", "cancelled"].includes(job.state)) stop();
    onJob(job);
  }

  async function again() {
    // a stream says nothing of why it was refused, so the job itself is asked
    let status = 0;
    try {
      status = (await fetch(url(`/v1/jobs/${jobId}`))).status;
    } catch {
      status = 0;
    }
    if (stopped) return;
    if (status === 404) {
      stop();
      onGone();
    } else if (status === 401) location.reload();
    else if (status === 200) open();
    else later();
  }

  function later() {
    timer = setTimeout(again, wait);
    wait = Math.min(2 * wait, LONGEST_WAIT_MS);
  }

  function open() {
    source = new EventSource(url(`/v1/jobs/${jobId}/events`));
    source.addEventListener("open", () => lost(false));
    source.addEventListener("state", take);
    source.addEventListener("progress", take);
    source.addEventListener("error", () => {
      if (stopped) return;
      lost(true);
      source.close();
      later();
    });
  }

  open();
  return stop;
}
