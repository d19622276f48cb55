"use strict";
// Sorts and filters the table of scenarios. Without it, everything is there in the order of the page.
(() => {
  const table = document.getElementById("table");
  const rows = [...table.tBodies];
  const find = (id) => document.getElementById(id);
  const filter = find("filter"), verdict = find("verdict"), shown = find("shown");
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
    shown.textContent = `${count} of ${rows.length} shown`;
  }

  function value(row, column, kind) {
    const cell = row.rows[0].cells[column];
    if (kind === "text") return cell.textContent;
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  }

  function sort(header, column) {
    const kind = header.dataset.sort;
    const first = kind === "text" || column === 1 && verdict ? "ascending" : "descending";
    const other = first === "ascending" ? "descending" : "ascending";
    const direction = header.getAttribute("aria-sort") === first ? other : first;
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

  [...table.tHead.rows[0].cells].forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => sort(header, column));
  });
  filter.addEventListener("input", apply);
  if (verdict) verdict.addEventListener("change", apply);
  for (const link of document.querySelectorAll("a[data-verdict]")) {
    link.addEventListener("click", () => { verdict.value = link.dataset.verdict; apply(); });
  }
  function follow() {
    const row = find(location.hash.slice(1));
    if (!rows.includes(row)) return;
    row.querySelector("details").open = true;
    if (row.hidden) {
      filter.value = "";
      if (verdict) verdict.value = "";
      apply();
    }
    row.scrollIntoView();
  }

  addEventListener("hashchange", follow);
  table.classList.add("scripted");
  filter.closest("[hidden]").hidden = false;
  apply();
  follow();
})();
