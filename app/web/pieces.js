// Text as the service counts it (Unicode code points), and pieces laid over it.

export const characters = (text) => Array.from(text);

/** What a piece covers, as a reader sees it. */
export function label(piece, letters) {
  return letters.slice(piece.start, piece.end).join("").trim() || "␣";
}

/** SentencePiece marks the start of a word with U+2581. */
export const startsWord = (piece) => piece.piece.startsWith("\u2581");

/**
 * Writes `text` into `element` with one span a piece, and returns the spans as `[segment][piece]`.
 * Pieces that share their characters (the bytes of one emoji) share a span.
 */
export function paint(element, text, segments) {
  const letters = characters(text);
  const fragment = document.createDocumentFragment();
  let written = 0;
  let last = null;
  const spans = segments.map((pieces, segment) => pieces.map((piece, index) => {
    let start = Math.max(piece.start, written);
    while (start < piece.end && !letters[start].trim()) start += 1;   // a piece may open with the space before it
    if (start >= piece.end) return last;
    fragment.append(letters.slice(written, start).join(""));
    last = document.createElement("span");
    last.className = "piece";
    last.dataset.segment = segment;
    last.dataset.piece = index;
    last.textContent = letters.slice(start, piece.end).join("");
    fragment.append(last);
    written = piece.end;
    return last;
  }));
  fragment.append(letters.slice(written).join(""));
  element.replaceChildren(fragment);
  return spans;
}

/** Gives each span of one segment its weight in [0, 1]; of spans that pieces share, the greatest counts. */
export function weigh(spans, weights) {
  const greatest = new Map();
  spans.forEach((span, index) => {
    if (span) greatest.set(span, Math.max(greatest.get(span) ?? 0, weights[index] ?? 0));
  });
  for (const [span, weight] of greatest) {
    span.classList.toggle("lit", weight > 0.05);
    span.style.setProperty("--weight", weight.toFixed(3));
  }
}

export function unlight(element) {
  for (const span of element.querySelectorAll(".lit")) span.classList.remove("lit");
}
