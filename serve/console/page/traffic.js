// What goes through the endpoint: figures, a timeline, models, versions, upstreams.

import {
  cell, drawing, figure, html, linear, nameCell, number, NONE, percent, score, seconds, showTable, svg, ticks, usd,
} from "./draw.js";

const share = (part, all) => (all ? percent(part / all) : NONE);

/** Draw one answer of /v1/traffic; `columns` gives a model its colour and shape. */
export function traffic(answer, columns) {
  const place = (id) => document.getElementById(id);
  const saved = answer.always_best_cost_usd > 0 ? answer.savings_usd / answer.always_best_cost_usd : null;
  place("traffic-figures").replaceChildren(
    figure("Decisions", number(answer.decisions), rate(answer)),
    figure("Cost", usd(answer.cost_usd), `${number(answer.known_costs)} of ${number(answer.decisions)} billed, the rest expected`),
    figure("Saved", usd(answer.savings_usd), saved === null ? "against always-best" : `${percent(saved)} against always-best`),
    figure("Feedback", share(answer.feedback, answer.decisions),
      answer.mean_score === null ? "no scores yet" : `mean score ${score(answer.mean_score)}`),
    figure("Failed calls", number(answer.errors), share(answer.errors, answer.decisions)),
  );
  place("traffic-source").textContent = answer.shared
    ? "All replicas of this node, by whole minutes."
    : "One replica: without log.directory each replica remembers its own traffic.";
  timeline(place("timeline"), answer.timeline);
  models(place("traffic-models"), answer, columns);
  releases(place("traffic-releases"), answer);
  upstreams(place("traffic-upstreams"), answer, columns);
  place("traffic-refusals").replaceChildren(html("p", { class: "quiet" },
    `${counts(answer.refusals)} (this replica, since it started)`));
  place("release-error").hidden = answer.release_error === null;
  place("release-error").textContent = `The last reload failed: ${answer.release_error}`;
}

const rate = ({ timeline: minutes }) => {
  // The last minute is still filling: the one before it tells the pace.
  const last = minutes.at(-2);
  return last === undefined ? null : `${number(last.decisions)} in the last full minute`;
};

function timeline(place, minutes) {
  const most = Math.max(...minutes.map((m) => m.decisions), 1);
  const total = minutes.reduce((sum, m) => sum + m.decisions, 0);
  const label = `Decisions over time: ${number(total)} in all, at most ${number(most)} in one step; ` +
    `${number(minutes.reduce((sum, m) => sum + m.errors, 0))} failed calls.`;
  drawing(place, 180, label, (width, height) => {
    const left = 44, right = width - 4, top = 8, bottom = height - 22;
    const y = linear(0, most, bottom, top);
    const step = (right - left) / Math.max(minutes.length, 1);
    const marks = ticks(0, most, 3).filter(Number.isInteger).flatMap((value) => [
      svg("line", { x1: left, x2: right, y1: y(value), y2: y(value), class: "grid" }),
      svg("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end", class: "tick" }, number(value)),
    ]);
    minutes.forEach(({ start, decisions, errors }, i) => {
      const x = left + i * step, width_ = Math.max(step - Math.min(2, step / 4), 0.5);
      const good = decisions - errors;
      const bar = svg("g", {}, svg("title", {}, `${clock(start)}: ${number(decisions)} decisions, ${number(errors)} failed`),
        svg("rect", { x, width: width_, y: y(good), height: bottom - y(good), class: "bar-good" }),
        svg("rect", { x, width: width_, y: y(decisions), height: y(good) - y(decisions), class: "bar-bad" }));
      marks.push(bar);
    });
    marks.push(svg("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "rule" }));
    if (minutes.length) {
      marks.push(svg("text", { x: left, y: bottom + 16, class: "tick" }, clock(minutes[0].start)));
      marks.push(svg("text", { x: right, y: bottom + 16, "text-anchor": "end", class: "tick" }, clock(minutes.at(-1).start)));
    }
    return marks;
  });
}

const clock = (start) => new Date(start).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

function models(place, answer, columns) {
  const counts = Object.entries(answer.by_model).sort((a, b) => b[1] - a[1]);
  if (!counts.length) return place.replaceChildren(html("p", { class: "quiet" }, "No decision yet."));
  const rows = counts.map(([id, decisions]) =>
    html("tr", {}, nameCell(id, columns.get(id) ?? null), cell(number(decisions)), cell(share(decisions, answer.decisions))));
  return showTable(place, "Decisions by model",
    [{ title: "Model" }, { title: "Decisions", number: true }, { title: "Share", number: true }], rows);
}

function releases(place, answer) {
  const rows = answer.releases.map((found) =>
    html("tr", {}, cell(found.release, "text"), cell(found.policy_version, "text"),
      cell(found.agreement === null ? part(found.percent) : `agrees ${percent(found.agreement)}`),
      cell(number(found.decisions))));
  return showTable(place, "Versions of the policy",
    [{ title: "Release" }, { title: "Policy" }, { title: "Traffic", number: true }, { title: "Decisions", number: true }],
    rows);
}

const part = (value) => (value === null ? NONE : `${number(value)} %`);

const WORDS = { closed: "healthy", open: "resting after failures", half_open: "on trial" };

function upstreams(place, answer, columns) {
  if (!answer.upstreams.length)
    return place.replaceChildren(
      html("p", { class: "quiet" }, "No upstream is configured: the endpoint decides, callers call."));
  const rows = answer.upstreams.map(({ model, state, retry_after_s: rest, calls, failures }) => {
    const words = WORDS[state] + (rest > 0 ? `, next try in ${seconds(rest)}` : "");
    return html("tr", {}, nameCell(model, columns.get(model) ?? null),
      cell(words, state === "closed" ? "health-good" : "health-bad"), cell(number(calls)), cell(counts(failures), "text"));
  });
  return showTable(place, "Health of the upstreams as this replica sees it",
    [{ title: "Model" }, { title: "State" }, { title: "Calls", number: true }, { title: "Failed" }], rows);
}

const counts = (found) =>
  Object.entries(found).sort((a, b) => b[1] - a[1]).map(([code, n]) => `${code}: ${number(n)}`).join(", ") || "none";
