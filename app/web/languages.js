// The two language lists. Only pairs that a loaded model serves can be chosen.

export class LanguagePicker {
  constructor(sourceList, targetList, swapButton, onChange) {
    Object.assign(this, { sourceList, targetList, swapButton, pairs: [] });
    sourceList.addEventListener("change", () => { this.#fillTargets(); onChange(); });
    targetList.addEventListener("change", () => { this.#update(); onChange(); });
  }

  get source() { return this.sourceList.value; }

  get target() { return this.targetList.value; }

  /** `pairs` are `{source, target}`, in the service's order. */
  offer(pairs) {
    this.pairs = pairs;
    fill(this.sourceList, new Set(pairs.map((pair) => pair.source)));
    this.#fillTargets();
    for (const list of [this.sourceList, this.targetList]) list.disabled = false;
  }

  swap() {
    const [source, target] = [this.target, this.source];
    this.sourceList.value = source;
    this.#fillTargets();
    this.targetList.value = target;
    this.#update();
  }

  #fillTargets() {
    const before = this.target;
    const targets = this.pairs.filter((pair) => pair.source === this.source).map((pair) => pair.target);
    fill(this.targetList, targets);
    if (targets.includes(before)) this.targetList.value = before;
    this.#update();
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

function fill(list, codes) {
  list.replaceChildren(...[...codes].map((code) => new Option(name(code), code)));
}
