// Makes the archive of a task from files in the browser. Images are compressed already, so they are stored as they are.

import { Zip, ZipPassThrough } from "../vendor/fflate/fflate.js";

/**
 * Return a zip of `entries` ({path, file}) as a Blob. `onProgress` is called with the share that is done.
 * Throws if a file cannot be read any more, or `signal` is aborted.
 */
export async function zipped(entries, { onProgress = () => {}, signal = undefined } = {}) {
  const parts = [];
  let failed = null;
  const zip = new Zip((error, chunk) => {
    if (error) failed = error;
    else parts.push(chunk);
  });
  for (const [at, { path, file }] of entries.entries()) {
    signal?.throwIfAborted();
    const content = new Uint8Array(await file.arrayBuffer());
    const entry = new ZipPassThrough(path);
    zip.add(entry);
    entry.push(content, true);
    if (failed) throw failed;
    onProgress((at + 1) / entries.length);
  }
  zip.end();
  if (failed) throw failed;
  return new Blob(parts, { type: "application/zip" });
}
