// The two language lists. Only pairs that a loaded model serves can be chosen. The pair last chosen is remembered; before
// there is one, the reader's own language is the source if any model has it.

const REMEMBERED = "ferry-languages";

export class LanguagePicker {
  constructor(sourceList, targetList, swapButton, onChange) {
    Object.assign(this, { sourceList, targetList, swapButton, pairs: [] });
    sourceList.addEventListener("change", () => { this.#fillTargets(); this.#remember(); onChange(); });
    targetList.addEventListener("change", () => { this.#update(); this.#remember(); onChange(); });
  }

  get source() { return this.sourceList.value; }

  get target() { return this.targetList.value; }

  /** `pairs` are `{source, target}`, in the service's order. */
  offer(pairs) {
    this.pairs = pairs;
    const sources = new Set(pairs.map((pair) => pair.source));
    fill(this.sourceList, sources);
    const [source, target] = remembered();
    const own = navigator.languages.flatMap((code) => [code, code.split("-")[0]]);
    this.sourceList.value = [source, ...own].find((code) => sources.has(code)) ?? pairs[0]?.source;
    this.#fillTargets(source === this.source ? target : undefined);
    for (const list of [this.sourceList, this.targetList]) list.disabled = false;
  }

  swap() {
    const [source, target] = [this.target, this.source];
    this.sourceList.value = source;
    this.#fillTargets(target);
    this.#remember();
  }

  #fillTargets(wanted = this.target) {
    const targets = this.pairs.filter((pair) => pair.source === this.source).map((pair) => pair.target);
    fill(this.targetList, targets);
    if (targets.includes(wanted)) this.targetList.value = wanted;
    this.#update();
  }

  /** Storage may be forbidden; the choice then lasts as long as the page. */
  #remember() {
    try { localStorage.setItem(REMEMBERED, `${this.source} ${this.target}`); } catch { /* not remembered */ }
  }

  #update() {
    const reverse = this.pairs.some((pair) => pair.source === this.target && pair.target === this.source);
    this.swapButton.disabled = !reverse;
    this.swapButton.title = reverse ? "Swap languages" : `No model from ${name(this.target)} to ${name(this.source)} is loaded`;
  }
}

export function name(code) {
  return new Intl.DisplayNames(["en"], { type: "language" }).of(code);
}

function remembered() {
  try { return localStorage.getItem(REMEMBERED)?.split(" ") ?? []; } catch { return []; }
}

function fill(list, codes) {
  list.replaceChildren(...[...codes].map((code) => new Option(name(code), code)));
}
