"use strict";
// Tables are sorted by their column heads. Without scripts they stand in the order that answers the question.
const ABSENT = new Set(["", "–", "missing"]);

function key(row, column) {
  const cell = row.cells[column].cloneNode(true);
  for (const note of cell.querySelectorAll(".note")) note.remove();
  const text = cell.textContent.trim();
  if (ABSENT.has(text)) return null;
  const number = parseFloat(text.replace(/[,\u2009\u202f]/g, "").replace(/^[−–]/, "-"));
  return Number.isNaN(number) || !/^[−–+-]?[\d.]/.test(text) ? text.toLowerCase() : number;
}

function sorted(rows, column, descending) {
  const keys = new Map(rows.map((row) => [row, key(row, column)]));
  const there = rows.filter((row) => keys.get(row) !== null);
  const numbers = there.every((row) => typeof keys.get(row) === "number");
  const compare = (a, b) =>
    numbers ? keys.get(a) - keys.get(b) : String(keys.get(a)).localeCompare(String(keys.get(b)), "en", { numeric: true });
  there.sort((a, b) => (descending ? -compare(a, b) : compare(a, b)));
  return [...there, ...rows.filter((row) => keys.get(row) === null)];
}

for (const table of document.querySelectorAll("table:not(.confusion)")) {
  const [body, head] = [table.tBodies[0], table.tHead?.rows];
  if (!body || body.rows.length < 2 || head?.length !== 1 || table.querySelector("[colspan], [rowspan]")) continue;
  const given = [...body.rows];
  [...head[0].cells].forEach((cell, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort";
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const next = { descending: "ascending", ascending: undefined }[cell.getAttribute("aria-sort")];
      const order = cell.hasAttribute("aria-sort") ? next : "descending";
      for (const other of head[0].cells) other.removeAttribute("aria-sort");
      if (order) cell.setAttribute("aria-sort", order);
      body.append(...(order ? sorted(given, column, order === "descending") : given));
    });
  });
}
