"use strict";
const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
const main = document.querySelector("main");
const tools = document.getElementById("tools");

// Sections by name. Links work in a sandboxed frame too, and open what they lead into
for (const section of all("section", main)) {
  const link = document.createElement("a");
  link.href = `#${section.id}`;
  link.textContent = section.querySelector("h2").textContent;
  tools.querySelector("nav").append(link);
}
function show(id) {
  const target = document.getElementById(id);
  for (let one = target; one; one = one.parentElement) if (one.matches("details")) one.open = true;
  if (target) target.scrollIntoView();
}
document.addEventListener("click", (event) => {
  const link = event.target.closest('a[href^="#"]');
  if (!link) return;
  event.preventDefault();
  show(link.getAttribute("href").slice(1));
});
if (location.hash) show(decodeURIComponent(location.hash.slice(1)));

// Sort: by value where a cell has one, else by text; what is missing comes last. A third click undoes it
const words = new Intl.Collator("en", { numeric: true });
function sort(table, column, direction) {
  const key = (row) => {
    const { dataset, textContent } = row.cells[column];
    return dataset.value === undefined ? textContent : Number(dataset.value);
  };
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if ((x === "–") !== (y === "–")) return x === "–" ? 1 : -1;
    return direction * (typeof x === "number" && typeof y === "number" ? x - y : words.compare(x, y));
  };
  const rows = [...table.tBodies[0].rows];
  rows.forEach((row, i) => (row.dataset.place ??= i));
  rows.sort((a, b) => a.dataset.place - b.dataset.place);
  if (direction) rows.sort(compare);
  table.tBodies[0].append(...rows);
}
for (const table of all("table.data")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
    head.classList.toggle("text", cells.some((cell) => cell.classList.contains("text")));
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const order = { null: "ascending", ascending: "descending", descending: null }[head.getAttribute("aria-sort")];
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      if (order) head.setAttribute("aria-sort", order);
      sort(table, column, order ? (order === "ascending" ? 1 : -1) : 0);
    });
  });
}

// Filter: rows and pictures whose variant holds every word that was typed
const field = tools.querySelector("input");
const named = all('table.data[data-rows="variant"] tbody tr').map((row) => [row, row.cells[0].textContent]);
named.push(...all("figure[data-name]").map((figure) => [figure, figure.dataset.name]));
field.addEventListener("input", () => {
  const wanted = field.value.toLowerCase().split(/\s+/);
  let left = 0;
  for (const [one, name] of named) {
    one.hidden = !wanted.every((word) => name.toLowerCase().includes(word));
    if (!one.hidden) left += 1;
  }
  tools.querySelector("output").textContent = field.value.trim() ? `${left} of ${named.length} rows and pictures` : "";
});
tools.hidden = false;

// One metric of the matrix at a time
for (const choice of all(".choice")) {
  const panels = all(".panel", choice);
  const titles = [...new Set(panels.map((panel) => panel.dataset.title))];
  const buttons = document.createElement("fieldset");
  buttons.append(Object.assign(document.createElement("legend"), { textContent: "metric" }));
  const select = (title) => panels.forEach((panel) => (panel.hidden = panel.dataset.title !== title));
  titles.forEach((title, i) => {
    const input = Object.assign(document.createElement("input"), { type: "radio", name: "metric", checked: i === 0 });
    input.addEventListener("change", () => select(title));
    const label = document.createElement("label");
    label.append(input, title);
    buttons.append(label);
  });
  if (titles.length > 1) choice.prepend(buttons);
  select(titles[0]);
}

// Pictures enlarge, those of few pixels to the width of the window
const dialog = document.querySelector("dialog");
const large = dialog.querySelector("img");
for (const small of all("figure img")) {
  const button = Object.assign(document.createElement("button"), { type: "button" });
  button.setAttribute("aria-label", `Enlarge: ${small.alt}`);
  small.replaceWith(button);
  button.append(small);
  button.addEventListener("click", () => {
    const wide = 0.9 * window.innerWidth;
    large.src = small.src;
    large.alt = small.alt;
    large.className = small.className;
    large.width = small.naturalWidth < wide / 2 ? small.naturalWidth * Math.min(4, Math.floor(wide / small.naturalWidth)) : small.naturalWidth;
    dialog.querySelector("p").textContent = small.closest("figure").querySelector("figcaption").innerText;
    dialog.showModal();
    dialog.scrollTo(0, 0);
  });
}
dialog.querySelector("button").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

// Paper shows what is folded on the screen
let opened = [];
addEventListener("beforeprint", () => {
  opened = all("details.folded:not([open])");
  opened.forEach((one) => (one.open = true));
});
addEventListener("afterprint", () => opened.forEach((one) => (one.open = false)));
