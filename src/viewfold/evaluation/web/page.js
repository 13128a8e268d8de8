"use strict";
// A mesh is turned by its slider; the animation rests from then on.
for (const slider of document.querySelectorAll(".turn input")) {
  slider.addEventListener("input", () => {
    const picture = slider.parentElement.querySelector("img");
    picture.style.animation = "none";
    picture.style.objectPosition = `${(100 * slider.value) / slider.max}% 0`;
  });
}
// The rows that hold what is looked for.
document.getElementById("find").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of document.querySelectorAll(".all tbody tr")) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
  }
});
// A heading sorts, and sorts the other way when it is pressed again; what has no number comes last.
for (const table of document.querySelectorAll("table.all")) {
  const headings = [...table.querySelectorAll("thead th")];
  headings.forEach((heading, column) => heading.firstElementChild.addEventListener("click", () => {
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    headings.forEach((other) => other.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const worth = (row) => row.cells[column].textContent.trim();
    const rows = [...table.tBodies[0].rows].map((row) => [row, worth(row), parseFloat(worth(row))]);
    const isNumber = rows.some(([, , number]) => !Number.isNaN(number)) && column !== 0 && column !== 2;
    rows.sort(([, a, x], [, b, y]) => (isNumber
      ? (Number.isNaN(x) - Number.isNaN(y)) || sign * (x - y)
      : sign * a.localeCompare(b)));
    table.tBodies[0].append(...rows.map(([row]) => row));
  }));
}
