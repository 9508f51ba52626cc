"use strict";
// The page can be read without this script: it filters and sorts the matrix, and copies commands.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const search = document.getElementById("search");
const boxes = all("#filter input[type=checkbox]");
const rows = all("#matrix tbody tr:not(.file)").map((row) => {
  const links = all("a", row);
  const texts = links.map((link) => document.querySelector(link.hash).textContent);
  const file = row.closest("tbody").rows[0].textContent;
  return { row, links, text: [file, row.textContent, ...texts].join(" ").toLowerCase() };
});

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const outcomes = boxes.filter((box) => box.checked).map((box) => box.value); // none: all
  for (const { row, links, text } of rows) {
    const outcome = outcomes.length === 0 || links.some((link) => outcomes.includes(link.className));
    row.hidden = !(outcome && words.every((word) => text.includes(word)));
  }
  for (const body of all("#matrix tbody")) {
    body.hidden = [...body.rows].slice(1).every((row) => row.hidden);
  }
}

const form = document.getElementById("filter");
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", filter);

function button(text, parent, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.append(...text);
  made.addEventListener("click", () => act(made));
  parent.append(made);
}

// Worst first; of tests the names, of times the longest.
function key(row, column) {
  const cell = row.cells[column];
  const link = cell.querySelector("a");
  if (column === 0) return cell.textContent;
  return link ? boxes.findIndex((box) => box.value === link.className) : -Number(cell.textContent) || 99;
}

all("#matrix thead th").forEach((head, column) => {
  button(head.childNodes, head, () => {
    const before = (a, b) => (key(a, column) > key(b, column)) - (key(a, column) < key(b, column));
    const bodies = all("#matrix tbody");
    for (const body of bodies) body.append(...[...body.rows].slice(1).sort(before));
    bodies.sort((a, b) => before(a.rows[1], b.rows[1]));
    document.getElementById("matrix").append(...bodies);
  });
});

for (const term of all("dt").filter((each) => ["rerun", "remedy", "script"].includes(each.textContent))) {
  button(["copy"], term, async (made) => {
    await navigator.clipboard.writeText(term.nextElementSibling.textContent);
    made.textContent = "copied";
  });
}
