"use strict";
// Sorts and filters the table of scenarios, keeps both in the address, and writes the table as CSV. Without it,
// everything is there in the order of the page.
(() => {
  const table = document.getElementById("table");
  const rows = [...table.tBodies];
  const find = (id) => document.getElementById(id);
  const filter = find("filter"), verdict = find("verdict"), shown = find("shown");
  const reset = find("reset"), csv = find("csv"), headers = [...table.tHead.rows[0].cells];
  const texts = rows.map((row) => row.textContent.toLowerCase());

  function apply() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdicts = verdict && verdict.value ? verdict.value.split(" ") : null;
    let count = 0;
    rows.forEach((row, index) => {
      row.hidden = !words.every((word) => texts[index].includes(word))
        || (verdicts !== null && !verdicts.includes(row.dataset.verdict));
      count += !row.hidden;
    });
    shown.textContent = count || !rows.length ? `${count} of ${rows.length} shown` : "No scenario matches.";
    reset.hidden = count === rows.length;
  }

  // What is shown, as the fragment of the address: it is kept by a reload and can be sent to others.
  function keep() {
    const kept = new URLSearchParams();
    if (filter.value) kept.set("filter", filter.value);
    if (verdict && verdict.value) kept.set("verdict", verdict.value);
    const sorted = headers.find((header) => header.hasAttribute("aria-sort"));
    if (sorted) kept.set("sort", `${sorted.textContent} ${sorted.getAttribute("aria-sort")}`);
    history.replaceState(null, "", `#${kept}`);
  }

  function change() {
    apply();
    keep();
  }

  function value(row, column, kind) {
    const cell = row.rows[0].cells[column];
    if (kind === "text") return cell.textContent;
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  }

  function turn(header, column) {
    const first = header.dataset.sort === "text" || column === 1 && verdict ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    sort(header, column, header.getAttribute("aria-sort") === first ? other : first);
    keep();
  }

  function sort(header, column, direction) {
    const kind = header.dataset.sort;
    const sign = direction === "ascending" ? 1 : -1;
    for (const one of header.parentNode.cells) one.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction);
    const keyed = rows.map((row, index) => ({ row, index, key: value(row, column, kind) }));
    keyed.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null) || a.index - b.index;
      const order = kind === "text" ? a.key.localeCompare(b.key) : a.key - b.key;
      return sign * order || a.index - b.index;
    });
    table.append(...keyed.map((one) => one.row));
  }

  // A cell that a spreadsheet would take for a formula begins with an apostrophe; numbers are as they are.
  function cell(one) {
    const text = one.dataset.value ?? one.textContent.trim().replace(/^(?=[=+\-@\t])/, "'");
    return `"${text.replaceAll('"', '""')}"`;
  }

  function write() {
    const lines = [headers, ...[...table.tBodies].filter((row) => !row.hidden).map((row) => [...row.rows[0].cells])];
    const text = lines.map((cells) => cells.map(cell).join(",")).join("\r\n");
    csv.href = `data:text/csv;charset=utf-8,${encodeURIComponent(`${text}\r\n`)}`;
  }

  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => turn(header, column));
  });
  filter.addEventListener("input", change);
  if (verdict) verdict.addEventListener("change", change);
  csv.addEventListener("click", write);
  reset.addEventListener("click", () => { all(); keep(); filter.focus(); });
  for (const link of document.querySelectorAll("a[data-verdict]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      verdict.value = link.dataset.verdict;
      change();
      find("scenarios").scrollIntoView();
    });
  }

  function all() {
    filter.value = "";
    if (verdict) verdict.value = "";
    apply();
  }

  function follow() {
    const row = find(location.hash.slice(1));
    if (!rows.includes(row)) return restore();
    row.querySelector("details").open = true;
    if (row.hidden) all();
    row.scrollIntoView();
  }

  function restore() {
    const kept = new URLSearchParams(location.hash.slice(1));
    const [, title, direction] = /^(.*) (ascending|descending)$/.exec(kept.get("sort") ?? "") ?? [];
    const column = headers.findIndex((header) => header.textContent === title);
    if (column >= 0) sort(headers[column], column, direction);
    if (!kept.has("filter") && !kept.has("verdict")) return;
    filter.value = kept.get("filter") ?? "";
    if (verdict) verdict.value = kept.get("verdict") ?? "";
    apply();
  }

  addEventListener("hashchange", follow);
  table.classList.add("scripted");
  filter.closest("[hidden]").hidden = false;
  apply();
  follow();
})();
