// The label page: keys give labels, which are sent in batches and kept until the server has written them.
// Neither the probe's guess nor how an image was chosen is shown: either would sway the label.

import { Api } from "./api.js";
import { WINDOWS } from "./large.js";
import { count, el, picture } from "./view.js";

const BATCH = 10; // labels in one version of the table
const SECONDS = 5; // that a label waits for others
const PAGE = 20;
const FOR_GOOD = new Set([400, 404, 422]); // sent again, the same labels would be refused again

const root = document.getElementById("label");
const api = new Api(root.dataset.table);
const [who, from, add] = ["who", "from", "add"].map((id) => document.getElementById(id));
const [hits, status, failure, large] = ["hits", "status", "error", "large"].map((id) => document.getElementById(id));
const place = `label:${root.dataset.table}:${root.dataset.column}`;

const kept = { classes: [], pending: [], skipped: [], ...JSON.parse(sessionStorage.getItem(place) ?? "{}") };
let standing = null;
let standingOf = null; // the group column that it was estimated with
let images = []; // shown ones: { key, shown, item, done }
let past = []; // what undo takes back
let at = 0;
let inFlight = null;
let sending = null; // how many of the first pending labels are on their way
let timer = 0;
let query = null;
let loading = false;
let anew = false; // what to load was changed while images were on their way
let missing = false; // the last images did not come
let ordered = ""; // what the images shown are ordered by

function keep() { sessionStorage.setItem(place, JSON.stringify(kept)); }
function group() { return who.elements.group.value || null; }
function say(words, discard = false) {
  failure.hidden = !words;
  failure.querySelector("span").textContent = words;
  document.getElementById("discard").hidden = !discard;
}

// Classes and counts

function totals() {
  const all = { ...standing?.classes };
  for (const one of kept.pending) if (one.label !== null) all[one.label] = (all[one.label] ?? 0) + 1;
  return all;
}

function classButtons(all) {
  return kept.classes.map((name, i) => el("li", {}, el("button", { type: "button", class: "quiet", disabled: i >= 9, onclick: () => give(i) },
    el("kbd", {}, String(i + 1)), el("span", {}, name), el("i", {}, String(all[name] ?? 0)))));
}

function drawClasses() {
  const known = Object.keys(standing?.classes ?? {});
  kept.classes.push(...known.filter((name) => !kept.classes.includes(name)));
  const all = totals();
  for (const list of document.querySelectorAll(".give")) list.replaceChildren(...classButtons(all));
  add.parentElement.hidden = kept.classes.length >= Number(root.dataset.most);
  keep();
}

function percent(value) { return `${(100 * value).toFixed(1)}\u00a0%`; }

function drawStanding() {
  drawClasses();
  if (!standing) return;
  const { accuracy, always, random, learnt, fewest, waiting } = standing;
  const lacking = kept.classes.filter((name) => !learnt.includes(name)).map((name) => `${Math.max(1, fewest - (standing.classes[name] ?? 0))} of ${name}`);
  const begins = kept.classes.length < 2 ? "Name two classes or more to begin." : lacking.length ? `The probe has not learnt: it needs about ${lacking.join(", ")} more.` : ordered === "lot" ? "The probe has learnt: n shows its order." : "Ordered by the probe.";
  const unsent = kept.pending.length ? ` · ${kept.pending.length} not yet written` : "";
  status.textContent = `${count(waiting, "image", "images")} without a label · ${ordered === "query" ? "Ordered by your search." : begins}${unsent}`;
  const value = document.getElementById("accuracy");
  if (accuracy) value.replaceChildren(el("b", {}, percent(accuracy.value)), accuracy.low === null ? " (no interval from one group)" : ` (95 % interval ${percent(accuracy.low)} to ${percent(accuracy.high)})`);
  else value.textContent = random ? "Not known before the probe starts." : "Not known yet: no image drawn at random has a label.";
  const own = group();
  const drawn = random ? `${count(random, "image", "images")} drawn at random${accuracy && own ? ` from ${count(accuracy.groups, "group", "groups")} by ${own}` : ""}; none of them trained the probe. Skipped ones are left out. ` : "";
  document.getElementById("sample").textContent = drawn + (always ? `Always “${always.class}” would be right in ${percent(always.accuracy)}. ` : "")
    + (own ? "" : "Without groups, images of one patient may stand on both sides, and the accuracy is then too high.");
}

// Labels: given, taken back, sent

