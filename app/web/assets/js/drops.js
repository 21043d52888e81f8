// What was dropped, chosen or pasted, as files with their paths.

async function entriesOf(directory) {
  const reader = directory.createReader();
  const found = [];
  for (;;) {
    // a reader gives a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...some);
  }
}

async function filesOf(entry, path) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ path: path + entry.name, file }];
  }
  const below = await entriesOf(entry);
  const lists = [];
  for (const each of below) lists.push(await filesOf(each, `${path}${entry.name}/`));
  return lists.flat();
}

/** Return all files of a drop, those of folders with their paths. Must be called while the event is handled. */
export async function dropped(transfer) {
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  if (!entries.length || entries.some((entry) => !entry)) return [...transfer.files].map((file) => ({ path: file.name, file }));
  const lists = [];
  for (const entry of entries) lists.push(await filesOf(entry, ""));
  return lists.flat();
}

/** Return the files of an input; those of a chosen folder have their paths. */
export function chosen(input) {
  const files = [...input.files].map((file) => ({ path: file.webkitRelativePath || file.name, file }));
  input.value = ""; // so that the same files can be chosen again
  return files;
}

/** Have an input of files give what is chosen to `take`, also what was chosen before this script ran. */
export function takesChoices(input, take) {
  const give = () => input.files.length && take(chosen(input));
  input.addEventListener("change", give);
  give();
}

/** Have an element take drops: `take` gets the files, each with its path. */
export function takesDrops(element, take) {
  let depth = 0; // children fire events of their own
  const over = (by) => {
    depth = Math.max(0, depth + by);
    element.classList.toggle("over", depth > 0);
  };
  element.addEventListener("dragenter", (event) => (event.preventDefault(), over(1)));
  element.addEventListener("dragleave", () => over(-1));
  element.addEventListener("dragover", (event) => event.preventDefault());
  element.addEventListener("drop", async (event) => {
    event.preventDefault();
    event.stopPropagation();
    depth = 0;
    over(0);
    take(await dropped(event.dataTransfer));
  });
}

/** Call `take` with images that are pasted anywhere but in a field. */
export function takesPastes(take) {
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files].filter((file) => file.type.startsWith("image/"));
    if (files.length) {
      event.preventDefault();
      take(files.map((file) => ({ path: file.name, file })));
    }
  });
}

/** Keep the browser from opening a file that is dropped beside its place. */
export function holdStrayDrops() {
  for (const name of ["dragover", "drop"]) window.addEventListener(name, (event) => event.preventDefault());
}

/** Return whether a file is called like an image. What it is, the service finds out. */
export function looksLikeImage({ file, path }) {
  return file.type.startsWith("image/") || /\.(jpe?g|png|gif|webp|avif|bmp|tiff?|heic|heif)$/i.test(path);
}
