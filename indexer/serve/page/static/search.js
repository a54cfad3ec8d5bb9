// The search page: what the user does changes the state, the state is the address, the address is shown.

import { Api } from "./api.js";
import { Large } from "./large.js";
import * as states from "./state.js";
import { chip, count, facetField, groupHit, hit, picture, share, el } from "./view.js";

const root = document.getElementById("search");
const api = new Api(root.dataset.table);
const ask = document.getElementById("ask");
const narrow = document.getElementById("narrow");
const hits = document.getElementById("hits");
const status = document.getElementById("status");
const failure = document.getElementById("error");
const pager = document.getElementById("pages");
const welcome = document.getElementById("welcome");
const MOST_BYTES = Math.floor((Number(root.dataset.upload) - 2 ** 16) * 3 / 4); // base64 grows by a third; the rest is for the other fields

let state = { ...states.read(location.search), image: states.given(location.hash) };
let running = null;
let quantiles = [];
const constant = api.facets(null).then((found) => new Set(found.constant)).catch(() => new Set()); // say nothing of a hit

const act = {
  open: (key) => large.open(key),
  only: (key) => go({ like: [key], unlike: [], text: "", image: null }),
  like: (key) => go({ like: [...new Set([...state.like, key])], unlike: state.unlike.filter((k) => k !== key) }),
  unlike: (key) => go({ unlike: [...new Set([...state.unlike, key])], like: state.like.filter((k) => k !== key) }),
  further: (found) => go({ group: "", facet: [...state.facet, states.facet(state.group, found.columns[state.group])] }),
  inside: (found) => go({ by: "", like: [found.key], unlike: [], text: "", image: null, facet: [...state.facet, states.facet(state.by, found.columns[state.by])] }),
  group: (found) => go({ groups: [found.group], like: [], unlike: [], text: "", image: null }),
};
const large = new Large(document.getElementById("large"), api, act);

function go(changes, keep = false) {
  const other = "by" in changes || ["like", "unlike", "text", "image"].some((name) => name in changes);
  state = { ...state, page: "", ...(other ? { groups: [] } : {}), ...changes };
  const address = states.write(state);
  const fragment = state.image?.vector ? location.hash : "";
  history[keep ? "replaceState" : "pushState"](null, "", (address ? `?${address}` : location.pathname) + fragment);
  show();
}

window.addEventListener("popstate", () => { state = { ...states.read(location.search), image: state.image }; show(); });

// Show the state: the form's values, the examples, then hits and counts as they come.
function show() {
  ask.elements.text.value = state.text;
  for (const name of ["where", "group", "same", "by"]) if (narrow.elements[name]) narrow.elements[name].value = state[name];
  narrow.elements.group.disabled = state.by !== "";
  narrow.elements.min.value = state.min === "" ? 0 : 1000 * Number(state.min);
  least();
  examples();
  running?.abort();
  running = new AbortController();
  counts(running.signal);
  const asked = states.asks(state);
  welcome.hidden = asked;
  if (!asked && !welcome.querySelector("ol")) begin();
  if (asked) search(running.signal);
  else { hits.replaceChildren(); hits.removeAttribute("aria-busy"); status.textContent = ""; failure.hidden = true; pager.hidden = true; }
}

async function search(signal) {
  hits.setAttribute("aria-busy", "true");
  status.textContent = state.image || state.text ? "Embedding and searching …" : "Searching …";
  try {
    const [found, dull] = await Promise.all([api.search(states.body(state), signal), constant]);
    if (signal.aborted) return;
    failure.hidden = true;
    hits.replaceChildren(...found.hits.map((one) => (state.by ? groupHit(api, one, act, state.by) : hit(api, one, act, dull))));
    const words = found.hits.length ? `${count(found.hits.length, "hit", "hits")} from rank ${found.hits[0].rank}` : "No hits";
    const limits = states.limits(state);
    status.textContent = `${words} · ${found.index} · ${found.milliseconds.toFixed(0)} ms${limits.length ? ` · ${limits.join(", ")}` : ""}`;
    paging(found.hits.length);
  } catch (error) {
    if (error.name === "AbortError") return;
    hits.replaceChildren();
    status.textContent = "";
    pager.hidden = true;
    say(error.message);
  } finally {
    if (!signal.aborted) hits.removeAttribute("aria-busy");
  }
}

function say(words) { failure.textContent = words; failure.hidden = false; }

function paging(shown) {
  const page = Number(state.page) || 0;
  pager.hidden = page === 0 && shown < states.PAGE;
  pager.querySelector("span").textContent = `Page ${page + 1}`;
  const [back, next] = pager.querySelectorAll("button");
  back.disabled = page === 0;
  next.disabled = shown < states.PAGE;
}

function turn(step) {
  const page = Math.max(0, (Number(state.page) || 0) + step);
  go({ page: page ? String(page) : "" });
  window.scrollTo(0, 0);
}

async function counts(signal) {
  try {
    const found = await api.facets(states.filter({ ...state, facet: [] }), state.region, signal);
    const varied = found.facets.filter((one) => !found.constant.includes(one.column) || state.facet.length);
    document.getElementById("facets").replaceChildren(...varied.map((one) => facetField(one,
      (value) => state.facet.includes(states.facet(one.column, value)),
      (value) => {
        const name = states.facet(one.column, value);
        go({ facet: state.facet.includes(name) ? state.facet.filter((f) => f !== name) : [...state.facet, name] });
      })));
    if (!states.asks(state)) status.textContent = `${count(found.rows, "image", "images")} · ${found.index}`;
  } catch (error) {
    if (error.name !== "AbortError" && !states.asks(state)) say(error.message);
  }
}

