// The cost-quality plane: models, what a coin flip between them achieves, the policy along the dial, the dial now.

import { drawing, html, linear, logTicks, mark, perThousand, score, svg, ticks, usd, dialText } from "./draw.js";

const LETTER_PX = 6.6;

/** Place a label beside each point where it covers nothing that is there already; leave out what finds no place. */
function labels(points, taken, width, height) {
  const placed = [];
  for (const { x, y, text } of points) {
    const w = text.length * LETTER_PX, h = 14;
    const spots = [
      [x + 10, y + 4, "start"], [x - 10, y + 4, "end"], [x, y - 11, "middle"], [x, y + 20, "middle"],
      [x + 8, y - 9, "start"], [x + 8, y + 17, "start"], [x - 8, y - 9, "end"], [x - 8, y + 17, "end"],
    ];
    for (const [tx, ty, anchor] of spots) {
      const left = anchor === "start" ? tx : anchor === "end" ? tx - w : tx - w / 2;
      const box = { left, right: left + w, top: ty - h + 3, bottom: ty + 3 };
      const inside = box.left >= 2 && box.right <= width - 2 && box.top >= 0 && box.bottom <= height;
      const free = taken.every((other) => other.right < box.left || other.left > box.right ||
        other.bottom < box.top || other.top > box.bottom);
      if (!inside || !free) continue;
      taken.push(box);
      placed.push(svg("text", { x: tx.toFixed(1), y: ty.toFixed(1), "text-anchor": anchor, class: "halo" }, text));
      break;
    }
  }
  return placed;
}

/**
 * Draw the plane.
 * @param {HTMLElement} place
 * @param {object} picture answer of /v1/dial
 * @param {number} here index of the dial's setting
 * @param {(index: number) => void} choose called with the index of a clicked point of the policy
 */
