"use strict";
// Tables sort by their column headings; without script the page reads the same.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const body = table.tBodies[0];
      const key = (row) => {
        const cell = row.cells[column];
        const text = cell.dataset.value ?? cell.textContent.trim();
        const value = parseFloat(text);
        return Number.isNaN(value) ? text : value;
      };
      // The largest number first, but names from A on.
      const numbers = [...body.rows].some((row) => typeof key(row) === "number");
      const before = heading.getAttribute("aria-sort");
      const up = before ? before === "descending" : !numbers;
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
        const order = typeof x === "number" ? x - y : x.localeCompare(y);
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}
// A run's entry in a legend hides its marks in all charts, and shows them again.
for (const entry of document.querySelectorAll(".legend li")) {
  const button = document.createElement("button");
  const run = entry.dataset.run;
  button.type = "button";
  button.setAttribute("aria-pressed", "true");
  button.title = "Show or hide this run in the charts";
  button.append(...entry.childNodes);
  entry.append(button);
  button.addEventListener("click", () => {
    const hidden = button.getAttribute("aria-pressed") === "true";
    for (const marks of document.querySelectorAll(`svg [class*="run${run}x"]`)) {
      marks.style.display = hidden ? "none" : "";
    }
    for (const other of document.querySelectorAll(`.legend li[data-run="${run}"] button`)) {
      other.setAttribute("aria-pressed", String(!hidden));
    }
  });
}
