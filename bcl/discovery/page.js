// Data, thumbnails and the panel of the selected image; map.js draws the map.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function numbers(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Kind(bytes.buffer);
}

const sizes = numbers(data.sizes, Uint32Array); // (N, 2)
const label = numbers(data.label, Uint16Array); // 0: none
const rootOf = numbers(data.root_of, Uint8Array); // in data.roots
// A map places the first images of the page, by one encoder; clusters and neighbors may be absent.
const maps = data.maps.map((map) => ({
  name: map.name,
  places: numbers(map.places, Uint16Array), // (n, 2)
  clusters: numbers(map.clusters, Uint16Array),
  near: numbers(map.neighbors, Uint32Array), // (n, width)
  width: map.width,
  signals: new Map(Object.entries(map.signals).map(([name, text]) => [name, numbers(text, Uint8Array)])),
}));
let shown = maps[0];
const TITLES = new Map([ // no object: a signal may be named "constructor"
  ["neighbor_distance_10", "distance to the 10 nearest"],
  ["neighbor_distance_1", "distance to the nearest"],
  ["momentum_loss", "momentum loss"], ["score", "memorization score"],
]);
const titleOf = (name) => TITLES.get(name) ?? name.replaceAll("_", " ");

// Thumbnails: files one after the other; a row has one, or none on a large page.
const files = numbers(data.thumbnails.files, Uint8Array);
const ends = numbers(data.thumbnails.ends, Uint32Array);
const placeOf = new Map([...numbers(data.thumbnails.rows, Uint32Array)].map((row, i) => [row, i]));
const urls = new Map();

function thumbnail(row) {
  const place = placeOf.get(row);
  if (place === undefined) return null;
  if (!urls.has(row)) {
    const part = files.subarray(place ? ends[place - 1] : 0, ends[place]);
    urls.set(row, URL.createObjectURL(new Blob([part], { type: "image/webp" })));
  }
  return urls.get(row);
}

function fileUrl(row) {
  const root = data.roots[rootOf[row]];
  return root && root + data.paths[row].split("/").map(encodeURIComponent).join("/");
}

function fill(button) {
  const row = Number(button.dataset.row);
  const url = thumbnail(row) ?? fileUrl(row);
  if (url) button.style.backgroundImage = `url("${url}")`;
  button.title = data.paths[row];
}

function button(row, size) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = `thumb ${size}`;
  made.dataset.row = row;
  made.setAttribute("aria-label", data.paths[row]);
  fill(made);
  return made;
}

// Images get their pixels when they come near the screen.
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    fill(entry.target);
    watcher.unobserve(entry.target);
  }
}, { rootMargin: "600px" });
for (const each of document.querySelectorAll(".thumb")) watcher.observe(each);
addEventListener("beforeprint", () => document.querySelectorAll(".thumb").forEach(fill));

const inspector = byId("inspector");
let selected = -1;

function select(row) {
  selected = row;
  inspector.hidden = row < 0;
  document.dispatchEvent(new Event("selected"));
  if (row < 0) return;
  const image = new Image();
  const small = thumbnail(row);
  image.alt = data.paths[row];
  image.onerror = () => { if (small && image.src !== small) image.src = small; };
  image.src = fileUrl(row) || small || "";
  inspector.querySelector(".view").replaceChildren(image);
  inspector.querySelector(".path").textContent = data.paths[row];
  const facts = sizes.length ? [`${sizes[2 * row]} × ${sizes[2 * row + 1]} px`] : [];
  const { clusters, near, width, signals } = shown ?? { clusters: [], near: [], width: 0, signals: [] };
  if (row < clusters.length) facts.push(`cluster ${clusters[row] + 1}`);
  if (label.length && label[row]) facts.push(data.labels[label[row] - 1]);
  for (const [name, values] of signals) {
    if (row < values.length) facts.push(`${titleOf(name)}: above ${Math.floor(values[row] / 2.55)} %`);
  }
  inspector.querySelector(".facts-of").textContent = facts.join(" · ");
  const rows = [...near.slice(row * width, (row + 1) * width)];
  inspector.querySelector(".nearest").hidden = !rows.length;
  inspector.querySelector(".near").replaceChildren(...rows.map((other) => button(other, "small")));
}

document.addEventListener("click", (event) => {
  const thumb = event.target.closest(".thumb");
  if (thumb) select(Number(thumb.dataset.row));
});
document.addEventListener("keydown", (event) => { if (event.key === "Escape") select(-1); });
byId("close").addEventListener("click", () => select(-1));

async function copy(rows, from) {
  const text = rows.map((row) => data.paths[row]).join("\n");
  try {
    await navigator.clipboard.writeText(text);
  } catch { // pages from disk may lack the clipboard
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  const before = from.textContent;
  from.textContent = "Copied";
  setTimeout(() => { from.textContent = before; }, 1500);
}
for (const each of document.querySelectorAll("[data-copy]")) {
  each.addEventListener("click", () => copy(each.dataset.copy.split(",").map(Number), each));
}
