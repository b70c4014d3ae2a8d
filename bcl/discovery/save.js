"use strict";
// Files that a page gives: a name and its bytes, and rows as comma-separated values.
function save(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
function saveRows(name, rows) {
  const cell = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = rows.map((row) => row.map((value) => cell(String(value))).join(","));
  save(`${name}.csv`, `${lines.join("\n")}\n`, "text/csv");
}
