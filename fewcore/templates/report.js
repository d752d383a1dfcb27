// Tables sort by a click on a column's head: numbers from the largest, all else as text; a second click turns it round.
document.querySelectorAll("table.sorts").forEach((table) => {
  const body = table.tBodies[0];
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const numbers = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const up = before ? before === "descending" : !numbers;
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        const value = cell.dataset.sort;
        return value === undefined ? [cell.textContent.trim() === "" ? 2 : 1, cell.textContent.trim()] : [0, Number(value)];
      };
      const order = (a, b) => {
        const [left, right] = [key(a), key(b)];
        if (left[0] !== right[0]) return left[0] - right[0];
        const difference = left[0] === 0 ? left[1] - right[1] : left[1].localeCompare(right[1], undefined, { numeric: true });
        return up ? difference : -difference;
      };
      Array.from(body.rows).sort(order).forEach((row) => body.appendChild(row));
    });
  });
});
// What is to be typed can be copied.
document.querySelectorAll(".code").forEach((box) => {
  const code = box.querySelector("code");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
    } catch {
      getSelection().selectAllChildren(code); // a page that may not use the clipboard marks the text
      if (!document.execCommand("copy")) return;
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  box.prepend(button);
});
// What is folded away on a screen must be there on paper.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