export function plane(place, picture, here, choose) {
  const { models, policy } = picture;
  const costs = [...models.map((m) => m.expected_cost_usd), ...policy.expected_cost_usd].filter((c) => c > 0);
  const scores = [...models.map((m) => m.expected_score), ...policy.expected_score];
  const least = Math.min(...costs) / 1.5, most = Math.max(...costs) * 1.8;
  const low = Math.min(...scores), high = Math.max(...scores), margin = Math.max((high - low) * 0.12, 0.01);
  const label = `Expected score against expected cost of ${models.length} models and of the policy. At w_cost ` +
    `${dialText(picture.w_cost[here])} the policy scores ${score(policy.expected_score[here])} at ` +
    `${perThousand(policy.expected_cost_usd[here])} per 1,000 requests.`;
  const height = place.clientWidth < 480 ? 320 : 400;
  drawing(place, height, label, (width) => {
    const left = 46, right = width - 14, top = 12, bottom = height - 44;
    const along = linear(Math.log(least), Math.log(most), left, right);
    const x = (cost) => along(Math.log(Math.max(cost, least)));
    const y = linear(low - margin, high + margin, bottom, top);
    const marks = [];
    for (const value of ticks(low - margin, high + margin, 6)) {
      marks.push(svg("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }));
      marks.push(svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", class: "tick" },
        value.toFixed(2)));
    }
    for (const value of logTicks(least, most, Math.floor((right - left) / 55))) {
      marks.push(svg("line", { x1: x(value), x2: x(value), y1: top, y2: bottom, class: "grid" }));
      marks.push(svg("text", { x: x(value), y: bottom + 18, "text-anchor": "middle", class: "tick" },
        perThousand(value)));
    }
    marks.push(svg("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "rule" }));
    marks.push(svg("text", { x: right, y: bottom + 36, "text-anchor": "end", class: "axis" },
      "expected cost, USD per 1,000 requests"));
    marks.push(svg("text", { x: left + 4, y: top + 4, class: "axis halo" }, "expected score"));
    // A coin flip is a straight line in cost, which a logarithmic axis bends: drawn in short steps.
    const mix = picture.mix_line ?? [];
    if (mix.length > 1) marks.push(svg("path", { d: trace(bent(mix), x, y), class: "mix" }));
    const curve = policy.expected_cost_usd.map((cost, i) => [cost, policy.expected_score[i]]);
    marks.push(svg("path", { d: trace(curve, x, y), class: "frontier" }));
    curve.forEach(([cost, quality], i) => {
      const dot = svg("circle", { cx: x(cost), cy: y(quality), r: 3, class: "frontier-dot pick" },
        svg("title", {}, `w_cost ${dialText(picture.w_cost[i])}: score ${score(quality)}, ${perThousand(cost)}`));
      dot.addEventListener("click", () => choose(i));
      marks.push(dot);
    });
    const [cost, quality] = curve[here];
    marks.push(svg("path", { d: `M${left},${y(quality)}H${x(cost)}V${bottom}`, class: "cross", fill: "none" }));
    const points = models.map((m, column) => ({
      column, x: x(m.expected_cost_usd), y: y(m.expected_score), text: m.id, model: m,
    }));
    for (const point of points) {
      const shape = mark(point.column, point.x, point.y);
      shape.append(svg("title", {}, `${point.text}: score ${score(point.model.expected_score)}, ` +
        `${perThousand(point.model.expected_cost_usd)} per 1,000`));
      marks.push(shape);
    }
    const taken = points.map((p) => ({ left: p.x - 7, right: p.x + 7, top: p.y - 7, bottom: p.y + 7 }));
    taken.push({ left: x(cost) - 9, right: x(cost) + 9, top: y(quality) - 9, bottom: y(quality) + 9 });
    taken.push({ left, right: left + 96, top: 0, bottom: top + 8 });
    marks.push(svg("circle", { cx: x(cost), cy: y(quality), r: 7, class: "here" }));
    // The strongest models are named first: where there is no room, the names that matter least are missing.
    const byScore = [...points].sort((a, b) => b.model.expected_score - a.model.expected_score);
    marks.push(...labels(byScore, taken, width, bottom));
    return marks;
  });
}

/** What the marks mean. */
export const planeKey = () => [
  html("span", {}, sample(svg("line", { x1: 0, x2: 26, y1: 7, y2: 7, class: "frontier" })), "the policy along the dial"),
  html("span", {}, sample(svg("circle", { cx: 13, cy: 7, r: 5, class: "here" })), "the dial now"),
  html("span", {}, sample(svg("line", { x1: 0, x2: 26, y1: 7, y2: 7, class: "mix" })), "a coin flip between two models"),
];

const sample = (shape) =>
  svg("svg", { width: 26, height: 14, "aria-hidden": "true" }, svg("g", {}, shape));

const trace = (points, x, y) =>
  points.map(([cost, quality], i) => `${i ? "L" : "M"}${x(cost).toFixed(1)},${y(quality).toFixed(1)}`).join("");

function bent(line) {
  const found = [line[0]];
  for (let i = 1; i < line.length; i += 1) {
    const [c0, q0] = line[i - 1], [c1, q1] = line[i];
    for (let step = 1; step <= 24; step += 1)
      found.push([c0 + ((c1 - c0) * step) / 24, q0 + ((q1 - q0) * step) / 24]);
  }
  return found;
}

/** The expected cost along the dial: what there is to see of a policy that predicts no scores. */
export function costLine(place, picture, here) {
  const costs = picture.policy.expected_cost_usd;
  const most = Math.max(...costs) * 1.1 || 1;
  const label = `Expected cost along the dial; ${perThousand(costs[here])} per 1,000 requests at w_cost ` +
    `${dialText(picture.w_cost[here])}. The policy predicts no scores.`;
  drawing(place, 260, label, (width, height) => {
    const left = 56, right = width - 14, top = 14, bottom = height - 40;
    const x = linear(0, 1, left, right), y = linear(0, most, bottom, top);
    const marks = ticks(0, most, 4).flatMap((value) => [
      svg("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", class: "tick" }, usd(1000 * value)),
    ]);
    for (const value of [0, 0.25, 0.5, 0.75, 1])
      marks.push(svg("text", { x: x(value), y: bottom + 17, "text-anchor": "middle", class: "tick" }, value));
    marks.push(svg("text", { x: right, y: bottom + 34, "text-anchor": "end", class: "axis" },
      "w_cost; expected cost, USD per 1,000 requests"));
    const points = costs.map((cost, i) => [picture.w_cost[i], cost]);
    marks.push(svg("path", { d: trace(points, x, y), class: "frontier" }));
    marks.push(svg("circle", { cx: x(points[here][0]), cy: y(points[here][1]), r: 7, class: "here" }));
    return marks;
  });
}
