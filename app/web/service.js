// What the page asks of the service. Paths are relative, so that the page also works below a proxy's prefix.

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

/** Best translation of one text, with its runners-up, their scores and the attention of the best. */
export async function translate(text, source, target, signal) {
  const answer = await call("v1/translate", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ text, source, target, n_best: 5, scores: true, alignment: true }),
    signal,
  });
  return { ...answer.translations[0], model: answer.model, timings: answer.timings };
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The service cannot be reached.");
  }
  if (!response.ok) throw await problemOf(response);
  return response.json();
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
