// The map: pan, zoom, hover, lasso. Positions are in [0, 1]; `view` turns them into pixels.
{
  const canvas = byId("canvas"), draw2d = canvas.getContext("2d");
  const hover = byId("hover"), colorBy = byId("color"), showing = byId("show-thumbnails");
  const total = shown.places.length / 2; // of every map
  const xs = new Float32Array(total), ys = new Float32Array(total);
  const view = { scale: 1, x: 0, y: 0 };
  const images = new Map(); // row: decoded thumbnail
  const CELL = 52; // pixels per thumbnail
  let width = 0, height = 0, due = false, lassoing = false, loop = [], inside = [];

  // Points by cell of a grid, for hover and lasso.
  const GRID = 128, cells = Array.from({ length: GRID * GRID }, () => []);
  const cellOf = (v) => Math.min(GRID - 1, Math.max(0, Math.floor(v * GRID)));
  function settle() {
    for (const cell of cells) cell.length = 0;
    for (let i = 0; i < total; i++) {
      xs[i] = shown.places[2 * i] / 65535;
      ys[i] = shown.places[2 * i + 1] / 65535;
      cells[cellOf(ys[i]) * GRID + cellOf(xs[i])].push(i);
    }
  }
  settle();

  const toX = (i) => xs[i] * view.scale + view.x;
  const toY = (i) => ys[i] * view.scale + view.y;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // --- colors: ten of the page's, or a ramp from pale to strong -----------------------------
  function offer() { // what this map can be colored by
    const names = [...shown.signals.keys()].map((name) => [name, titleOf(name)]);
    if (data.labels.length) names.unshift(["label", data.label_title]);
    if (shown.clusters.length) names.unshift(["cluster", "cluster"]);
    const before = colorBy.value;
    colorBy.replaceChildren(...names.map(([value, text]) => new Option(text, value)));
    if (names.some(([value]) => value === before)) colorBy.value = before;
  }
  offer();
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let palette = [], colorOf = new Uint16Array(total);

  function recolor() {
    const kind = colorBy.value, ten = Array.from({ length: 10 }, (_, i) => css(`--c${i}`));
    if (kind === "cluster" || kind === "label") {
      palette = [...ten, css("--line")];
      for (let i = 0; i < total; i++) {
        colorOf[i] = kind === "cluster" ? shown.clusters[i] % 10 : label[i] ? (label[i] - 1) % 10 : 10;
      }
    } else {
      const [from, to] = dark.matches ? [[58, 70, 96], [255, 196, 84]] : [[196, 208, 224], [176, 36, 24]];
      palette = Array.from({ length: 32 }, (_, k) =>
        `rgb(${from.map((a, c) => Math.round(a + (to[c] - a) * (k / 31) ** 2)).join(",")})`);
      const values = shown.signals.get(kind);
      for (let i = 0; i < total; i++) colorOf[i] = values[i] >> 3;
    }
    explain(kind);
    redraw();
  }

  function explain(kind) {
    const legend = byId("legend");
    legend.replaceChildren();
    const entry = (color, text) => {
      const item = document.createElement("span"), dot = document.createElement("i");
      dot.style.background = color;
      item.append(dot, text);
      legend.append(item);
    };
    if (kind === "label") data.labels.slice(0, 40).forEach((name, i) => entry(palette[i % 10], name));
    else if (kind === "cluster") {
      const many = shown.clusters.reduce((a, b) => Math.max(a, b), 0) + 1;
      for (let i = 0; i < Math.min(many, 10); i++) entry(palette[i], `${i + 1}`);
      if (many > 10) legend.append("… colors repeat");
    } else {
      const ramp = document.createElement("i");
      ramp.className = "ramp";
      ramp.style.background = `linear-gradient(90deg, ${palette.join(",")})`;
      legend.append(data.ramp[0], ramp, data.ramp[1]);
    }
  }

  // --- drawing ------------------------------------------------------------------------------
  function redraw() {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; paint(); });
  }

  function paint() {
    const ratio = devicePixelRatio || 1;
    draw2d.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw2d.clearRect(0, 0, width, height);
    const zoom = view.scale / Math.min(width, height);
    const size = Math.min(7, (total > 20000 ? 1.6 : total > 3000 ? 2.6 : 4) * Math.sqrt(zoom));
    const byColor = palette.map(() => []);
    const taken = new Map(); // cell of the screen: the image shown there
    for (let i = 0; i < total; i++) {
      const x = toX(i), y = toY(i);
      if (x < -CELL || y < -CELL || x > width + CELL || y > height + CELL) continue;
      byColor[colorOf[i]].push(x, y);
      // The map's own cells, not the screen's, so that thumbnails stay while it is dragged.
      const step = CELL * 1.15;
      const key = `${Math.floor((x - view.x) / step)},${Math.floor((y - view.y) / step)}`;
      if (showing.checked && !taken.has(key) && placeOf.has(i)) taken.set(key, i);
    }
    byColor.forEach((points, color) => {
      draw2d.fillStyle = palette[color];
      for (let p = 0; p < points.length; p += 2) {
        draw2d.fillRect(points[p] - size / 2, points[p + 1] - size / 2, size, size);
      }
    });
    const small = zoom < 1.5 ? 26 : CELL - 8;
    for (const i of taken.values()) paintImage(i, small);
    for (const i of inside) ring(i, 3.5, css("--accent"), 1);
    if (selected >= 0) ring(selected, 9, css("--c3"));
    if (loop.length > 1) {
      draw2d.beginPath();
      loop.forEach(([x, y], k) => (k ? draw2d.lineTo(x, y) : draw2d.moveTo(x, y)));
      draw2d.closePath();
      draw2d.strokeStyle = css("--accent");
      draw2d.lineWidth = 2;
      draw2d.stroke();
    }
  }

  function paintImage(i, size) {
    let image = images.get(i);
    if (!image) {
      image = new Image();
      image.onload = redraw;
      image.src = thumbnail(i);
      images.set(i, image);
    }
    if (!image.complete || !image.naturalWidth) return;
    const x = toX(i) - size / 2, y = toY(i) - size / 2;
    draw2d.fillStyle = palette[colorOf[i]];
    draw2d.fillRect(x - 2, y - 2, size + 4, size + 4);
    draw2d.drawImage(image, x, y, size, size);
  }

  function ring(i, radius, color, line = 2) {
    draw2d.beginPath();
    draw2d.arc(toX(i), toY(i), radius, 0, 7);
    draw2d.strokeStyle = color;
    draw2d.lineWidth = line;
    draw2d.stroke();
  }

  // --- moving -------------------------------------------------------------------------------
  function whole() {
    const highest = ys.reduce((a, b) => Math.max(a, b), 0), widest = xs.reduce((a, b) => Math.max(a, b), 0);
    view.scale = Math.min((width - 60) / (widest || 1), (height - 60) / (highest || 1));
    view.x = (width - view.scale * widest) / 2;
    view.y = (height - view.scale * highest) / 2;
    redraw();
  }

  function zoomAt(x, y, factor) {
    const scale = Math.min(Math.max(view.scale * factor, 100), 400000);
    view.x = x - (x - view.x) * (scale / view.scale);
    view.y = y - (y - view.y) * (scale / view.scale);
    view.scale = scale;
    redraw();
  }

  function nearest(x, y, reach = 14) {
    let best = -1, least = reach * reach;
    const r = reach / view.scale, u = (x - view.x) / view.scale, v = (y - view.y) / view.scale;
    for (let row = cellOf(v - r); row <= cellOf(v + r); row++) {
      for (let column = cellOf(u - r); column <= cellOf(u + r); column++) {
        for (const i of cells[row * GRID + column]) {
          const distance = (toX(i) - x) ** 2 + (toY(i) - y) ** 2;
          if (distance < least) [best, least] = [i, distance];
        }
      }
    }
    return best;
  }

  const held = new Map(); // pointer: where it is
  let moved = 0;
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, at(event));
    moved = 0;
    loop = lassoing ? [at(event)] : [];
    hover.hidden = true;
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = at(event), before = held.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") point(x, y);
      return;
    }
    moved += Math.hypot(x - before[0], y - before[1]);
    if (lassoing) {
      loop.push([x, y]);
    } else if (held.size === 1) {
      view.x += x - before[0];
      view.y += y - before[1];
    } else {
      const other = [...held].find(([id]) => id !== event.pointerId)[1];
      const length = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]) || 1;
      zoomAt((x + other[0]) / 2, (y + other[1]) / 2, length([x, y]) / length(before));
    }
    held.set(event.pointerId, [x, y]);
    redraw();
  });
  const release = (event) => {
    const known = held.delete(event.pointerId);
    if (known && lassoing && loop.length > 3) enclose();
    else if (known && moved < 6 && held.size === 0 && event.type === "pointerup") {
      select(nearest(...at(event), 24));
    }
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => { hover.hidden = true; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(...at(event), Math.exp(-event.deltaY / 400));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [40, 0], ArrowRight: [-40, 0], ArrowUp: [0, 40], ArrowDown: [0, -40] }[event.key];
    if (step) [view.x, view.y] = [view.x + step[0], view.y + step[1]];
    else if (event.key === "+") zoomAt(width / 2, height / 2, 1.4);
    else if (event.key === "-") zoomAt(width / 2, height / 2, 1 / 1.4);
    else return;
    event.preventDefault();
    redraw();
  });

  function point(x, y) {
    const i = nearest(x, y, 20);
    hover.hidden = i < 0;
    if (i < 0) return;
    hover.replaceChildren(button(i, ""), data.paths[i]);
    hover.style.left = `${x > width / 2 ? Math.max(x - hover.offsetWidth - 14, 0) : x + 14}px`;
    hover.style.top = `${Math.min(y + 14, height - hover.offsetHeight - 4)}px`;
  }

  // --- lasso --------------------------------------------------------------------------------
  function enclosed(x, y) { // even-odd rule
    let odd = false;
    for (let a = 0, b = loop.length - 1; a < loop.length; b = a++) {
      const [ax, ay] = loop[a], [bx, by] = loop[b];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
    }
    return odd;
  }
  function enclose() {
    inside = [];
    for (let i = 0; i < total; i++) if (enclosed(toX(i), toY(i))) inside.push(i);
    loop = [];
    lasso(false);
    show();
  }
  function show() {
    byId("chosen").hidden = !inside.length;
    byId("count").textContent = `${inside.length.toLocaleString("en")} images in the lasso`;
    byId("some").replaceChildren(...inside.slice(0, 40).map((i) => button(i, "small")));
    byId("list").value = inside.map((i) => data.paths[i]).join("\n");
    redraw();
  }
  function lasso(on) {
    lassoing = on;
    byId("lasso").setAttribute("aria-pressed", String(on));
    canvas.classList.toggle("lasso", on);
  }
  byId("lasso").addEventListener("click", () => lasso(!lassoing));
  byId("closer").addEventListener("click", () => zoomAt(width / 2, height / 2, 1.6));
  byId("wider").addEventListener("click", () => zoomAt(width / 2, height / 2, 1 / 1.6));
  byId("whole").addEventListener("click", whole);
  byId("clear").addEventListener("click", () => { inside = []; show(); });
  byId("copy").addEventListener("click", (event) => copy(inside, event.currentTarget));
  byId("save").addEventListener("click", () => {
    saveRows("lasso", [["id", "path"], ...inside.map((i) => [i, data.paths[i]])]);
  });

  for (const [number, each] of maps.entries()) byId("map-of").add(new Option(each.name, number));
  byId("map-of").parentElement.hidden = maps.length < 2;
  byId("map-of").addEventListener("change", (event) => {
    shown = maps[event.target.value];
    settle();
    offer();
    recolor();
    whole();
    select(selected);
  });
  colorBy.addEventListener("change", recolor);
  showing.addEventListener("change", redraw);
  dark.addEventListener("change", recolor);
  document.addEventListener("selected", redraw);
  new ResizeObserver(() => {
    const [wide, high] = [width, height], ratio = devicePixelRatio || 1;
    if (!canvas.clientWidth || !canvas.clientHeight) return; // hidden, as on paper
    [width, height] = [canvas.clientWidth, canvas.clientHeight];
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    if (!wide) whole();
    else { // the same part of the map, in the middle as before
      const factor = Math.min(width, height) / Math.min(wide, high);
      view.x = width / 2 + (view.x - wide / 2) * factor;
      view.y = height / 2 + (view.y - high / 2) * factor;
      view.scale *= factor;
    }
    paint(); // at once: a canvas of a new size is empty
  }).observe(canvas);
  recolor();
}
