// The page's state and who redraws when it changes.

import { ask, Poll, Refusal } from "./api.js";
import { runs, shares, strip } from "./along.js";
import { costLine, plane, planeKey } from "./plane.js";
import {
  cell, chip, dialText, figure, html, legend, nameCell, NONE, percent, perThousand, score, seconds, showTable,
} from "./draw.js";
import { traffic } from "./traffic.js";

const PICTURE_EVERY_S = 5;
const TRAFFIC_EVERY_S = 3;
const SAMPLES_SHOWN = 6;

const place = (id) => document.getElementById(id);
const dial = place("dial");
const state = { picture: null, explanation: null, traffic: null, columns: new Map() };

/** Index of the setting that the dial points at. */
const here = (settings) => {
  const distance = settings.map((w) => Math.abs(w - dial.valueAsNumber));
  return distance.indexOf(Math.min(...distance));
};

function setDial(value) {
  dial.value = String(value);
  redraw();
}

function redraw() {
  place("dial-value").textContent = dialText(dial.valueAsNumber);
  dial.setAttribute("aria-valuetext", spoken());
  drawPicture();
  drawExplanation();
}

function spoken() {
  const { picture } = state;
  const words = [`w_cost ${dialText(dial.valueAsNumber)}`];
  if (picture !== null) {
    const i = here(picture.w_cost);
    if (picture.policy.expected_score !== null) words.push(`expected score ${score(picture.policy.expected_score[i])}`);
    words.push(`${perThousand(picture.policy.expected_cost_usd[i])} per 1,000 requests`);
  }
  return words.join(", ");
}

function drawPicture() {
  const { picture } = state;
  if (picture === null) return;
  const i = here(picture.w_cost), choose = (index) => setDial(picture.w_cost[index]);
  const scored = picture.policy.expected_score !== null;
  if (scored) plane(place("plane"), picture, i, choose);
  else costLine(place("plane"), picture, i);
  place("plane-key").replaceChildren(...(scored ? planeKey() : []));
  shares(place("shares"), picture.w_cost, picture.models, i, choose, "Shares of the models");
  place("at-dial").replaceChildren(...figuresAt(picture, i));
  const from = picture.source === "traffic"
    ? `Over the last ${picture.prompts} prompts that this replica routed.`
    : `No traffic yet: over ${picture.prompts} built-in sample prompts.`;
  place("picture-source").textContent = scored
    ? `${from} Scores and costs are the policy's own expectations.`
    : `${from} This policy predicts no scores: costs and shares alone.`;
  pictureTable(place("picture-table"), picture, i);
}

function figuresAt(picture, i) {
  const { policy, always_best: best } = picture;
  const cost = policy.expected_cost_usd[i];
  const found = [figure("Expected cost", perThousand(cost), "per 1,000 requests")];
  if (policy.expected_score !== null) found.unshift(figure("Expected score", score(policy.expected_score[i])));
  if (best.expected_cost_usd > 0)
    found.push(figure("Saved", percent(1 - cost / best.expected_cost_usd), `against always ${best.model}`));
  if (best.expected_score > 0)
    found.push(figure("Quality kept", percent(policy.expected_score[i] / best.expected_score), `of always ${best.model}`));
  return found;
}

function pictureTable(frame, picture, i) {
  const rows = picture.models.map((model, column) =>
    html("tr", {}, nameCell(model.id, column), cell(score(model.expected_score)),
      cell(perThousand(model.expected_cost_usd)), cell(percent(model.shares[i]))));
  showTable(frame, "Models: expected score, expected cost, share at the dial's setting", [
    { title: "Model" }, { title: "Score", number: true }, { title: "Per 1,000", number: true },
    { title: "Share now", number: true },
  ], rows);
}

function drawExplanation() {
  const { explanation } = state;
  if (explanation === null) return;
  const { w_cost: settings, chosen, models } = explanation;
  const i = here(settings), choose = (index) => setDial(settings[index]);
  const columns = new Map(models.map((m, column) => [m.id, column]));
  place("explanation").hidden = false;
  strip(place("strip"), settings, chosen, columns, i, choose);
  // A policy that draws has more to tell than its most probable model.
  const drawn = models.some((m) => m.probabilities.some((p) => p > 0.005 && p < 0.995));
  place("odds").hidden = !drawn;
  if (drawn)
    shares(place("probabilities"), settings, models.map((m) => ({ id: m.id, shares: m.probabilities })), i, choose,
      "Probability of being chosen");
  place("ranges").replaceChildren(...runs(settings, chosen).map((run) =>
    html("span", {}, chip(columns.get(run.model)), `${run.model} ${interval(run)}`)));
  place("verdict").replaceChildren(...verdict(explanation, i));
  explanationTable(place("explanation-table"), explanation, i);
}

const interval = ({ from, to }) =>
  from === to ? `at ${dialText(from)}` : `from ${dialText(from)} to ${dialText(to)}`;