function give(number) {
  const name = kept.classes[number];
  const image = images[at];
  if (name === undefined || !image || loading) return;
  if (!who.elements.by.value.trim()) { say("Enter your name or initials first: they are stored with each label."); open("about"); who.elements.by.focus(); return; }
  past.push({ image, before: image.done });
  queue(image, name);
  finish(image, name);
}

function queue(image, label) {
  kept.pending.push({ key: image.key, label, shown: image.shown, by: who.elements.by.value.trim(), group: group() });
  kept.skipped = kept.skipped.filter((key) => key !== image.key);
  if (kept.pending.length >= BATCH) send();
  else timer ||= setTimeout(send, 1000 * SECONDS);
  drawStanding();
}

function skip() {
  const image = images[at];
  if (!image || loading) return;
  past.push({ image, before: image.done });
  if (image.done && image.done !== SKIPPED) queue(image, null);
  kept.skipped.push(image.key);
  keep();
  finish(image, SKIPPED);
}

const SKIPPED = Symbol("skipped");

function undo() {
  const last = past.pop();
  if (!last || loading) return;
  const { image, before } = last;
  if (image.done === SKIPPED) kept.skipped = kept.skipped.filter((key) => key !== image.key);
  if (before === SKIPPED) kept.skipped.push(image.key);
  const label = typeof before === "string" ? before : null;
  const waiting = kept.pending.findLastIndex((one) => one.key === image.key);
  if (typeof image.done === "string") {
    if (waiting >= (sending ?? 0)) kept.pending.splice(waiting, 1); // never sent: as if it had not been given
    else queue(image, label);
  } else if (label !== null) queue(image, label);
  if (!images.includes(image)) { images.unshift(image); hits.prepend(image.item); }
  mark(image, before);
  go(images.indexOf(image));
  drawStanding();
}

// What one request can hold: the first labels of one person under one group column.
function request() {
  const { by, group: own } = kept.pending[0];
  const other = kept.pending.findIndex((one) => one.by !== by || one.group !== own);
  const labels = kept.pending.slice(0, other < 0 ? 1000 : Math.min(other, 1000));
  return { labels: labels.map(({ key, label, shown: how }) => ({ key, label, shown: how })), by, group: own };
}

// Send what waits, one batch after the other; what is refused stays and is sent again.
function send() {
  clearTimeout(timer);
  timer = 0;
  inFlight ??= post().finally(() => { inFlight = null; });
  return inFlight;
}

async function post() {
  if (!kept.pending.length) return;
  const body = request();
  sending = body.labels.length;
  keep();
  try {
    standing = await api.send("/labels", body);
    standingOf = body.group;
    kept.pending.splice(0, sending);
    say("");
  } catch (error) {
    say(`${error.message} ${count(kept.pending.length, "label is", "labels are")} kept here and will be sent again.`, FOR_GOOD.has(error.status));
  }
  sending = null;
  if (kept.pending.length) timer ||= setTimeout(send, 1000 * SECONDS);
  drawStanding();
}

// Images

function mark(image, done) {
  image.done = done;
  image.item.classList.toggle("done", Boolean(done));
  image.item.querySelector(".tag").textContent = done === SKIPPED ? "skipped" : done ?? "";
}

function finish(image, done) {
  mark(image, done);
  const later = images.findIndex((one, i) => i > at && !one.done);
  const next = later >= 0 ? later : images.findIndex((one) => !one.done);
  if (next >= 0) go(next);
  else load();
}

function go(index) {
  at = Math.max(0, Math.min(index, images.length - 1));
  images.forEach((one, i) => one.item.classList.toggle("current", i === at));
  if (large.open) drawLarge();
  else images[at]?.item.querySelector(".hit").focus();
}

async function next() {
  await send();
  await send(); // what was given while the first was on its way
  const own = group();
  const skipped = [...new Set([...kept.skipped, ...kept.pending.filter((one) => one.label !== null).map((one) => one.key)])].slice(-10000);
  const found = await api.send("/labels/next", { limit: PAGE, skipped, group: own, ...(query ? { query } : {}) });
  if (!standing || standingOf !== own) {
    standing = await api.json(`/labels${own ? `?group=${encodeURIComponent(own)}` : ""}`);
    standingOf = own;
  }
  return found;
}

