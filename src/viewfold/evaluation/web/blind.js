"use strict";
const page = document.body.dataset.page;
const place = `viewfold-ab-${page}`;
const pairs = [...document.querySelectorAll("section.pair")];
const at = (id) => document.getElementById(id);
const KEYS = { 1: "left", 2: "right", 0: "none" };

const newcomer = () => ({
  page,
  voter: [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
  votes: {},
});

function read() {
  try {
    const found = JSON.parse(localStorage.getItem(place));
    if (found && found.page === page && typeof found.voter === "string" && typeof found.votes === "object") return found;
  } catch { /* a browser that keeps nothing, or somebody else's words: begin anew */ }
  return newcomer();
}

function keep() {
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch {
    at("kept").textContent = "This browser keeps nothing: save your votes before you leave the page.";
  }
}

let state = read();
const firstOpen = () => {
  const index = pairs.findIndex((pair) => !(pair.dataset.id in state.votes));
  return index < 0 ? pairs.length : index;
};
let shown = firstOpen();

function show() {
  pairs.forEach((pair, index) => { pair.hidden = index !== shown; });
  const isDone = shown >= pairs.length;
  const voted = Object.keys(state.votes).length;
  at("progress").textContent = isDone ? `${voted} of ${pairs.length} done` : `${shown + 1} of ${pairs.length}`;
  at("bar").value = voted / pairs.length;
  at("choose").hidden = isDone;
  at("choose").style.display = isDone ? "none" : "";
  at("done").hidden = !isDone;
  at("save").classList.toggle("urgent", isDone);
  at("save").disabled = voted === 0;
  at("back").disabled = shown === 0;
}

function vote(choice) {
  if (shown >= pairs.length) return;
  state.votes[pairs[shown].dataset.id] = choice;
  keep();
  shown += 1;
  show();
}

function back() {
  if (shown > 0) shown -= 1;
  show();
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(state, null, 1)], { type: "application/json" }));
  link.download = "votes.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.key in KEYS) vote(KEYS[event.key]);
  else if (event.key === "Backspace") back();
  else return;
  event.preventDefault();
});
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => vote(button.dataset.choice));
}
at("save").addEventListener("click", save);
at("back").addEventListener("click", back);
at("again").addEventListener("click", () => {
  if (!confirm("Begin anew? Votes that were not saved are lost.")) return;
  state = newcomer();
  keep();
  shown = 0;
  show();
});
for (const slider of document.querySelectorAll(".turn input")) {
  slider.addEventListener("input", () => {
    const picture = slider.parentElement.querySelector("img");
    picture.style.animation = "none";
    picture.style.objectPosition = `${(100 * slider.value) / slider.max}% 0`;
  });
}
show();
