// The attention of one segment as a table: a row for each target piece, a column for each source piece.
import { label, startsWord } from "./pieces.js";

const percent = (weight) => `${Math.round(100 * weight)} %`;

export class HeatMap {
  /** `onPoint({row, column})` when a cell or a label is pointed at or focused, `onPoint(null)` when none is. */
  constructor(root, readout, list, onPoint) {
    Object.assign(this, { root, readout, list, onPoint });
    root.addEventListener("pointerover", (event) => this.#point(event.target));
    root.addEventListener("pointerleave", () => this.#point(null));
    root.addEventListener("focusin", (event) => this.#point(event.target));
    root.addEventListener("focusout", () => this.#point(null));
    root.addEventListener("keydown", (event) => this.#travel(event));
  }

  /** `source` and `target` are the whole texts as arrays of code points; `names` the two languages' codes. */
  show(segment, source, target, names) {
    this.attention = segment.attention;
    this.columns = segment.source.map((piece) => ({ text: label(piece, source), opens: startsWord(piece) }));
    this.rows = segment.target.map((piece) => ({ text: label(piece, target), opens: startsWord(piece) }));
    this.root.replaceChildren(this.#table(names));
    this.root.style.setProperty("--columns", this.columns.length);
    this.list.replaceChildren(...this.rows.map((row, index) => this.#sentence(row, this.attention[index])));
    this.#mark(null, null);
  }

  /** Marks the row of a target piece, as when it is pointed at in the translation. */
  pointAtRow(row) {
    this.#mark(row, null);
  }

  #table(names) {
    const table = element("table", "heatmap");
    table.setAttribute("role", "grid");
    table.setAttribute("aria-label", "Attention: target pieces down, source pieces across");
    const head = table.createTHead().insertRow();
    const corner = element("td", "corner");
    corner.append(element("span", "across", `${names.source} →`), element("span", "down", `${names.target} ↓`));
    head.append(corner, ...this.columns.map((piece, column) => header(piece, "col", { column })));
    const body = table.createTBody();
    this.rows.forEach((piece, row) => {
      const line = body.insertRow();
      line.append(header(piece, "row", { row }), ...this.attention[row].map((weight, column) => this.#cell(weight, row, column)));
    });
    return table;
  }

  #cell(weight, row, column) {
    const cell = element("td", "cell");
    Object.assign(cell.dataset, { row, column });
    cell.style.setProperty("--weight", Math.min(1, weight).toFixed(3));
    cell.tabIndex = row === 0 && column === 0 ? 0 : -1;   // one stop in the tab order; arrows move from there
    cell.setAttribute("aria-label", `${this.rows[row].text} from ${this.columns[column].text}, ${percent(weight)}`);
    return cell;
  }

  #sentence(row, weights) {
    const strongest = weights.map((weight, column) => ({ weight, column }))
      .sort((left, right) => right.weight - left.weight)
      .filter(({ weight }, rank) => rank === 0 || (rank < 3 && weight >= 0.1))
      .map(({ weight, column }) => `${this.columns[column].text} ${percent(weight)}`);
    const item = element("li");
    item.append(element("strong", "", row.text), ` from ${strongest.join(", ")}`);
    return item;
  }

  #point(node) {
    const place = node?.closest?.("[data-row], [data-column]");
    if (!place) {
      this.#mark(null, null);
      this.onPoint(null);
      return;
    }
    const row = "row" in place.dataset ? Number(place.dataset.row) : null;
    const column = "column" in place.dataset ? Number(place.dataset.column) : null;
    this.#mark(row, column);
    this.onPoint({ row, column });
  }

  #mark(row, column) {
    for (const node of this.root.querySelectorAll(".current")) node.classList.remove("current");
    const mark = (selector) => this.root.querySelector(selector)?.classList.add("current");
    if (row !== null) mark(`th[data-row="${row}"]`);
    if (column !== null) mark(`th[data-column="${column}"]`);
    if (row !== null && column !== null) mark(`td[data-row="${row}"][data-column="${column}"]`);
    this.readout.textContent = this.#reading(row, column);
  }

  #reading(row, column) {
    if (row !== null && column !== null) {
      return `“${this.rows[row].text}” drew ${percent(this.attention[row][column])} of its attention from “${this.columns[column].text}”`;
    }
    if (row !== null) return `What “${this.rows[row].text}” was written from`;
    if (column !== null) return `What “${this.columns[column].text}” was used for`;
    return "Where the model looked while it wrote each piece. Point at a cell, or move with the arrow keys.";
  }

  #travel(event) {
    const from = event.target.closest("td.cell");
    if (!from) return;
    const [row, column] = [Number(from.dataset.row), Number(from.dataset.column)];
    const to = {
      ArrowUp: [row - 1, column], ArrowDown: [row + 1, column], ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1],
      Home: [row, 0], End: [row, this.columns.length - 1],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    const cell = this.root.querySelector(`td[data-row="${to[0]}"][data-column="${to[1]}"]`);
    if (!cell) return;
    from.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
  }
}

function element(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function header(piece, scope, place) {
  const node = element("th", piece.opens ? "opens" : "");
  node.scope = scope;
  Object.assign(node.dataset, place);
  const text = element("span", "label", piece.text);
  text.dir = "auto";
  node.append(text);
  return node;
}
