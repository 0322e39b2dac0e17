// What the page asks of the service. Paths are relative, so that the page also works below a proxy's prefix.
import { characters } from "./pieces.js";

const LONG_TEXT = 200;       // characters from which on the sentences are worth showing one by one
const STREAM = "application/x-ndjson";
let streams = true;          // until a stream breaks off: something on the way to the service cannot carry them

/** An answer that is not a translation: what to tell the reader, and whether asking again later can help. */
export class Problem extends Error {
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;   // seconds, null when the service named none
  }

  /** Unreachable, queue full, or not ready: the same request may succeed in a moment. */
  get passing() {
    return [0, 429, 503].includes(this.status);
  }
}

export const languagePairs = async () => (await call("v1/languages")).pairs;

export const models = async () => (await call("v1/models")).models;

export const ready = () => call("health/ready");

/**
 * Best translation of one text, with its runners-up, their scores and their attention. Of a long text,
 * `onSegments(events)` gets the segments as they are translated, in whatever order, until the answer is there.
 */
export async function translate(text, source, target, signal, onSegments) {
  const body = { text, source, target, n_best: 5, scores: true, alignment: true };
  let answer = null;
  if (streams && characters(text).length > LONG_TEXT) {
    answer = await readStream(await post({ ...body, partial: true }, `${STREAM}, application/json;q=0.5`, signal), onSegments);
    streams = answer !== null;
  }
  answer ??= await (await post(body, "application/json", signal)).json();
  return { ...answer.translations[0], model: answer.model, timings: answer.timings };
}

const post = (body, accept, signal) => ask("v1/translate", {
  method: "POST",
  headers: { "Content-Type": "application/json", Accept: accept },
  body: JSON.stringify(body),
  signal,
});

/** The answer at the end of a stream; null if the stream has no end. */
async function readStream(response, onSegments) {
  if (!response.headers.get("Content-Type")?.startsWith(STREAM)) return response.json();
  const stream = chunks(response.body);
  for (;;) {
    const events = await stream.next().catch((error) => {
      if (error.name === "AbortError") throw error;
      return { done: true };   // broken off
    });
    if (events.done) return null;
    const last = events.value.at(-1);
    if (last.event === "answer") return last.answer;
    if (last.event === "problem") throw new Problem(last.problem.detail, { status: last.problem.status });
    onSegments(events.value);
  }
}

/** The events of a stream, those that came together at once. */
async function* chunks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let begun = "";
  for (let read = await reader.read(); !read.done; read = await reader.read()) {
    const lines = (begun + read.value).split("\n");
    begun = lines.pop();
    if (lines.length) yield lines.map((line) => JSON.parse(line));
  }
}

const call = async (path) => (await ask(path)).json();

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service cannot be reached.");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

async function problemOf(response) {
  const seconds = Number.parseFloat(response.headers.get("Retry-After"));
  const details = { status: response.status, retryAfter: Number.isFinite(seconds) ? seconds : null };
  try {
    const body = await response.json();
    return new Problem(body.detail ?? body.title, details);
  } catch {   // not a problem document: a proxy answered in the service's place
    return new Problem(`The service answered ${response.status} ${response.statusText}`.trim() + ".", details);
  }
}
