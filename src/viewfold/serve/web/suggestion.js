// The words that the model knows, to be clicked into a prompt: a kind and a colour, put where they belong.

import { button, el } from "./element.js";

const escape = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

function find(prompt, words) {
  const longest = [...words].sort((a, b) => b.length - a.length);
  for (const word of longest) {
    const found = new RegExp(`\\b${escape(word)}\\b`, "i").exec(prompt);
    if (found) return { start: found.index, end: found.index + found[0].length };
  }
  return null;
}

/** "a" or "an" before the words that are known; what else somebody wrote is theirs. */
function article(prompt, known) {
  return prompt.replace(/\ban?(?= +(\w+))/gi, (is, next) => {
    if (!known.some((word) => word.split(" ")[0] === next.toLowerCase())) return is;
    const right = /^[aeiou]/i.test(next) ? "an" : "a";
    return is[0] === "A" ? right[0].toUpperCase() + right.slice(1) : right;
  });
}

const splice = (prompt, { start, end }, word) => prompt.slice(0, start) + word + prompt.slice(end);

/** The prompt with this kind in place of the one it has; a prompt without any that is known begins anew. */
export function withKind(prompt, kind, { kinds, colors }) {
  const there = find(prompt, kinds);
  const color = find(prompt, colors);
  let made = `a ${kind}`;
  if (there) made = splice(prompt, there, kind);
  else if (color) made = `a ${prompt.slice(color.start, color.end)} ${kind}`;
  return article(made, [...kinds, ...colors]);
}

/** The prompt with this colour in place of its first, or before its kind. */
export function withColor(prompt, color, { kinds, colors }) {
  const there = find(prompt, colors);
  const kind = find(prompt, kinds);
  let made = `a ${color} `;
  if (there) made = splice(prompt, there, color);
  else if (kind) made = splice(prompt, { start: kind.start, end: kind.start }, `${color} `);
  return article(made, [...kinds, ...colors]);
}

/** A few prompts that the model knows, other ones each time. */
export function examples({ kinds, colors }, number) {
  const draw = (words) => words[Math.floor(Math.random() * words.length)];
  const some = new Set();
  for (let tried = 0; some.size < number && tried < 50; tried += 1) {
    some.add(article(`a ${draw(colors)} ${draw(kinds)}`, [...kinds, ...colors]));
  }
  return [...some];
}

/** Fill a place with the words as buttons; `choose` is given the new prompt. */
export function fillKnown(place, model, read, choose) {
  const row = (label, put, words, make) => el("div", { class: "words", role: "group", "aria-label": label },
    ...words.map((word) => make(word, () => choose(put(read(), word, model)))));
  place.replaceChildren(
    row("Colours", withColor, model.colors, (word, act) => {
      if (!CSS.supports("color", word)) return button(word, act, { class: "word" });
      const dot = button("", act, { class: "dot", "aria-label": word, title: word });
      dot.style.backgroundColor = word;
      return dot;
    }),
    row("Kinds", withKind, model.kinds, (word, act) => button(word, act, { class: "word" })));
}
