// Sorts a table by the clicked column. There is a body per level; the dense row's stays on top, and the rows of all
// others go into the last one.
for (const table of document.querySelectorAll("table.sortable")) {
  const bodies = [...table.tBodies].filter((one) => !one.classList.contains("dense"));
  const body = bodies[bodies.length - 1];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) =>
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const valueOf = (row) => (row.cells[column] && row.cells[column].dataset.sort) || undefined;
      const order = (a, b) => {
        const [x, y] = [valueOf(a), valueOf(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        const ascending = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return down ? -ascending : ascending;
      };
      if (body) body.append(...bodies.flatMap((one) => [...one.rows]).sort(order));
      table.classList.add("sorted");
    })
  );
}
addEventListener("beforeprint", () =>
  document.querySelectorAll("details").forEach((part) => {
    part.open = true;
  }));
