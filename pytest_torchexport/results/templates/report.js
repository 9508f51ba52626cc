"use strict";
// The page can be read without this script: it filters, sorts, closes by a key, and copies.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
// What an article says, without its links and buttons.
const parts = (article) => all("h2, p, h3, dt, dd", article);
const search = document.getElementById("search");
const boxes = all("#filter input[type=checkbox]");
const rows = all("#matrix tbody tr:not(.file), .causes li").map((row) => {
  const links = all("a", row);
  const texts = links.flatMap((link) => parts(document.querySelector(link.hash))).map((each) => each.textContent);
  const file = row.closest("tbody")?.rows[0].textContent ?? "";
  return { row, links, text: [file, row.textContent, ...texts].join(" ").toLowerCase() };
});
const tests = rows.filter(({ row }) => row.cells);

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const outcomes = boxes.filter((box) => box.checked).map((box) => box.value); // none: all
  for (const { row, links, text } of rows) {
    const outcome = outcomes.length === 0 || links.some((link) => outcomes.includes(link.className));
    row.hidden = !(outcome && words.every((word) => text.includes(word)));
  }
  for (const group of all("#matrix tbody, .causes:has(li)")) {
    group.hidden = all("tr:not(.file), li", group).every((row) => row.hidden);
  }
  const left = tests.filter(({ row }) => !row.hidden).length;
  document.getElementById("shown").value = `${left} of ${tests.length} tests`;
}

const form = document.getElementById("filter");
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", filter);
filter(); // a browser that loads a page again keeps what was typed

// Escape closes an item, and Tab goes on from the link that opened it.
let opener;
addEventListener("click", (event) => {
  opener = event.target.closest("main a") ?? opener;
});
addEventListener("hashchange", () => document.querySelector("article:target") ?? opener?.focus());
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.querySelector("article:target")) location.hash = "closed";
});

function button(text, parent, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.append(...text);
  made.addEventListener("click", () => act(made));
  parent.append(made);
}

// Worst first, and last what no item is as a whole; of tests the names, of times the longest.
function key(row, column) {
  const cell = row.cells[column];
  const link = cell.querySelector("a");
  if (column === 0) return cell.textContent;
  if (link) return boxes.findIndex((box) => box.value === link.className) + 1 || 98;
  return -Number(cell.textContent) || 99;
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

function copies(name, parent, text) {
  button([name], parent, async (made) => {
    try {
      await navigator.clipboard.writeText(text());
      made.textContent = "copied";
    } catch {
      made.textContent = "the browser forbids it"; // over plain HTTP there is no clipboard
    }
  });
}

// As the terminal has it: the label of a block before its lines.
function report(article) {
  const lines = parts(article).map((each) =>
    each.matches("dt")
      ? `  ${(each.firstChild?.data ?? "").padEnd(10)}`
      : `${each.textContent.replaceAll("\n", "\n            ")}\n`,
  );
  const environment = all(".run, footer").map((each) => `${each.textContent}\n`);
  return [...lines, "\n", ...environment].join("");
}

for (const term of all("dt").filter((each) => ["rerun", "remedy", "script"].includes(each.textContent))) {
  copies("copy", term, () => term.nextElementSibling.textContent);
}
for (const article of all("article")) {
  copies("copy report", article.querySelector(".close"), () => report(article));
}
