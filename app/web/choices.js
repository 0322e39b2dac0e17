// The n-best list as radio buttons: best first, the words in which a choice differs from the best set apart.

/** A score is a length-normalised log-probability; its exponential reads as an average probability a piece. */
export const probability = (score) => `${(100 * Math.exp(Math.min(0, score))).toFixed(0)} %`;

/** `choices` are `{text, score}`, best first; `onChoose(index)` when the reader takes one. */
export function showChoices(root, choices, onChoose) {
  root.replaceChildren(...choices.map((choice, index) => choiceRow(choice, index, choices[0].text, onChoose)));
}

function choiceRow(choice, index, best, onChoose) {
  const row = document.createElement("label");
  row.className = "choice";
  const radio = document.createElement("input");
  Object.assign(radio, { type: "radio", name: "choice", value: String(index), checked: index === 0 });
  radio.addEventListener("change", () => onChoose(index));
  const text = document.createElement("span");
  text.className = "choice-text";
  text.dir = "auto";
  text.append(...contrast(choice.text, best));
  row.append(radio, text);
  if (choice.score !== null) row.append(scoreBar(choice.score));
  return row;
}

function scoreBar(score) {
  const figure = document.createElement("span");
  figure.className = "choice-score";
  figure.textContent = probability(score);
  figure.style.setProperty("--score", Math.exp(Math.min(0, score)).toFixed(3));
  return figure;
}

function contrast(text, best) {
  const bare = (word) => word.replace(/\p{P}/gu, "").toLowerCase();
  const known = new Set(best.split(/\s+/).map(bare));
  return text.split(/(\s+)/).map((word) => {
    if (!word.trim() || known.has(bare(word))) return word;
    const emphasis = document.createElement("em");
    emphasis.textContent = word;
    return emphasis;
  });
}
