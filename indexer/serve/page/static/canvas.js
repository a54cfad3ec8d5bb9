// The map's canvas: which part of the unit square it shows, tiles and points drawn on it, the lasso over them.

const TILE = 256;
const MOST_TILES = 400; // pictures kept
const NEAR = 9; // pixels between a click and its point

export class Canvas {
  constructor(canvas, base, version, deepest, told) {
    Object.assign(this, { canvas, base, version, deepest, told, colour: "", points: null, region: [], drawn: null, tiles: new Map() });
    this.dark = window.matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => this.recolour(this.colour));
    new ResizeObserver(() => this.sized()).observe(canvas);
    this.sized();
  }

  get side() { return Math.min(this.width, this.height); }

  sized() {
    const box = this.canvas.getBoundingClientRect();
    const fresh = this.width === undefined;
    const dense = window.devicePixelRatio || 1;
    [this.width, this.height] = [box.width, box.height];
    [this.canvas.width, this.canvas.height] = [Math.round(box.width * dense), Math.round(box.height * dense)];
    if (fresh) this.fit(); else this.moved();
  }

  fit() { this.scale = this.side; this.x = 0.5; this.y = 0.5; this.moved(); }

  zoom(factor, x = this.width / 2, y = this.height / 2) {
    const at = this.place(x, y);
    this.scale = Math.min(Math.max(this.scale * factor, this.side / 2), this.side * 65536);
    this.x = at[0] - (x - this.width / 2) / this.scale;
    this.y = at[1] - (y - this.height / 2) / this.scale;
    this.moved();
  }

  pan(dx, dy) { this.x -= dx / this.scale; this.y -= dy / this.scale; this.moved(); }

  place(x, y) { return [this.x + (x - this.width / 2) / this.scale, this.y + (y - this.height / 2) / this.scale]; }
  pixel(x, y) { return [(x - this.x) * this.scale + this.width / 2, (y - this.y) * this.scale + this.height / 2]; }
  view() { const [a, b] = [this.place(0, 0), this.place(this.width, this.height)]; return [[a[0], a[1]], [b[0], a[1]], [b[0], b[1]], [a[0], b[1]]]; }

  recolour(colour) { this.colour = colour; this.tiles.clear(); this.moved(); }

  // The view changed: draw what is known, and ask for the points of the view.
  moved() {
    this.x = Math.min(1, Math.max(0, this.x));
    this.y = Math.min(1, Math.max(0, this.y));
    this.draw();
    clearTimeout(this.soon);
    this.canvas.dataset.busy = "";
    this.soon = setTimeout(() => this.ask(), 80);
  }

  async ask() {
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    const [a, , b] = this.view();
    const query = new URLSearchParams({ x0: a[0], y0: a[1], x1: b[0], y1: b[1], ...(this.colour && { colour: this.colour }) });
    try {
      const answer = await fetch(`${this.base}/points?${query}`, { signal: asking.signal });
      const found = await answer.json();
      if (!answer.ok) throw new Error(found.detail);
      this.points = found.points.length || !found.count ? found.points : null;
      this.told(found.count, null);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.told(0, error);
    }
    this.draw();
    delete this.canvas.dataset.busy;
  }

  draw() { if (!this.drawing) this.drawing = requestAnimationFrame(() => { this.drawing = 0; this.paint(); }); }

  paint() {
    const pen = this.canvas.getContext("2d");
    const dense = this.canvas.width / this.width;
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, this.width, this.height);
    const style = getComputedStyle(this.canvas);
    if (this.points) this.dots(pen, style); else this.density(pen);
    const outline = this.drawn ?? this.region;
    if (outline.length < 2) return;
    pen.beginPath();
    outline.forEach(([x, y], i) => { const at = this.pixel(x, y); if (i) pen.lineTo(...at); else pen.moveTo(...at); });
    pen.closePath();
    pen.strokeStyle = style.getPropertyValue("--ink");
    pen.lineWidth = 1.5;
    pen.setLineDash([5, 4]);
    pen.stroke();
    pen.setLineDash([]);
    pen.lineWidth = 1;
  }

  dots(pen, style) {
    const size = Math.max(2.5, Math.min(6, 60 / Math.sqrt(this.points.length + 1)));
    for (const [, x, y, code] of this.points) {
      pen.fillStyle = style.getPropertyValue(`--series-${code + 1}`);
      pen.beginPath();
      pen.arc(...this.pixel(x, y), size, 0, 2 * Math.PI);
      pen.fill();
    }
  }

  density(pen) {
    const z = Math.min(this.deepest, Math.max(0, Math.round(Math.log2(this.scale / TILE))));
    const n = 2 ** z, size = this.scale / n;
    const [a, , b] = this.view();
    const clip = (v) => Math.min(n - 1, Math.max(0, Math.floor(v * n)));
    pen.imageSmoothingEnabled = false;
    for (let ty = clip(a[1]); ty <= clip(b[1]); ty++) {
      for (let tx = clip(a[0]); tx <= clip(b[0]); tx++) {
        const img = this.tile(z, tx, ty);
        // whole pixels, so that neighbours leave no seam
        const [left, top] = this.pixel(tx / n, ty / n).map(Math.round);
        const [right, bottom] = this.pixel((tx + 1) / n, (ty + 1) / n).map(Math.round);
        if (img.complete && img.naturalWidth && size) pen.drawImage(img, left, top, right - left, bottom - top);
      }
    }
  }

  tile(z, x, y) {
    const name = `${z}/${x}/${y}`;
    let img = this.tiles.get(name);
    if (!img) {
      img = new Image();
      const query = new URLSearchParams({ scheme: this.dark.matches ? "dark" : "light", v: this.version, ...(this.colour && { colour: this.colour }) });
      img.addEventListener("load", () => this.draw());
      img.src = `${this.base}/tiles/${name}?${query}`;
      this.tiles.set(name, img);
      if (this.tiles.size > MOST_TILES) this.tiles.delete(this.tiles.keys().next().value);
    }
    return img;
  }

  // The point under a click, null where there is none.
  near(x, y) {
    const gaps = (this.points ?? []).map(([, px, py]) => { const at = this.pixel(px, py); return Math.hypot(at[0] - x, at[1] - y); });
    const best = gaps.indexOf(Math.min(...gaps));
    return best >= 0 && gaps[best] <= NEAR ? this.points[best] : null;
  }
}