function verdict({ w_cost: settings, chosen, models }, i) {
  const find = (id) => models.find((m) => m.id === id);
  const now = find(chosen[i]), dear = find(chosen[0]);
  const words = [`At ${dialText(settings[i])}: `, html("strong", {}, now.id)];
  if (now.expected_score !== null) words.push(`, expected score ${score(now.expected_score)}`);
  words.push(`, ${perThousand(now.expected_cost_usd)} per 1,000 such requests`);
  if (now !== dear) {
    const change = now.expected_cost_usd / dear.expected_cost_usd - 1;
    const parts = [`${change <= 0 ? "−" : "+"}${percent(Math.abs(change))} cost`];
    if (now.expected_score !== null) {
      const lost = now.expected_score - dear.expected_score;
      parts.push(`${lost < 0 ? "−" : "+"}${Math.abs(lost).toFixed(3)} score`);
    }
    words.push(`: ${parts.join(" and ")} against ${dear.id}, the choice for quality alone`);
  }
  const next = runs(settings, chosen).find((run) => run.first > i);
  words.push(next === undefined ? "." : `. From ${dialText(next.from)}: ${next.model}.`);
  return words;
}

function explanationTable(frame, { chosen, models }, i) {
  const timed = models.some((m) => m.expected_latency_s !== null);
  const scored = models.some((m) => m.expected_score !== null);
  const heads = [{ title: "Model" }, { title: "Probability", number: true }];
  if (scored) heads.push({ title: "Score", number: true });
  heads.push({ title: "Per 1,000", number: true });
  if (timed) heads.push({ title: "Latency", number: true });
  const rows = models.map((model, column) => {
    if (!model.eligible)
      return html("tr", { class: "out" }, nameCell(model.id, column),
        html("td", { class: "why", colspan: heads.length - 1 }, `not eligible: ${model.reason ?? NONE}`));
    const cells = [nameCell(model.id, column), cell(percent(model.probabilities[i]))];
    if (scored) cells.push(cell(score(model.expected_score)));
    cells.push(cell(perThousand(model.expected_cost_usd)));
    if (timed) cells.push(cell(seconds(model.expected_latency_s)));
    return html("tr", { class: model.id === chosen[i] ? "chosen" : null }, ...cells);
  });
  showTable(frame, "Models for this prompt at the dial's setting", heads, rows);
}

async function decide(event) {
  event.preventDefault();
  const button = place("ask").querySelector("button[type=submit]");
  const question = { prompt: place("prompt").value };
  for (const [id, field] of [["max-cost", "max_cost_usd"], ["max-latency", "max_latency_s"]])
    if (Number.isFinite(place(id).valueAsNumber)) question[field] = place(id).valueAsNumber;
  button.disabled = true;
  place("ask-state").textContent = "Deciding";
  try {
    state.explanation = await ask("v1/explain", question, AbortSignal.timeout(30_000));
    place("ask-state").textContent =
      `About ${state.explanation.prompt_tokens} prompt tokens; decided by ${state.explanation.policy_version}.`;
    drawExplanation();
  } catch (error) {
    state.explanation = null;
    place("explanation").hidden = true;
    place("ask-state").replaceChildren(html("span", { class: "problem" }, `Not decided: ${error.message}`));
  } finally {
    button.disabled = false;
  }
}

function live() {
  place("state").textContent = "Live";
  place("state").dataset.state = "live";
}

function lost(refusal, waitS) {
  const why = refusal instanceof Refusal ? refusal.message : "the endpoint does not answer";
  place("state").textContent = `Not reached (${why}); next try in ${Math.ceil(waitS)} s`;
  place("state").dataset.state = "lost";
}

function gotPicture(picture) {
  state.picture = picture;
  state.columns = new Map(picture.models.map((m, column) => [m.id, column]));
  place("about").textContent =
    `${picture.policy_version}, ${picture.models.length} models, encoder ${picture.encoder}`;
  if (!place("presets").childElementCount)
    place("presets").replaceChildren(...Object.entries(picture.presets).map(([name, w]) => {
      const button = html("button", { type: "button" }, `${name} ${dialText(w)}`);
      button.addEventListener("click", () => setDial(w));
      return button;
    }));
  if (!place("examples").childElementCount)
    place("examples").replaceChildren(...picture.samples.slice(0, SAMPLES_SHOWN).map((text) => {
      const button = html("button", { type: "button" }, text.length > 42 ? `${text.slice(0, 40)}…` : text);
      button.addEventListener("click", () => {
        place("prompt").value = text;
        place("ask").requestSubmit();
      });
      return button;
    }));
  live();
  redraw();
}

function gotTraffic(answer) {
  state.traffic = answer;
  live();
  traffic(answer, state.columns);
}

dial.addEventListener("input", redraw);
place("ask").addEventListener("submit", decide);
place("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) place("ask").requestSubmit();
});
let width = document.body.clientWidth;
new ResizeObserver(() => {
  if (document.body.clientWidth === width) return;
  width = document.body.clientWidth;
  redraw();
  if (state.traffic !== null) traffic(state.traffic, state.columns);
}).observe(document.body);

redraw();
const pictures = new Poll(() => "v1/dial", PICTURE_EVERY_S, gotPicture, lost);
const figures = new Poll(() => `v1/traffic?window_s=${place("window").value}`, TRAFFIC_EVERY_S, gotTraffic, lost);
place("window").addEventListener("change", () => figures.now());
pictures.now();
figures.now();
