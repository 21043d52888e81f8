// The texts of the page's language, and its numbers and times. Texts are written in English where they are shown;
// Babel collects them for the catalogues.

const shipped = JSON.parse(document.getElementById("page-texts").textContent);

export const language = document.documentElement.lang;

function filled(text, values) {
  return text.replace(/%\((\w+)\)s/g, (_, name) => String(values[name]));
}

/** Return a text in the page's language; `%(name)s` stands for a value. */
export function gettext(text, values = {}) {
  return filled(shipped.texts[text] ?? text, values);
}

/** Return the form of a text that goes with a count; `%(count)s` stands for it. */
export function ngettext(one, many, count, values = {}) {
  const forms = shipped.texts[one] ?? [one, many];
  const index = shipped.plurals[count < 200 ? count : 100 + (count % 100)];
  return filled(forms[index] ?? many, { count: number(count), ...values });
}

const PLACE = /%\((\w+)\)s/;
let forms = null;

/** Return the service's sentences as what matches them, with the page's own: the most particular first. */
function known() {
  forms ??= shipped.sentences.map(([text, said]) => {
    const parts = text.split(PLACE); // text, name, text, name, …, text
    const form = parts.map((part, at) => (at % 2 ? `(?<${part}>.+?)` : part.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")));
    return [new RegExp(`^${form.join("")}$`, "su"), said];
  });
  return forms;
}

/** Return a sentence of the service in the page's language, or as it is where the page does not know it. */
export function sentence(text) {
  for (const [form, said] of text ? known() : []) {
    const found = form.exec(text);
    if (!found) continue;
    const values = { ...found.groups };
    if (values.why) values.why = sentence(values.why); // all others are names and numbers
    return filled(said, values);
  }
  return text;
}

/** Return a number as people of this language write it. */
export function number(value, digits = 0) {
  return new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits, signDisplay: "negative" }).format(value);
}

/** Return a share in [0, 1] as per cent. */
export function percent(value, digits = 0) {
  const style = { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits };
  return new Intl.NumberFormat(language, style).format(value);
}

/** Return bytes in the largest unit that gives a whole number of them. */
export function bytes(value) {
  const units = ["byte", "kilobyte", "megabyte", "gigabyte"];
  const step = Math.min(Math.floor(Math.log10(Math.max(value, 1)) / 3), units.length - 1);
  const style = { style: "unit", unit: units[step], unitDisplay: "short", maximumFractionDigits: step ? 1 : 0 };
  return new Intl.NumberFormat(language, style).format(value / 1000 ** step);
}

/** Return seconds as people say them: "40 ms", "12 s", "3 min". */
export function duration(seconds) {
  const [value, unit] = seconds < 1 ? [1000 * seconds, "millisecond"] : seconds < 90 ? [seconds, "second"] : seconds < 5400 ? [seconds / 60, "minute"] : [seconds / 3600, "hour"];
  const digits = unit === "second" && seconds < 10 ? 1 : 0;
  return new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: digits }).format(value);
}

/** Return a time in the reader's own zone. */
export function moment(iso) {
  return new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" }).format(new Date(iso));
}

/** Return the number that people know a version by, as text. */
export function versionNumber(versionId) {
  return String(Number(versionId.split("-")[0]));
}

/** Return the address of an icon in the sprite. */
export function iconAddress(name) {
  return `${shipped.icons}#${name}`;
}
