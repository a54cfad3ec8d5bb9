// Calls of the HTTP API. A refusal becomes an Error with the server's own sentence.

export class Api {
  constructor(table) { this.base = `/api/v1/tables/${encodeURIComponent(table)}`; }

  async json(path, options) {
    const answer = await fetch(this.base + path, options);
    if (answer.ok) return answer.json();
    let words = `the server answered ${answer.status}`;
    try { words = (await answer.json()).detail ?? words; } catch { /* not JSON: the status says it */ }
    throw Object.assign(new Error(words), { status: answer.status });
  }

  search(body, signal) {
    return this.send("/query", body, { signal });
  }

  send(path, body, options = {}) {
    return this.json(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), ...options });
  }

  facets(where, region, signal) {
    return this.json(`/facets?${new URLSearchParams({ ...(where && { filter: where }), ...(region && { region }) })}`, { signal });
  }
  image(key) { return this.json(`/images/${path(key)}`); }
  sample(n) { return this.json(`/sample?limit=${n}`); }
  pairs() { return this.json("/pair-cosines"); }

  picture(key, size, window) {
    return `${this.base}/images/${path(key)}/rendered?size=${size}` + (window ? `&window=${encodeURIComponent(window)}` : "");
  }
}

// Why a picture cannot be shown.
export async function why(url) {
  const answer = await fetch(url);
  try { return (await answer.json()).detail; } catch { return "the picture cannot be shown"; }
}

// Each part of a key is escaped; its slashes stay.
function path(key) { return key.split("/").map(encodeURIComponent).join("/"); }
