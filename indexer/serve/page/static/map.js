// The map page: move, colour, select by lasso; the selection's images, and a search within them.

import { Api } from "./api.js";
import { Canvas } from "./canvas.js";
import { count, el, hit } from "./view.js";

const root = document.getElementById("map");
const api = new Api(root.dataset.table);
const form = root.querySelector("form");
const canvas = root.querySelector("canvas");
const status = document.getElementById("status");
const failure = document.getElementById("error");
const use = document.getElementById("use");
const hits = document.getElementById("hits");
const pager = document.getElementById("pages");
const legend = document.getElementById("legend");
const PAGE = 24;
const STEP = 60; // pixels of an arrow key
const search = `/t/${encodeURIComponent(root.dataset.table)}`;
const asked = new URLSearchParams(location.search);

const view = new Canvas(canvas, `${api.base}/map`, root.dataset.version, Number(root.dataset.deepest), (n, error) => {
  document.getElementById("inview").textContent = error ? "" : `${count(n, "image", "images")} in view, as ${view.points ? "points" : "density"}.`;
  if (error) say(error.message);
});
let region = "";
let page = 0;
let running = null;
let lasso = false;

function say(words) { failure.textContent = words; failure.hidden = !words; }
function written(outline) { return outline.map(([x, y]) => `${x.toFixed(6)},${y.toFixed(6)}`).join(";"); }

function address() {
  const out = new URLSearchParams();
  if (form.elements.colour.value) out.set("colour", form.elements.colour.value);
  if (region) out.set("region", region);
  history.replaceState(null, "", out.size ? `?${out}` : location.pathname);
}

function select(outline) {
  view.region = outline;
  view.draw();
  region = outline.length ? written(outline) : "";
  page = 0;
  address();
  show();
}

async function show() {
  say("");
  running?.abort();
  const { signal } = (running = new AbortController());
  use.hidden = !region;
  if (!region) { hits.replaceChildren(); hits.removeAttribute("aria-busy"); pager.hidden = true; status.textContent = "Draw a lasso, or click a point, to see its images."; return; }
  hits.setAttribute("aria-busy", "true");
  try {
    const found = await api.json("/map/region", { signal, method: "POST", headers: { "content-type": "application/json" },
      body: JSON.stringify({ region, limit: PAGE, offset: PAGE * page }) });
    if (signal.aborted) return;
    const act = { open: (key) => location.assign(`${search}?${new URLSearchParams({ like: key })}`), like: () => {}, unlike: () => {}, further: () => {} };
    hits.replaceChildren(...found.images.map((one) => {
      const item = hit(api, { ...one, rank: 0, score: 1, closer_pairs: null }, act);
      item.querySelector(".hit").setAttribute("aria-label", `Search with ${one.key}`);
      item.querySelector(".score").remove();
      item.querySelector(".act").remove();
      return item;
    }));
    const last = PAGE * page + found.images.length;
    status.textContent = found.count > PAGE ? `${count(found.count, "image", "images")} selected; ${PAGE * page + 1} to ${last} in random order` : `${count(found.count, "image", "images")} selected`;
    use.hidden = !found.count;
    use.querySelector("a").href = `${search}?${new URLSearchParams({ region })}`;
    pager.hidden = found.count <= PAGE;
    pager.querySelector("span").textContent = `Page ${page + 1}`;
    const [back, next] = pager.querySelectorAll("button");
    back.disabled = !page;
    next.disabled = last >= found.count;
  } catch (error) {
    if (signal.aborted) return;
    hits.replaceChildren();
    status.textContent = "";
    say(error.message);
  } finally { if (!signal.aborted) hits.removeAttribute("aria-busy"); }
}

async function colour() {
  address();
  const name = form.elements.colour.value;
  view.recolour(name);
  legend.replaceChildren();
  if (!name) return;
  try {
    const found = await api.json(`/map?${new URLSearchParams({ colour: name })}`);
    if (name !== form.elements.colour.value) return;
    const rows = found.legend.values.map(({ value, rows: n }, i) => [i, String(value), n]);
    if (found.legend.others) rows.push([7, "all others, or missing", found.legend.others]);
    legend.replaceChildren(...rows.map(([i, words, n]) => el("li", {}, el("i", { class: `series-${i + 1}` }), `${words} `, el("span", { class: "dim" }, n.toLocaleString("en")))));
  } catch (error) { say(error.message); }
}

function lassoing(on) { lasso = on; form.elements.lasso.setAttribute("aria-pressed", String(on)); canvas.classList.toggle("lasso", on); }

let held = null;
canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  held = { x: event.offsetX, y: event.offsetY, moved: false, lasso: lasso || event.shiftKey };
  if (held.lasso) view.drawn = [view.place(event.offsetX, event.offsetY)];
});
canvas.addEventListener("pointermove", (event) => {
  if (!held) return;
  const gap = [event.offsetX - held.x, event.offsetY - held.y];
  if (!held.moved && Math.hypot(...gap) < 4) return;
  held.moved = true;
  if (held.lasso) { if (Math.hypot(...gap) > 3 && view.drawn.length < 480) { view.drawn.push(view.place(event.offsetX, event.offsetY)); Object.assign(held, { x: event.offsetX, y: event.offsetY }); view.draw(); } return; }
  view.pan(...gap);
  Object.assign(held, { x: event.offsetX, y: event.offsetY });
});
canvas.addEventListener("pointerup", (event) => {
  const outline = view.drawn;
  view.drawn = null;
  if (held?.lasso && outline.length > 2) { lassoing(false); select(outline); }
  else if (held && !held.moved) {
    const point = view.near(event.offsetX, event.offsetY);
    const tiny = 0.000002;
    if (point) select([[-tiny, -tiny], [tiny, -tiny], [tiny, tiny], [-tiny, tiny]].map(([dx, dy]) => [point[1] + dx, point[2] + dy]));
  }
  held = null;
  view.draw();
});
canvas.addEventListener("pointercancel", () => { held = null; view.drawn = null; view.draw(); });
canvas.addEventListener("wheel", (event) => { event.preventDefault(); view.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY); }, { passive: false });

const KEYS = {
  ArrowLeft: () => view.pan(STEP, 0), ArrowRight: () => view.pan(-STEP, 0), ArrowUp: () => view.pan(0, STEP), ArrowDown: () => view.pan(0, -STEP),
  "+": () => view.zoom(1.5), "=": () => view.zoom(1.5), "-": () => view.zoom(1 / 1.5), 0: () => view.fit(),
  v: () => select(view.view()), l: () => lassoing(!lasso), Escape: () => { lassoing(false); select([]); },
};
canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const does = KEYS[event.key] ?? KEYS[event.key.toLowerCase()];
  if (does) { event.preventDefault(); does(); }
});
form.addEventListener("submit", (event) => event.preventDefault());
form.elements.colour.addEventListener("change", colour);
form.elements.lasso.addEventListener("click", () => lassoing(!lasso));
form.elements.view.addEventListener("click", () => select(view.view()));
form.elements.in.addEventListener("click", () => view.zoom(1.5));
form.elements.out.addEventListener("click", () => view.zoom(1 / 1.5));
form.elements.fit.addEventListener("click", () => view.fit());
use.querySelector("button").addEventListener("click", () => select([]));
pager.addEventListener("click", (event) => { const step = Number(event.target.dataset.step); if (step) { page += step; show(); } });

if (asked.get("colour")) { form.elements.colour.value = asked.get("colour"); colour(); }
if (asked.get("region")) select(asked.get("region").split(";").map((corner) => corner.split(",").map(Number)));
