// The page's one conversation: what is typed goes to the service, and the answer to the newest text is shown.
import { LanguagePicker } from "./languages.js";
import { characters } from "./pieces.js";
import { Problem, languagePairs, models, ready, translate } from "./service.js";
import { ResultView } from "./result.js";

const TYPING_PAUSE = 250;   // milliseconds without a keystroke before the text is sent
const FIRST_WAIT = 2;       // seconds before a passing problem is tried again, doubled each time
const LONGEST_WAIT = 16;

const part = (id) => document.getElementById(id);
const page = document.documentElement;
const source = part("source");
const limit = Number(source.dataset.limit);
const result = new ResultView(part);
const languages = new LanguagePicker(part("source-language"), part("target-language"), part("swap"), () => request(0));

const count = (number) => number.toLocaleString("en");

let newest = 0;             // number of the newest request; answers to earlier ones are stale
let inFlight = null;        // AbortController of the request under way
let pause = null;           // timer: the pause after a keystroke, or the wait before a retry
let wait = FIRST_WAIT;
let modelCards = [];

/** Forgets the request under way, and sends the text as it stands after `delay` milliseconds. */
function request(delay) {
  newest += 1;
  inFlight?.abort();
  clearTimeout(pause);
  if (!source.value.trim()) {
    result.clear();
    setState("idle", "");
  } else {
    pause = setTimeout(send, delay);
  }
}

async function send() {
  const mine = ++newest;
  const text = source.value;
  const pair = { source: languages.source, target: languages.target };
  inFlight = new AbortController();
  source.lang = pair.source;
  setState("translating", "Translating…");
  try {
    if (!pair.source) throw new Problem("The service is not ready yet.", { status: 503 });
    requireShort(text);
    const arrive = arrivals(mine, text, pair);
    const answer = await translate(text, pair.source, pair.target, inFlight.signal, arrive);
    if (mine === newest) show(text, answer, pair);
  } catch (error) {
    if (mine === newest) report(error, languages.source ? send : start);
  }
}

function show(text, answer, pair) {
  result.show(text, answer, pair);
  wait = FIRST_WAIT;
  const late = answer.unfinished.length;
  const status = late ? `Time is over, ${count(late)} ${late === 1 ? "sentence" : "sentences"} unfinished · ` : "";
  setState("done", status + timingsLine(answer.timings));
  showModelCard(answer.model);
}

/** Shows the segments of a long text while they come. */
function arrivals(mine, text, pair) {
  let progress = null;
  let arrived = 0;
  return (segments) => {
    if (mine !== newest) return;
    progress ??= result.begin(text, pair);
    for (const segment of segments) progress.place(segment);
    arrived += segments.length;
    part("notice").hidden = true;
    part("status").textContent = `Translating… ${count(arrived)} of ${count(segments[0].segments)}`;
  };
}

function timingsLine({ queue_ms: queue, compute_ms: compute, total_ms: total }) {
  const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
  return `${milliseconds(total)} (queue ${milliseconds(queue)}, model ${milliseconds(compute)})`;
}

function requireShort(text) {
  const length = characters(text).length;
  if (length <= limit) return;
  throw new Problem(`The text has ${count(length)} characters; this page takes at most ${count(limit)}.`, { status: 413 });
}

/** Shows what went wrong; if it may pass, `again` is called after a wait that grows. */
function report(error, again) {
  clearTimeout(pause);
  result.clear();
  if (!(error instanceof Problem)) {
    setState("error", "Not translated", "The page could not show the answer.");
    throw error;
  }
  part("retry").onclick = () => { clearTimeout(pause); again(); };
  if (error.passing) {
    const seconds = error.retryAfter ?? wait;
    wait = Math.min(2 * wait, LONGEST_WAIT);
    pause = setTimeout(again, 1000 * seconds);
    setState("waiting", "Waiting for the service", error.message);
    part("notice-wait").textContent = `Trying again in ${Math.ceil(seconds)} s.`;
  } else {
    setState("error", "Not translated", error.message);
  }
}

/** `state` is idle, translating, done, waiting or error; style.css shows each. */
function setState(state, status, problem = "") {
  page.dataset.state = state;
  part("status").textContent = status;
  part("target").setAttribute("aria-busy", String(state === "translating"));
  if (state === "translating") return;   // a notice stays until there is something to put in its place
  part("notice").hidden = !problem;
  if (part("notice-text").textContent !== problem) part("notice-text").textContent = problem;
  part("notice-wait").textContent = "";
}

function typed() {
  const length = characters(source.value).length;
  part("mirror").textContent = source.value;
  part("count").textContent = `${count(length)} / ${count(limit)}`;
  part("count").classList.toggle("over", length > limit);
  part("clear").disabled = length === 0;
  result.detach();
}

function showModelCard(model) {
  const card = modelCards.find((known) => known.name === model.name && known.version === model.version);
  const facts = [`Model ${model.name} ${model.version}`];
  if (card?.parameters) facts.push(`${(card.parameters / 1e6).toFixed(1)} million parameters`);
  const evaluation = card?.evaluations?.[0];
  if (evaluation) facts.push(`BLEU ${evaluation.bleu.toFixed(1)} on ${evaluation.data} ${evaluation.split}`);
  if (card?.licence) facts.push(card.licence);
  part("model-card").textContent = facts.join(" · ");
}

async function copy() {
  try {
    await navigator.clipboard.writeText(result.chosen);
  } catch {   // outside a secure context (plain http on a local network) there is only the old way
    getSelection().selectAllChildren(part("target"));
    document.execCommand("copy");
    getSelection().removeAllRanges();
  }
  part("copy").textContent = "Copied";
  setTimeout(() => { part("copy").textContent = "Copy"; }, 1500);
}

function swap() {
  const translation = result.chosen;
  languages.swap();
  if (translation) source.value = translation;
  typed();
  request(0);
}

function clear() {
  source.value = "";
  typed();
  request(0);
  source.focus();
}

/** Escape puts a tooltip away until the pointer or the focus comes back to it. */
function dismissHints(event) {
  if (event.key !== "Escape") return;
  for (const hint of document.querySelectorAll(".hint")) {
    hint.classList.add("dismissed");
    const restore = () => hint.classList.remove("dismissed");
    hint.addEventListener("pointerleave", restore, { once: true });
    hint.addEventListener("focusout", restore, { once: true });
  }
}

async function start() {
  try {
    languages.offer(await languagePairs());
    modelCards = await models();
    await ready();
  } catch (error) {
    report(error, start);
    return;
  }
  setState("idle", "");
  request(0);   // a browser may have kept the text over a reload
}

source.addEventListener("input", () => { typed(); request(TYPING_PAUSE); });
part("clear").addEventListener("click", clear);
part("copy").addEventListener("click", copy);
part("swap").addEventListener("click", swap);
document.addEventListener("keydown", dismissHints);

typed();
start();
