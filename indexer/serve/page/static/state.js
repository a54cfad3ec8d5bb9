// What is searched for, as one plain object; the page's address holds all of it, so that a link repeats the search.

const LISTS = ["like", "unlike", "groups", "facet"];
const TEXTS = ["text", "by", "where", "group", "same", "min", "page", "region"];

export const PAGE = 48;

export function empty() {
  return { like: [], unlike: [], groups: [], facet: [], text: "", by: "", where: "", group: "", same: "", min: "", page: "", region: "", image: null };
}

export function read(address) {
  const given = new URLSearchParams(address);
  const state = empty();
  for (const name of LISTS) state[name] = given.getAll(name);
  for (const name of TEXTS) state[name] = given.get(name) ?? "";
  return state;
}

// A vector that another program embedded, in the fragment, which is sent to no server: base64 of float32 numbers.
export function given(fragment) {
  const text = new URLSearchParams(fragment.replace(/^#/, "")).get("vector");
  if (!text) return null;
  try {
    const bytes = Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    const numbers = new DataView(bytes.buffer);
    const vector = Array.from({ length: bytes.length >> 2 }, (_, i) => numbers.getFloat32(4 * i, true));
    return { name: "the given image", vector, shown: "" };
  } catch { return null; }
}

export function write(state) {
  const out = new URLSearchParams();
  for (const name of LISTS) for (const value of state[name]) out.append(name, value);
  for (const name of TEXTS) if (state[name]) out.set(name, state[name]);
  return out.toString();
}

export function asks(state) {
  return state.like.length > 0 || (state.by !== "" && state.groups.length > 0) || state.text !== "" || state.image !== null;
}

// A facet is "column=value" with JSON as the value; SQL of its own kind is made of it here.
export function facet(column, value) {
  return `${column}=${JSON.stringify(value)}`;
}

function parts(text) {
  const at = text.indexOf("=");
  return [text.slice(0, at), JSON.parse(text.slice(at + 1))];
}

export function filter(state) {
  const columns = new Map();
  for (const text of state.facet) {
    let column, value;
    try { [column, value] = parts(text); } catch { continue; }
    columns.set(column, [...(columns.get(column) ?? []), value]);
  }
  const conditions = [];
  for (const [column, values] of columns) {
    const name = "`" + column.replaceAll("`", "") + "`";
    conditions.push("(" + values.map((v) => (v === null ? `${name} IS NULL` : `${name} = ${literal(v)}`)).join(" OR ") + ")");
  }
  if (state.where.trim()) conditions.push(`(${state.where.trim()})`);
  return conditions.join(" AND ") || null;
}

// What restricts the hits, in words; the form that sets it may be folded away.
export function limits(state) {
  const out = [];
  if (state.facet.length || state.where.trim()) out.push(`only where ${filter(state).replaceAll("`", "")}`);
  if (state.group && !state.by) out.push(`one for each ${state.group}`);
  if (state.same) out.push(`without the query's own ${state.same}`);
  if (state.min) out.push(`cosine ${state.min} and above`);
  if (state.region) out.push("within a region of the map");
  return out;
}

function literal(value) {
  return typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : String(value);
}

export function body(state) {
  const query = {};
  if (state.like.length) query.positive = state.like;
  if (state.unlike.length) query.negative = state.unlike;
  if (state.text) query.text = state.text;
  if (state.image?.vector) query.vector = state.image.vector;
  else if (state.image) query.image = state.image.data;
  if (state.by && state.groups.length) query.groups = state.groups;
  const out = { query, limit: PAGE, offset: PAGE * (Number(state.page) || 0) };
  const where = filter(state);
  if (where) out.filter = where;
  if (state.by) out.by = state.by;
  else if (state.group) out.group_by = state.group;
  if (state.same) out.exclude_same = state.same;
  if (state.region) out.region = state.region;
  if (state.min) out.score_threshold = Number(state.min);
  return out;
}
