// Elements, marks and numbers. Text reaches the page as text nodes and attributes only, never as markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element. */
export const html = (tag, attributes = {}, ...children) =>
  fill(document.createElement(tag), attributes, children);

/** An SVG element. */
export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

/** A drawing as wide as its place, announced as one picture. */
export function drawing(place, height, label, marks) {
  const width = Math.max(place.clientWidth, 240);
  const picture = svg(
    "svg",
    { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    ...marks(width, height),
  );
  place.replaceChildren(picture);
  return picture;
}

// Seven colours, then a tint of each: 14. With nine shapes, which share no factor with 14, 126 models look different.
const COLOURS = 14;
const SHAPES = [
  (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
  (r) => `M${-r * 0.9},${-r * 0.9}h${1.8 * r}v${1.8 * r}h${-1.8 * r}z`,
  (r) => `M0,${-1.15 * r}L${1.1 * r},${0.85 * r}H${-1.1 * r}z`,
  (r) => `M0,${-1.25 * r}L${1.25 * r},0L0,${1.25 * r}L${-1.25 * r},0z`,
  (r) => `M0,${1.15 * r}L${1.1 * r},${-0.85 * r}H${-1.1 * r}z`,
  (r) => {
    const a = 0.4 * r, b = 1.15 * r;
    return `M${-a},${-b}H${a}V${-a}H${b}V${a}H${a}V${b}H${-a}V${a}H${-b}V${-a}H${-a}z`;
  },
  (r) => polygon(5, r, 0.5),
  (r) => polygon(6, r, null),
  (r) => `M${-r},${-r}H${r}L${-r},${r}H${r}z`,
];

function polygon(corners, radius, inner) {
  const steps = inner === null ? corners : 2 * corners;
  const points = Array.from({ length: steps }, (_, i) => {
    const r = radius * (inner !== null && i % 2 ? inner : 1.15);
    const angle = (2 * Math.PI * i) / steps - Math.PI / 2;
    return `${(r * Math.cos(angle)).toFixed(2)},${(r * Math.sin(angle)).toFixed(2)}`;
  });
  return `M${points.join("L")}z`;
}

/** Colour class of the model in a column. */
export const colour = (column) => `m${column % COLOURS}`;

/** Class of text on that colour: the two dark ones take white, tints the page's ink. */
export function textOn(column) {
  const at = column % COLOURS;
  if (at >= COLOURS / 2) return "on-tint";
  return at === 0 || at === 6 ? "on-dark" : "on-light";
}

/** The model's mark at a point of a drawing; plain where the ground has the model's colour already. */
export const mark = (column, x, y, radius = 6, plain = false) =>
  svg("path", {
    d: SHAPES[column % SHAPES.length](radius),
    transform: `translate(${x.toFixed(1)},${y.toFixed(1)})`,
    class: `glyph ${plain ? "plain" : colour(column)}`,
  });

/** The model's mark beside its name in running text. */
export const chip = (column) =>
  svg("svg", { width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true", class: "glyph" },
    mark(column, 0, 0, 5));

export const legend = (names, columns) =>
  names.map((name) => html("span", {}, chip(columns.get(name) ?? 0), name));

const significant = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const NONE = "–";
const given = (value) => value !== null && value !== undefined && Number.isFinite(value);
export const number = (value) => (given(value) ? whole.format(value) : NONE);
export const score = (value) => (given(value) ? value.toFixed(3) : NONE);
export const percent = (value) => (given(value) ? `${significant.format(100 * value)} %` : NONE);
export const usd = (value) => (given(value) ? `$${significant.format(value)}` : NONE);
export const perThousand = (value) => (given(value) ? usd(1000 * value) : NONE);
export const seconds = (value) => (given(value) ? `${significant.format(value)} s` : NONE);
export const dialText = (value) => value.toFixed(3).replace(/0$/, "");

/** A linear map of [from, to] to [start, end]. */
export const linear = (from, to, start, end) => (value) =>
  from === to ? (start + end) / 2 : start + ((value - from) / (to - from)) * (end - start);

/** Round steps that cover a range with about `count` of them. */
export function ticks(from, to, count) {
  const span = to - from || Math.abs(to) || 1;
  const raw = span / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= raw) * power;
  const found = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + step * 1e-9; i += 1)
    found.push(i * step || 0);
  return found;
}

/** 1, 2 and 5 times powers of ten inside a range; powers alone where that makes too many. */
export function logTicks(from, to, most) {
  for (const factors of [[1, 2, 5], [1, 3], [1]]) {
    const found = [];
    for (let power = Math.floor(Math.log10(from)); power <= Math.ceil(Math.log10(to)); power += 1)
      for (const factor of factors) found.push(factor * 10 ** power);
    const inside = found.filter((value) => value >= from * 0.999 && value <= to * 1.001);
    if (inside.length <= most || factors.length === 1) return inside;
  }
  return [];
}

/**
 * Show a table; one that is there already is replaced inside its frame, which keeps focus and scroll position.
 * @param {HTMLElement} place
 * @param {string} caption read out, not shown
 * @param {{title: string, number?: boolean}[]} heads
 * @param {HTMLTableRowElement[]} rows
 */
export function showTable(place, caption, heads, rows) {
  const head = heads.map(({ title, number: right }) =>
    html("th", { scope: "col", class: right ? "number" : null }, title));
  const table = html("table", {},
    html("caption", { class: "hidden" }, caption),
    html("thead", {}, html("tr", {}, ...head)),
    html("tbody", {}, ...rows));
  const frame = place.querySelector(":scope > .scroll");
  if (frame !== null) frame.replaceChildren(table);
  else place.replaceChildren(html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, table));
}

export const cell = (text, kind = "number") => html("td", { class: kind }, text);
export const nameCell = (name, column) => html("td", { class: "name" }, column === null ? null : chip(column), name);

/** A figure with its name, for a definition list. */
export const figure = (name, value, note = null) =>
  html("div", {}, html("dt", {}, name), html("dd", {}, value, note === null ? null : html("small", {}, note)));
