"use strict";
// Tables sort by the button in a heading; what has no value stays at the end either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows].map((row) => ({ row, value: row.cells[column].dataset.v }));
    const numbers = rows.every(({ value }) => value === undefined || (value !== "" && !Number.isNaN(Number(value))));
    rows.sort((a, b) => {
      if (a.value === undefined || b.value === undefined) return (a.value === undefined) - (b.value === undefined);
      const order = numbers ? a.value - b.value : a.value.localeCompare(b.value);
      return up ? order : -order;
    });
    table.tBodies[0].append(...rows.map(({ row }) => row));
  }));
}

// Rejected labels by rule and domain.
const filter = document.querySelector(".filter");
if (filter) {
  const [rule, domain, shown] = ["by-rule", "by-domain", "shown"].map((id) => document.getElementById(id));
  const cards = [...document.querySelectorAll("#rejected-cards .card")];
  const apply = () => {
    for (const card of cards) {
      const fits = (!rule.value || JSON.parse(card.dataset.rules).includes(rule.value))
        && (!domain.value || card.dataset.domain === domain.value);
      card.hidden = !fits;
      if (!fits) card.querySelector("audio")?.pause();
    }
    const count = cards.filter((card) => !card.hidden).length;
    shown.value = count === cards.length ? `${count} shown` : `${count} of ${cards.length} shown`;
  };
  rule.addEventListener("change", apply);
  domain.addEventListener("change", apply);
  filter.hidden = false;
  apply();
}

// One voice at a time.
document.addEventListener("play", ({ target }) => {
  for (const other of document.querySelectorAll("audio")) if (other !== target) other.pause();
}, true);
document.documentElement.dataset.ready = "yes";
