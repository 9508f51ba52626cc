"use strict";
// The page can be read without this script: it filters, moves by keys, and changes the theme.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const byId = (id) => document.getElementById(id);
const root = document.documentElement;
const search = byId("search");
const choices = { target: byId("target"), device: byId("device") };
const boxes = all("input[name=outcome]");
const heads = all("#matrix thead th").slice(1);
const rows = all("#matrix tr:not(.file)").slice(1).map((row) => ({
  row,
  name: row.cells[0].textContent,
  links: all("a", row),
}));
const articleOf = (link) => byId("i" + link.id.slice(1));
const opened = () => document.querySelector("article:target");

// -- filter ---------------------------------------------------------------------------------------

const texts = new Map(); // link to all that is written about its item, made by the first search

function textOf(link, name) {
  if (!texts.has(link)) {
    const file = link.closest("tbody").rows[0].textContent;
    const article = articleOf(link)?.textContent ?? ""; // not there yet while the page loads
    texts.set(link, `${file} ${name} ${article}`.toLowerCase());
  }
  return texts.get(link);
}

function columnShown(index) {
  return Object.entries(choices).every(
    ([key, choice]) => !choice || !choice.value || heads[index].dataset[key] === choice.value,
  );
}

function filter() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const outcomes = boxes.filter((box) => box.checked).map((box) => box.value); // none: all
  const columns = heads.map((_, index) => columnShown(index));
  heads.forEach((head, index) => { head.hidden = !columns[index]; });
  let shown = 0;
  for (const { row, name, links } of rows) {
    for (let index = 0; index < columns.length; index++) {
      row.cells[index + 1].hidden = !columns[index];
    }
    let fits = false;
    for (const link of links) {
      const one =
        columns[link.parentNode.cellIndex - 1] &&
        (outcomes.length === 0 || outcomes.includes(link.classList[0])) &&
        words.every((word) => textOf(link, name).includes(word));
      link.classList.toggle("dim", !one);
      shown += one;
      fits ||= one;
    }
    row.hidden = !fits;
  }
  for (const body of all("#matrix tbody")) {
    body.hidden = [...body.rows].slice(1).every((row) => row.hidden);
  }
  byId("none").hidden = shown > 0 || rows.length === 0;
  byId("shown").value = `${shown} of ${rows.reduce((sum, { links }) => sum + links.length, 0)} items`;
}

// -- open, move, close ----------------------------------------------------------------------------

function shownLinks() {
  return rows.filter(({ row }) => !row.hidden).flatMap(({ links }) =>
    links.filter((link) => !link.classList.contains("dim") && !link.parentNode.hidden));
}

function move(step) {
  const links = shownLinks();
  if (links.length === 0) return;
  const article = opened();
  const now = article ? byId("c" + article.id.slice(1)) : document.activeElement;
  const at = links.indexOf(now);
  const to = at < 0 ? (step > 0 ? 0 : links.length - 1) : at + step;
  const link = links[Math.min(Math.max(to, 0), links.length - 1)];
  if (article) {
    location.replace(link.hash);
    link.scrollIntoView({ block: "nearest" });
  } else {
    link.focus();
  }
}

function close() {
  const article = opened();
  if (article) location.hash = "c" + article.id.slice(1);
  return Boolean(article);
}

function copyButton(cell) {
  const text = cell.textContent.trim();
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(cell); // a page without the right to copy
      button.textContent = "Selected";
    }
  });
  cell.append(button);
}

function hashChanged() {
  all("a.opened").forEach((link) => link.classList.remove("opened"));
  const article = opened();
  if (article) {
    const link = byId("c" + article.id.slice(1));
    link.classList.add("opened");
    all("dd.copy:not(:has(button))", article).forEach(copyButton);
    article.scrollTop = 0;
    article.querySelector("h2").focus({ preventScroll: true });
  } else if (location.hash.startsWith("#c")) {
    byId(location.hash.slice(1))?.focus();
  }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input[type=search], select");
  if (event.key === "Escape") {
    if (typing && search.value) {
      search.value = "";
      filter();
    } else if (typing) {
      event.target.blur();
    } else {
      close();
    }
  } else if (typing && event.key === "Enter") {
    event.preventDefault();
    search.blur();
    move(1);
  } else if (!typing && event.key === "/") {
    event.preventDefault();
    close();
    search.focus();
    search.select();
  } else if (!typing && (event.key === "j" || event.key === "k")) {
    move(event.key === "j" ? 1 : -1);
  }
});

// -- theme ----------------------------------------------------------------------------------------

const THEMES = ["auto", "dark", "light"];
const store = (() => {
  try { return window.localStorage; } catch { return null; } // a page of a sandboxed frame has none
})();

function setTheme(name) {
  if (name === "auto") delete root.dataset.theme;
  else root.dataset.theme = name;
  byId("theme").textContent = `Theme: ${name}`;
  store?.setItem("torchexport-theme", name);
}

byId("theme").addEventListener("click", () => {
  const now = root.dataset.theme ?? "auto";
  setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});

const remembered = store?.getItem("torchexport-theme");
if (THEMES.includes(remembered)) setTheme(remembered);
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("filter").addEventListener("input", filter);
boxes.forEach((box) => box.addEventListener("change", filter));
window.addEventListener("hashchange", hashChanged);
for (const id of ["filter", "theme", "keys"]) byId(id).hidden = false;
boxes.forEach((box) => { box.hidden = false; });
root.classList.add("filtering");
filter();
performance.mark("usable");
document.addEventListener("DOMContentLoaded", () => {
  texts.clear();
  if (search.value) filter();
  hashChanged();
});
