// Elements of the page. Text goes in as text, never as HTML.

import { why } from "./api.js";

export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function share(value) {
  if (value === null || Number.isNaN(value)) return "";
  if (value < 0.00001) return "< 0.001 %";
  const percent = 100 * value;
  return `${percent < 0.1 ? percent.toPrecision(1) : percent < 10 ? percent.toFixed(1) : percent.toFixed(0)} %`;
}

export function count(n, one, many) { return `${n.toLocaleString("en")} ${n === 1 ? one : many}`; }

// A picture that says why, where it cannot be shown.
export function picture(api, key, size, window) {
  const url = api.picture(key, size, window);
  const img = el("img", { src: url, alt: "", loading: "lazy", decoding: "async" });
  img.addEventListener("error", async () => {
    const none = el("span", { class: "none" }, "…");
    img.replaceWith(none);
    none.textContent = await why(url);
  });
  return img;
}

function values(columns, dull) {
  return Object.entries(columns).filter(([name, v]) => v !== null && v !== "" && !dull?.has(name)).slice(0, 4)
    .map(([name, v]) => el("div", { class: "value" }, el("span", { class: "label" }, name + " "), String(v)));
}

// One hit: its picture opens it; below stand score, name, a few columns and what can be done.
export function hit(api, found, act, dull) {
  const closer = share(found.closer_pairs);
  const open = el("button", { type: "button", class: "hit", "data-key": found.key, onclick: () => act.open(found.key),
    "aria-label": `Hit ${found.rank}: ${found.key}, cosine ${found.score.toFixed(3)}` }, picture(api, found.key, 256));
  const meta = el("div", { class: "meta" },
    el("div", { class: "score" }, el("b", {}, found.score.toFixed(3)),
      closer ? el("span", { title: "share of random pairs of this table that are closer" }, closer) : ""),
    el("div", { class: "name", title: found.key }, found.key), ...values(found.columns, dull));
  if (found.more) meta.append(el("button", { type: "button", class: "further", onclick: () => act.further(found) }, `+${found.more.toLocaleString("en")} more`));
  const actions = el("div", { class: "act" },
    el("button", { type: "button", class: "quiet", title: "More like this (+)", onclick: () => act.like(found.key) }, "+ like"),
    el("button", { type: "button", class: "quiet", title: "Less like this (−)", onclick: () => act.unlike(found.key) }, "− unlike"));
  return el("li", {}, open, meta, actions);
}

// A hit that is a group of images: the picture of the one that matches best, then the others that match.
export function groupHit(api, found, act, by) {
  const open = el("button", { type: "button", class: "hit", "data-key": found.key, "data-group": found.group, onclick: () => act.open(found.key),
    "aria-label": `Hit ${found.rank}: ${by} ${found.group}, ${found.score.toFixed(3)}` }, picture(api, found.key, 256));
  const parts = found.parts.slice(1).map((part) => el("button", { type: "button", title: `${part.key}: cosine ${part.score.toFixed(3)} to ${part.query}`,
    "aria-label": `Open ${part.key}`, onclick: () => act.open(part.key) }, picture(api, part.key, 64)));
  const meta = el("div", { class: "meta" }, el("div", { class: "score" }, el("b", {}, found.score.toFixed(3))),
    el("div", { class: "name", title: found.group }, el("span", { class: "label" }, by + " "), found.group));
  if (parts.length) meta.append(el("div", { class: "parts" }, ...parts));
  if (found.more) meta.append(el("button", { type: "button", class: "further", onclick: () => act.inside(found) }, `its other ${count(found.more, "image", "images")}`));
  const actions = el("div", { class: "act" }, el("button", { type: "button", class: "quiet", onclick: () => act.group(found) }, `search with this ${by}`));
  return el("li", {}, open, meta, actions);
}

export function chip(words, mark, image, remove) {
  return el("span", { class: mark === "−" ? "chip unlike" : "chip" }, image ?? "", el("b", { "aria-hidden": "true" }, mark),
    el("span", { title: words }, (mark === "−" ? "unlike " : "") + words), el("button", { type: "button", class: "quiet", "aria-label": `Remove ${words}`, onclick: remove }, "✕"));
}

export function facetField(found, chosen, toggle) {
  const field = el("fieldset", {}, el("legend", {}, found.column));
  const rows = found.values.map(({ value, rows: n }) => {
    const box = el("input", { type: "checkbox", checked: chosen(value), onchange: () => toggle(value) });
    return el("label", { class: "facet" }, box, el("span", {}, value === null ? "(missing)" : String(value)), el("i", {}, n.toLocaleString("en")));
  });
  rows.slice(0, 6).forEach((row) => field.append(row));
  if (rows.length > 6) {
    const more = el("button", { type: "button", class: "facets-more", onclick: () => more.replaceWith(...rows.slice(6)) }, `${rows.length - 6} more`);
    if (rows.slice(6).some((row) => row.querySelector("input").checked)) field.append(...rows.slice(6));
    else field.append(more);
  }
  return field;
}
