// One answer on the page: the translation, the choices, and the attention of one of its segments.
import { probability, showChoices } from "./choices.js";
import { HeatMap } from "./heatmap.js";
import { characters, paint, unlight, weigh } from "./pieces.js";
import { Progress } from "./progress.js";

export class ResultView {
  /** `part(id)` finds an element of the page. */
  constructor(part) {
    this.part = part;
    this.answer = null;
    this.heatMap = new HeatMap(part("heatmap"), part("attention-readout"), part("attention-list"), (place) => this.#light(place));
    part("segment").addEventListener("change", () => this.#showSegment(Number(part("segment").value)));
    part("previous-segment").addEventListener("click", () => this.#showSegment(this.segment - 1));
    part("next-segment").addEventListener("click", () => this.#showSegment(this.segment + 1));
    part("target").addEventListener("pointerover", (event) => this.#trace(event.target));
    part("target").addEventListener("pointerleave", () => this.#trace(null));
    part("target").addEventListener("click", (event) => {
      if (event.target.dataset.segment) this.#showSegment(Number(event.target.dataset.segment));
    });
  }

  /** The translation that stands in the target pane. */
  get chosen() {
    return this.choices?.[this.choice].text ?? "";
  }

  /** Makes way for the translation of `text`, which comes sentence by sentence; returns where to put them. */
  begin(text, languages) {
    this.choices = null;
    this.#unlight();
    this.part("target").lang = languages.target;
    this.part("target").classList.add("arriving");
    this.part("results").inert = true;   // those of the text before
    this.part("score-hint").hidden = true;
    this.part("copy").disabled = true;
    return new Progress(this.part("target"), text);
  }

  /** `text` is what was translated, `languages` the pair `{source, target}`. */
  show(text, answer, languages) {
    Object.assign(this, { text, answer, languages, choices: [answer, ...answer.alternatives], detached: false });
    this.part("target").lang = languages.target;
    this.#arrived();
    showChoices(this.part("choices"), this.choices, (index) => this.#choose(index));
    this.#choose(0);
    this.part("results").hidden = false;
  }

  clear() {
    Object.assign(this, { answer: null, choices: null, segments: [], segment: 0 });
    this.#arrived();
    this.part("target").replaceChildren();
    this.part("results").hidden = true;
    this.part("score-hint").hidden = true;
    this.part("copy").disabled = true;
  }

  /** The source no longer reads as it did when it was translated: its marks would stand in the wrong places. */
  detach() {
    this.detached = true;
    this.sourceSpans = null;
  }

  #arrived() {
    this.part("target").classList.remove("arriving");
    this.part("results").inert = false;
  }

  #choose(index) {
    this.choice = index;
    const { text, score, alignment } = this.choices[index];
    this.segments = (alignment ?? []).filter((segment) => segment.source.length && segment.target.length);
    this.sourceSpans = this.detached ? null
      : paint(this.part("mirror"), this.text, this.segments.map((segment) => segment.source));
    this.targetSpans = paint(this.part("target"), text, this.segments.map((segment) => segment.target));
    this.part("score-hint").hidden = score === null;
    if (score !== null) this.part("score").textContent = `Score ${probability(score)}`;
    this.part("copy").disabled = !text;
    this.#fillSegments();
    this.#showSegment(Math.min(this.segment ?? 0, this.segments.length - 1));
  }

  #fillSegments() {
    const letters = characters(this.text);
    const options = this.segments.map((segment, index) => {
      const words = letters.slice(segment.source[0].start, segment.source.at(-1).end).join("").trim();
      return new Option(`${index + 1}. ${words.length > 40 ? words.slice(0, 39) + "…" : words}`, index);
    });
    this.part("segment").replaceChildren(...options);
    this.part("segment-picker").hidden = options.length < 2;
    this.part("attention").hidden = options.length === 0;
  }

  #showSegment(index) {
    if (index < 0) return;
    this.segment = index;
    this.part("segment").value = String(index);
    this.part("previous-segment").disabled = index === 0;
    this.part("next-segment").disabled = index === this.segments.length - 1;
    this.heatMap.show(this.segments[index], characters(this.text), characters(this.chosen), this.languages);
  }

  /** A place in the heat map lights its words in both panes. */
  #light(place) {
    this.#unlight();
    if (!place) return;
    const { attention, source, target } = this.segments[this.segment];
    const { row, column } = place;
    const only = (length, index) => Array.from({ length }, (_, other) => (other === index ? 1 : 0));
    const sourceWeights = column === null ? attention[row] : only(source.length, column);
    const targetWeights = row === null ? attention.map((weights) => weights[column]) : only(target.length, row);
    if (this.sourceSpans) weigh(this.sourceSpans[this.segment], sourceWeights);
    weigh(this.targetSpans[this.segment], targetWeights);
  }

  /** A piece pointed at in the translation lights itself, its sources, and its row of the heat map. */
  #trace(node) {
    this.#unlight();
    const piece = node?.dataset?.piece;
    if (piece === undefined) return;
    const [segment, row] = [Number(node.dataset.segment), Number(piece)];
    if (this.sourceSpans) weigh(this.sourceSpans[segment], this.segments[segment].attention[row]);
    node.classList.add("lit");
    node.style.setProperty("--weight", "1");
    if (segment === this.segment) this.heatMap.pointAtRow(row);
  }

  #unlight() {
    unlight(this.part("mirror"));
    unlight(this.part("target"));
    if (this.segments?.length) this.heatMap.pointAtRow(null);
  }
}