// Images are shown when nothing more is waited for: one that is chosen meanwhile would be lost again.
async function load() {
  if (loading) return;
  loading = true;
  hits.setAttribute("aria-busy", "true");
  const first = !standing;
  let found = null;
  do {
    anew = false;
    try { found = await next(); } catch (error) { found = null; missing = true; say(error.message); }
  } while (anew);
  loading = false;
  hits.removeAttribute("aria-busy");
  if (found) draw(found, first);
  drawStanding();
  if (!images.length) large.close();
  else if (document.activeElement === document.body || hits.contains(document.activeElement) || large.open) go(at);
  else images[at].item.classList.add("current");
}

function draw(found, first) {
  if (missing) say("");
  missing = false;
  if (first) { drawClasses(); open("new", kept.classes.length < 2); }
  at = 0;
  ordered = found.ordered_by;
  images = found.images.map((one) => ({ ...one, done: null, item: shown(one.key) }));
  hits.replaceChildren(...images.map((one) => one.item));
  if (!images.length) hits.replaceChildren(el("li", {}, el("p", {}, query ? "No further hit without a label." : "No image without a label is left.")));
}

function shown(key) {
  return el("li", {}, el("button", { type: "button", class: "hit", "data-key": key, "aria-label": `Image ${key}`,
    onclick: () => go(images.findIndex((one) => one.key === key)), ondblclick: openLarge }, picture(api, key, 256)),
  el("div", { class: "meta" }, el("b", { class: "tag" }), el("div", { class: "name", title: key }, key)));
}

function openLarge() { if (images[at]) { large.showModal(); drawLarge(); } }

function drawLarge() {
  large.querySelector("h2").textContent = images[at].key;
  large.querySelector(".one").replaceChildren(picture(api, images[at].key, 768, large.querySelector("select").value));
}

function open(id, yes = true) { document.getElementById(id).open = yes; }

// Events

function change() { anew = true; load(); }
function restart() { past = []; change(); }

add.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = add.elements.name.value.trim();
  if (name && !kept.classes.includes(name)) kept.classes.push(name);
  add.reset();
  drawStanding();
  if (kept.classes.length >= Number(root.dataset.most)) go(at);
});
who.addEventListener("submit", (event) => { event.preventDefault(); go(at); });
who.elements.by.addEventListener("change", () => { localStorage.setItem("label-by", who.elements.by.value.trim()); say(""); });
who.elements.group.addEventListener("change", restart);
from.addEventListener("submit", (event) => {
  event.preventDefault();
  const [key, text] = [from.elements.key.value.trim(), from.elements.text?.value.trim()];
  query = key || text ? { ...(key ? { positive: [key] } : {}), ...(text ? { text } : {}) } : null;
  document.getElementById("probe").hidden = !query;
  change();
});
document.getElementById("probe").addEventListener("click", () => { from.reset(); from.requestSubmit(); });
document.getElementById("discard").addEventListener("click", () => { kept.pending = []; keep(); say(""); restart(); });
large.querySelector("select").append(...WINDOWS.map((name) => el("option", { value: name }, name || "as embedded")));
large.querySelector("select").addEventListener("change", drawLarge);
large.addEventListener("close", () => go(at));
window.addEventListener("pagehide", () => {
  if (kept.pending.length) api.send("/labels", request(), { keepalive: true }).catch(() => {});
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea, select, summary, a")) { if (event.key === "Escape") event.target.blur(); return; }
  const wide = images.findIndex((one) => one.item.offsetTop > images[0].item.offsetTop);
  const across = wide < 0 ? images.length : wide;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
  const other = event.target.matches("button:not(.hit)") && !large.open;
  if (/^[1-9]$/.test(event.key)) give(Number(event.key) - 1);
  else if (event.key === "u") undo();
  else if (event.key === "n") load();
  else if (event.key in steps) go(at + steps[event.key]);
  else if (event.key === " " && !other) skip();
  else if (event.key === "Enter" && !other && !large.open) openLarge();
  else return;
  event.preventDefault();
});
// A click on a class keeps the marked image; focus would leave it otherwise
for (const bar of document.querySelectorAll(".give, .moves")) bar.addEventListener("mousedown", (event) => event.preventDefault());
for (const [name, act] of [["skip", skip], ["undo", undo], ["more", load]]) {
  for (const button of document.querySelectorAll(`[data-do=${name}]`)) button.addEventListener("click", () => act());
}

if (window.matchMedia("(max-width: 48rem)").matches) document.getElementById("about").open = false;
who.elements.by.value = localStorage.getItem("label-by") ?? "";
load();