function examples() {
  const small = (key) => picture(api, key, 64);
  const without = (name, key) => () => go({ [name]: state[name].filter((k) => k !== key) });
  const chips = [
    ...(state.image ? [chip(state.image.name, "+", state.image.shown ? el("img", { src: state.image.shown, alt: "" }) : null, () => go({ image: null }))] : []),
    ...(state.region ? [chip("a region of the map", "⊂", null, () => go({ region: "" }))] : []),
    ...(state.text ? [chip(`“${state.text}”`, "+", null, () => go({ text: "" }))] : []),
    ...(state.by ? state.groups.map((name) => chip(`${state.by} ${name}`, "+", null, () => go({ groups: state.groups.filter((g) => g !== name) }))) : []),
    ...state.like.map((key) => chip(key, "+", small(key), without("like", key))),
    ...state.unlike.map((key) => chip(key, "−", small(key), without("unlike", key))),
  ];
  document.getElementById("examples").replaceChildren(...chips);
}

// What a least cosine means: how many random pairs reach it.
function least() {
  const value = Number(narrow.elements.min.value) / 1000;
  const above = quantiles.length ? quantiles.filter((q) => q > value).length / quantiles.length : NaN;
  document.getElementById("least").textContent = value ? `${value.toFixed(3)}${Number.isNaN(above) ? "" : ` · ${share(above)} of random pairs are closer`}` : "any";
}

async function embed(file) {
  if (file.size > MOST_BYTES) { say(`${file.name} is larger than ${(MOST_BYTES / 2 ** 20).toFixed(0)} MiB.`); return; }
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  const shown = file.type.startsWith("image/") ? URL.createObjectURL(file) : "";
  go({ image: { name: file.name || "pasted picture", data: btoa(text), shown }, like: [], unlike: [], text: "" });
}

ask.addEventListener("submit", (event) => {
  event.preventDefault();
  const key = ask.elements.key.value.trim();
  const text = ask.elements.text.value.trim();
  ask.elements.key.value = "";
  if (key) go({ like: [key], unlike: [], image: null, text: "" });
  else if (text) go({ text, like: [], unlike: [], image: null });
  else if (states.asks(state)) show();
});
ask.elements.file.addEventListener("change", () => { if (ask.elements.file.files.length) embed(ask.elements.file.files[0]); });
narrow.addEventListener("submit", (event) => event.preventDefault());
narrow.elements.min.addEventListener("input", least);
narrow.elements.min.addEventListener("change", () => { const v = Number(narrow.elements.min.value) / 1000; go({ min: v ? String(v) : "" }); });
for (const name of ["where", "group", "same", "by"]) narrow.elements[name]?.addEventListener("change", () => go({ [name]: narrow.elements[name].value }));
pager.addEventListener("click", (event) => { const step = Number(event.target.dataset.step); if (step) turn(step); });

for (const kind of ["dragenter", "dragover"]) document.addEventListener(kind, (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
for (const kind of ["dragleave", "drop"]) document.addEventListener(kind, (event) => { event.preventDefault(); document.body.classList.remove("dropping"); });
document.addEventListener("drop", (event) => { if (event.dataTransfer.files.length) embed(event.dataTransfer.files[0]); });
document.addEventListener("paste", (event) => { const file = [...event.clipboardData.files][0]; if (file) { event.preventDefault(); embed(file); } });

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || large.dialog.open) return;
  if (event.target.matches("input:not([type=checkbox], [type=range]), textarea, select")) { if (event.key === "Escape") event.target.blur(); return; }
  const all = [...hits.querySelectorAll(".hit")];
  const at = all.indexOf(document.activeElement);
  const across = Math.max(1, all.findIndex((one) => one.offsetTop > all[0].offsetTop) === -1 ? all.length : all.findIndex((one) => one.offsetTop > all[0].offsetTop));
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
  if (event.key === "/") { event.preventDefault(); (ask.elements.text.disabled ? ask.elements.key : ask.elements.text).focus(); }
  else if (event.key in steps && all.length) { event.preventDefault(); all[at < 0 ? 0 : Math.min(all.length - 1, Math.max(0, at + steps[event.key]))].focus(); }
  else if ((event.key === "+" || event.key === "=") && at >= 0) act.like(all[at].dataset.key);
  else if ((event.key === "-" || event.key === "−") && at >= 0) act.unlike(all[at].dataset.key);
  else if (event.key === "n" && !pager.hidden && !pager.querySelectorAll("button")[1].disabled) turn(1);
  else if (event.key === "p" && Number(state.page)) turn(-1);
});

// A few images to begin with, from the table itself.
async function begin() {
  const list = el("ol", { class: "results" });
  welcome.append(list);
  const [found, dull] = await Promise.all([api.sample(12).catch(() => ({ images: [] })), constant]);
  list.replaceChildren(...found.images.map((one) => {
    const item = hit(api, { ...one, rank: 0, score: 1, closer_pairs: null }, { ...act, open: act.only }, dull);
    item.querySelector(".hit").setAttribute("aria-label", `Search with ${one.key}`);
    item.querySelector(".score").remove();
    item.querySelector(".act").remove();
    return item;
  }));
}

if (window.matchMedia("(max-width: 48rem)").matches) document.getElementById("filters").open = false;
show();
api.pairs().then((found) => { quantiles = found.quantiles; least(); }).catch(() => {});
