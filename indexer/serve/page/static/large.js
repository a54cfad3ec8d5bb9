// The large view of one image: its picture in a chosen window, all columns, its neighbours.

import { el, hit, picture } from "./view.js";

export const WINDOWS = ["", "percentile", "minmax", "full", "brain", "bone", "lung", "mediastinum", "abdomen", "liver"];
const SKIPPED = new Set(["meta", "nbytes", "offset", "key"]); // the key is the heading
const LAST = ["shard", "member", "suffix", "content", "norm"]; // of the file; what is known of the image comes first

export class Large {
  constructor(dialog, api, act) {
    this.dialog = dialog;
    this.api = api;
    this.act = act;
    this.choice = dialog.querySelector("select[name=window]");
    for (const name of WINDOWS) this.choice.append(el("option", { value: name }, name || "as embedded"));
    this.choice.addEventListener("change", () => this.draw());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  }

  async open(key) {
    this.key = key;
    this.choice.value = "";
    this.dialog.querySelector("h2").textContent = key;
    this.dialog.querySelector("dl").replaceChildren();
    this.dialog.querySelector(".actions").replaceChildren(
      el("button", { type: "button", onclick: () => { this.dialog.close(); this.act.only(key); } }, "Search with this"),
      el("button", { type: "button", class: "quiet", onclick: () => { this.dialog.close(); this.act.like(key); } }, "+ like"),
      el("button", { type: "button", class: "quiet", onclick: () => { this.dialog.close(); this.act.unlike(key); } }, "− unlike"));
    this.draw();
    if (!this.dialog.open) this.dialog.showModal();
    const list = this.dialog.querySelector("ol");
    list.replaceChildren();
    const [facts, near] = await Promise.allSettled([this.api.image(key), this.api.search({ query: { positive: [key] }, limit: 8 })]);
    if (this.key !== key) return;
    if (facts.status === "fulfilled") {
      const shown = Object.entries(facts.value.columns).filter(([name, v]) => v !== null && v !== "" && !SKIPPED.has(name));
      const later = ([name]) => LAST.indexOf(name);
      shown.sort((a, b) => later(a) - later(b));
      this.dialog.querySelector("dl").replaceChildren(...shown.flatMap(([name, v]) => [el("dt", {}, name), el("dd", {}, String(v))]));
      if (facts.value.columns.suffix === "tile") {
        const place = el("img", { src: `${this.api.picture(key, 256)}&part=slide`, alt: "place of the tile in its slide" });
        this.dialog.querySelector("dl").append(el("dt", {}, "place"), el("dd", {}, place));
      }
    }
    if (near.status === "fulfilled") {
      const act = { open: (other) => this.open(other), like: (other) => { this.dialog.close(); this.act.like(other); }, unlike: (other) => { this.dialog.close(); this.act.unlike(other); } };
      list.replaceChildren(...near.value.hits.map((found) => hit(this.api, found, act)));
    }
  }

  draw() {
    const fresh = picture(this.api, this.key, 768, this.choice.value);
    this.dialog.querySelector(".large > div > :is(img, .none)").replaceWith(fresh);
  }
}
