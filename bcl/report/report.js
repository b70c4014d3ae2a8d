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
// One tip for all marks: under the mouse, or beside the finger that taps near one.
{
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  const FEW = 600; // marks of a chart among which the nearest is searched
  function nearest(event, reach) {
    const own = event.target.closest?.("[data-tip]");
    if (own) return own;
    const marks = event.target.closest?.("svg[data-columns]")?.querySelectorAll("[data-tip]") ?? [];
    let best = null, least = reach;
    for (const mark of marks.length > FEW ? [] : marks) {
      const box = mark.getBoundingClientRect();
      if (!box.width) continue; // hidden
      const [x, y] = [box.left + box.width / 2, box.top + box.height / 2];
      const away = Math.hypot(x - event.clientX, y - event.clientY);
      if (away < least) [best, least] = [mark, away];
    }
    return best;
  }
  function tell(event) {
    const mark = nearest(event, event.pointerType === "mouse" ? 12 : 30);
    tip.hidden = !mark;
    if (!mark) return;
    const columns = mark.closest("svg")?.dataset.columns?.split("\t");
    const lines = mark.dataset.tip.split("\t").map((value, i) => {
      const line = document.createElement("div");
      line.textContent = columns ? `${columns[i]}: ${value}` : value;
      return value && line;
    });
    tip.replaceChildren(...lines.filter(Boolean));
    const [wide, high] = [tip.offsetWidth, tip.offsetHeight];
    const left = event.clientX + 14 + wide > innerWidth ? event.clientX - 14 - wide : event.clientX + 14;
    const above = event.clientY - high - 14;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${above < 4 ? event.clientY + 18 : above}px`;
  }
  document.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") tell(event); });
  document.addEventListener("pointerup", tell);
  document.addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hidden = true; });
}
// A cell of a confusion matrix shows its images below the table.
for (const cell of document.querySelectorAll("[data-rows]")) {
  cell.addEventListener("click", () => {
    const panel = cell.closest(".matrix").querySelector(".answers");
    panel.hidden = false;
    panel.querySelector("p").textContent = cell.getAttribute("aria-label");
    const rows = cell.dataset.rows.split(",").map(Number);
    panel.querySelector(".strip").replaceChildren(...rows.map((row) => button(row, "medium")));
    panel.scrollIntoView({ block: "nearest" });
  });
}
