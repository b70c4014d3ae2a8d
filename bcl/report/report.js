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
// Charts are saved as they are drawn, on white; charts and tables also as their numbers.
{
  const nameOf = (text) => text.trim().toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-");
  function offer(after, name, ways) {
    const bar = document.createElement("span");
    bar.className = "saves";
    for (const [kind, act] of Object.entries(ways)) {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = kind;
      made.setAttribute("aria-label", `Save ${name.trim()} as ${kind}`);
      made.addEventListener("click", act);
      bar.append(made);
    }
    after(bar);
  }
  function standalone(svg) { // with a size and a ground of its own
    const copy = svg.cloneNode(true);
    const { width, height } = svg.viewBox.baseVal;
    copy.setAttribute("width", width);
    copy.setAttribute("height", height);
    for (const mark of copy.querySelectorAll("[data-tip]")) mark.removeAttribute("data-tip");
    for (const key of ["data-columns", "data-values"]) copy.removeAttribute(key);
    const ground = document.createElementNS(copy.namespaceURI, "rect");
    for (const [key, value] of [["width", "100%"], ["height", "100%"], ["fill", "#fff"]]) {
      ground.setAttribute(key, value);
    }
    copy.querySelector("desc").after(ground);
    return { text: new XMLSerializer().serializeToString(copy), width, height };
  }
  async function toPng(svg, name) {
    const { text, width, height } = standalone(svg), image = new Image(), scale = 3;
    image.src = URL.createObjectURL(new Blob([text], { type: "image/svg+xml" }));
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width * scale, height * scale];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save(`${name}.png`, blob, "image/png"));
  }
  for (const svg of document.querySelectorAll("svg[data-columns]")) {
    const title = svg.querySelector("title").textContent, name = nameOf(title);
    const marks = [...svg.querySelectorAll("[data-tip]")].map((mark) => mark.dataset.tip);
    const rows = (svg.dataset.values?.split("\n") ?? marks).map((row) => row.split("\t"));
    offer((bar) => svg.after(bar), title, {
      SVG: () => save(`${name}.svg`, standalone(svg).text, "image/svg+xml"),
      PNG: () => toPng(svg, name),
      CSV: () => saveRows(name, [svg.dataset.columns.split("\t"), ...rows]),
    });
  }
  // A number's interval stands in a column of its own.
  const interval = (cell) => cell.querySelector("td > small")?.textContent.trim() ?? "";
  function number(cell) {
    const copy = cell.cloneNode(true);
    for (const each of copy.querySelectorAll("td > small, abbr")) each.remove();
    return copy.textContent.trim().replace(/\s+/g, " ");
  }
  function rowsOf(table) {
    const body = [...table.tBodies[0].rows], head = [...table.tHead.rows[0].cells];
    const wide = head.map((_, i) => body.some((row) => row.cells[i] && interval(row.cells[i])));
    const line = (cells, second) => cells.flatMap((cell, i) => (wide[i] ? [number(cell), second(cell)] : [number(cell)]));
    return [line(head, (cell) => `${number(cell)}, interval`), ...body.map((row) => line([...row.cells], interval))];
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const name = table.parentElement.getAttribute("aria-label");
    const after = (bar) => (table.caption ? table.caption.append(bar) : table.parentElement.after(bar));
    offer(after, name, { CSV: () => saveRows(nameOf(name), rowsOf(table)) });
  }
}
