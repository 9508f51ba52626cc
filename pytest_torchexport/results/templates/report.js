"use strict";
// The page can be read without this script: it hides the rows of the matrix that do not fit.
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
