// Archives of images that were chosen one by one.

import { zipSync } from "../vendor/fflate/fflate.js";

/** Return a zip with one folder of images. They are compressed already, so they are stored as they are. */
export async function zipOf(folder, files) {
  const entries = {};
  for (const [at, file] of files.entries()) {
    entries[`${folder.replaceAll("/", "∕")}/${at}-${file.name}`] = [new Uint8Array(await file.arrayBuffer()), { level: 0 }];
  }
  return new Blob([zipSync(entries)], { type: "application/zip" });
}
