// The images that are to be taught: classes by hand, or an archive or folder as it is.

/** A class by hand: its name and its images. */
export class ClassBox {
  constructor(name, images = []) {
    this.name = name;
    this.images = images; // {path, file, preview}
  }
}

const ARCHIVE = /\.(zip|tar|tgz|tar\.(gz|bz2|xz|zst)|7z|parquet)$/i;

export function isArchive({ file }) {
  return ARCHIVE.test(file.name);
}

/**
 * Sort what was dropped: {archive} if it is one, {boxes: Map of class to images} if folders hold images themselves,
 * {loose: images} without folders, {folder: files} for deeper folders, which the service reads by its own rules.
 */
export function sorted(found) {
  const visible = found.filter(({ path }) => !path.split("/").some((part) => part.startsWith(".") || part === "__MACOSX"));
  if (visible.length === 1 && isArchive(visible[0])) return { archive: visible[0].file };
  const archives = visible.filter(isArchive);
  if (archives.length) return { mixed: true };
  const split = visible.map(({ path, file }) => ({ path, file, parts: path.split("/") }));
  if (split.every(({ parts }) => parts.length === 1)) return { loose: visible };
  const roots = new Set(split.map(({ parts }) => parts[0]));
  const inside = split.filter(({ parts }) => parts.length > 1);
  const flat = inside.every(({ parts }) => parts.length === 2);
  const below = roots.size === 1 && split.every(({ parts }) => parts.length === 3);
  if (!flat && !below) return { folder: visible };
  const boxes = new Map();
  for (const { path, file, parts } of inside) {
    const name = parts.at(-2);
    if (!boxes.has(name)) boxes.set(name, []);
    boxes.get(name).push({ path, file });
  }
  return { boxes };
}

let numbered = 0;

/** Return the entries of the archive for classes by hand. A number that stays with an image keeps equal names apart. */
export function entriesOf(boxes) {
  const entries = [];
  for (const box of boxes) {
    for (const image of box.images) {
      image.number ??= ++numbered;
      const name = image.file.name.replaceAll(/[\\/]/g, "_") || "image";
      entries.push({ path: `${box.name.trim()}/${image.number}-${name}`, file: image.file, box, image });
    }
  }
  return entries;
}

/** Return a name of at most 200 characters for a task of these classes. */
export function nameOf(names) {
  const whole = names.join(", ");
  return whole.length <= 200 ? whole : `${whole.slice(0, 197)}…`;
}
