// A translation on its way: each sentence stands in its place as soon as it is there; where one is awaited lies a veil.
import { characters } from "./pieces.js";

export class Progress {
  /** Fills `element` with the veiled source text, which takes about the space that its translation will take. */
  constructor(element, text) {
    this.letters = characters(text);
    this.veils = [];
    element.replaceChildren(...this.#veil(0, this.letters.length));
  }

  /** `start` and `end` are a segment's in the source text; its `translation` is null if there is none. */
  place({ start, end, translation }) {
    const veil = this.veils.find((known) => start < known.end && known.start < end);
    if (!veil) return;
    this.veils.splice(this.veils.indexOf(veil), 1);
    const sentence = document.createElement("span");
    sentence.className = "arrived";
    sentence.textContent = translation ?? "";
    veil.node.replaceWith(...this.#veil(veil.start, start), sentence, ...this.#veil(end, veil.end));
  }

  /** White space stays as it is: no segment lies in it. */
  #veil(start, end) {
    const text = this.letters.slice(start, end).join("");
    if (!text.trim()) return [text];
    const [, before, words, after] = text.match(/^(\s*)(.*?)(\s*)$/s);
    const node = document.createElement("span");
    node.className = "veil";
    node.ariaHidden = "true";
    node.textContent = words;
    this.veils.push({ start: start + before.length, end: end - after.length, node });   // white space has one unit each
    return [before, node, after];
  }
}
