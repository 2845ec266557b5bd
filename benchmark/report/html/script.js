"use strict";
// A cell's number is the first in it; without one it is last either way.
const number = (cell) => {
  const found = cell.textContent.replaceAll(",", "").match(/-?\d+(\.\d+)?(e[+-]?\d+)?/i);
  return found ? Number(found[0]) : null;
};

const sort = (head) => {
  const table = head.closest("table"), body = table.tBodies[0], place = head.cellIndex;
  const descending = head.ariaSort === "ascending" || (head.ariaSort === null && head.textContent.includes("↑"));
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const turn = descending ? -1 : 1;
  const value = (row) => {
    if (row.cells[0].querySelector("em")) return null; // a reference row, which is no entrant
    return place ? number(row.cells[place]) : row.cells[0].textContent;
  };
  const keyed = [...body.rows].map((row) => [value(row), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return turn * (place ? a - b : a.localeCompare(b));
  });
  body.append(...keyed.map(([, row]) => row));
};

for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(head));
  head.append(button);
}

const search = document.querySelector(".filter input"), status = document.querySelector(".filter [role=status]");
search.addEventListener("input", () => {
  const words = search.value.toLowerCase().split(",").map((word) => word.trim()).filter(Boolean);
  let shown = 0;
  for (const row of document.querySelectorAll("tbody tr")) {
    const label = row.cells[0].textContent.toLowerCase();
    row.hidden = words.length > 0 && !words.some((word) => label.includes(word));
    shown += !row.hidden;
  }
  status.textContent = words.length ? `${shown} rows in all tables` : "";
});

for (const chosen of document.querySelectorAll(".pareto select")) {
  chosen.addEventListener("change", () => {
    for (const figure of chosen.closest(".pareto").querySelectorAll("figure")) {
      figure.hidden = figure.dataset.score !== chosen.value;
    }
  });
}
