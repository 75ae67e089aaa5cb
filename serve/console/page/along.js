// What happens along the dial, drawn under one axis: shares of models as stacked areas, choices as a strip.

import { colour, dialText, drawing, linear, mark, percent, svg, textOn } from "./draw.js";

const LEFT = 8;
const LETTER_PX = 6.6;

function axis(x, bottom) {
  return [0, 0.25, 0.5, 0.75, 1].map((value) =>
    svg("text", { x: x(value), y: bottom + 16, class: "tick",
      "text-anchor": value === 0 ? "start" : value === 1 ? "end" : "middle" }, value));
}

function marker(x, top, bottom) {
  return [
    svg("line", { x1: x, x2: x, y1: top, y2: bottom, class: "marker" }),
    svg("path", { d: `M${x - 5},${top - 6}h10l-5,7z`, class: "marker-head" }),
  ];
}

/** A click anywhere in the drawing sets the dial. */
function choosable(picture, x, settings, choose) {
  picture.classList.add("pick");
  picture.addEventListener("click", (event) => {
    const at = event.clientX - picture.getBoundingClientRect().left;
    const distance = settings.map((w) => Math.abs(x(w) - at));
    choose(distance.indexOf(Math.min(...distance)));
  });
}

/**
 * Stacked shares along the dial.
 * @param {HTMLElement} place
 * @param {number[]} settings
 * @param {{id: string, shares: number[]}[]} models in column order
 * @param {number} here index of the dial's setting
 * @param {(index: number) => void} choose
 * @param {string} what for the picture's spoken name
 */
export function shares(place, settings, models, here, choose, what) {
  const now = models.filter((m) => m.shares[here] > 0.005).sort((a, b) => b.shares[here] - a.shares[here]);
  const label = `${what} along the dial. At w_cost ${dialText(settings[here])}: ` +
    now.map((m) => `${m.id} ${percent(m.shares[here])}`).join(", ");
  const height = 190;
  let x = null;
  const picture = drawing(place, height, label, (width) => {
    const top = 10, bottom = height - 20;
    x = linear(0, 1, LEFT, width - LEFT);
    const y = linear(0, 1, bottom, top);
    const areas = [], names = [];
    const base = settings.map(() => 0);
    models.forEach(({ id, shares: share }, column) => {
      const upper = base.map((from, i) => from + share[i]);
      if (Math.max(...share) > 0.001) {
        const forth = settings.map((w, i) => `${x(w).toFixed(1)},${y(upper[i]).toFixed(1)}`);
        const back = settings.map((w, i) => `${x(w).toFixed(1)},${y(base[i]).toFixed(1)}`).reverse();
        areas.push(svg("path", { d: `M${forth.join("L")}L${back.join("L")}z`, class: `${colour(column)} seam` },
          svg("title", {}, id)));
        names.push(...inside(id, column, settings, base, upper, x, y));
      }
      upper.forEach((value, i) => { base[i] = value; });
    });
    return [...areas, ...names, ...axis(x, bottom), ...marker(x(settings[here]), top, bottom)];
  });
  choosable(picture, x, settings, choose);
}

/** The model's name where its area is thickest, if it fits there; else its mark; else nothing. */
function inside(id, column, settings, base, upper, x, y) {
  const thickness = upper.map((value, i) => Math.abs(y(value) - y(base[i])));
  const step = Math.abs(x(settings[1]) - x(settings[0]));
  const fits = (need, width) => {
    const reach = Math.ceil(width / 2 / step);
    let best = null;
    for (let i = reach; i < settings.length - reach; i += 1) {
      const span = Array.from({ length: 2 * reach + 1 }, (_, k) => i - reach + k);
      const roof = Math.max(...span.map((k) => y(upper[k]))), floor = Math.min(...span.map((k) => y(base[k])));
      const room = floor - roof;
      if (room >= need && (best === null || room > best.room)) best = { i, room, at: (roof + floor) / 2 };
    }
    return best;
  };
  const name = fits(15, id.length * LETTER_PX + 6);
  if (name !== null)
    return [svg("text", { x: x(settings[name.i]), y: name.at + 4, "text-anchor": "middle", class: textOn(column) }, id)];
  const shape = Math.max(...thickness) > 13 ? fits(13, 2) : null;
  return shape === null ? [] : [mark(column, x(settings[shape.i]), shape.at, 4, true)];
}

/** Runs of one model along the dial. */
export function runs(settings, chosen) {
  const found = [];
  chosen.forEach((model, i) => {
    const last = found.at(-1);
    if (last !== undefined && last.model === model) last.to = i;
    else found.push({ model, from: i, to: i });
  });
  return found.map(({ model, from, to }) => ({ model, from: settings[from], to: settings[to], first: from, last: to }));
}

/** The chosen model at every setting, as one strip. */
export function strip(place, settings, chosen, columns, here, choose) {
  const found = runs(settings, chosen);
  const label = `Chosen model along the dial: ` +
    found.map((r) => `${r.model} from ${dialText(r.from)} to ${dialText(r.to)}`).join("; ");
  const height = 84;
  let x = null;
  const picture = drawing(place, height, label, (width) => {
    const top = 14, bottom = height - 24, half = 0.5 / (settings.length - 1);
    x = linear(0, 1, LEFT, width - LEFT);
    const marks = [];
    for (const run of found) {
      // Each setting owns the ground halfway to its neighbours.
      const from = x(Math.max(run.from - half, 0)), to = x(Math.min(run.to + half, 1));
      const column = columns.get(run.model) ?? 0;
      marks.push(svg("rect", { x: from, y: top, width: to - from, height: bottom - top, class: `${colour(column)} seam` },
        svg("title", {}, run.model)));
      const middle = (from + to) / 2, room = to - from;
      if (room > run.model.length * LETTER_PX + 26) {
        marks.push(mark(column, middle - (run.model.length * LETTER_PX) / 2 - 6, (top + bottom) / 2, 5, true));
        marks.push(svg("text", { x: middle + 6, y: (top + bottom) / 2 + 4, "text-anchor": "middle",
          class: textOn(column) }, run.model));
      } else if (room > 16) marks.push(mark(column, middle, (top + bottom) / 2, 5, true));
    }
    return [...marks, ...axis(x, bottom), ...marker(x(settings[here]), top, bottom)];
  });
  choosable(picture, x, settings, choose);
}
