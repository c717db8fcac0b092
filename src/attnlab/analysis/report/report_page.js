"use strict";
// Tables that sort by a click on a heading, hints at once on pointing, and boxes that scroll by keyboard.

const SIZES = { k: 1e3, M: 1e6, G: 1e9, T: 1e12 };

/** The number that a cell begins with, null if there is none: "[-0.1, +0.2]" is -0.1, "3.2M (+1.0 %)" is 3200000. */
function leading(text) {
  const match = /^[[<]?([+-]?\d[\d,]*\.?\d*(?:e[+-]?\d+)?)([kMGT]?)/.exec(text.trim());
  return match ? Number(match[1].replace(/,/g, "")) * (SIZES[match[2]] ?? 1) : null;
}

/** Order two cells; what is empty stands last either way. */
function order(one, other, numbers, sign) {
  if (!one || !other) return one ? -1 : other ? 1 : 0;
  if (numbers) return sign * (leading(one) - leading(other));
  return sign * one.localeCompare(other, undefined, { numeric: true });
}

function sortBy(table, column, heading) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const cell = (row) => row.cells[column].textContent.trim();
  const numbers = rows.every((row) => !cell(row) || leading(cell(row)) !== null);
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  rows.sort((one, other) => order(cell(one), cell(other), numbers, down ? -1 : 1));
  body.append(...rows);
}

for (const table of document.querySelectorAll("table")) {
  if (!table.tHead || table.tBodies[0].rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => sortBy(table, column, heading));
  });
}

const hint = document.createElement("div");
hint.id = "hint";
hint.hidden = true;
hint.setAttribute("aria-hidden", "true"); // the captions and tables say the same to those who do not point
document.body.append(hint);
for (const title of document.querySelectorAll("svg title")) {
  title.parentNode.dataset.hint = title.textContent;
  title.remove(); // or the browser would show it a second time
}
document.addEventListener("pointerover", (event) => {
  const mark = event.target.closest?.("[data-hint]");
  hint.hidden = !mark;
  if (mark) hint.textContent = mark.dataset.hint;
});
document.addEventListener("pointermove", (event) => {
  if (hint.hidden) return;
  const left = Math.min(event.clientX + 14, innerWidth - hint.offsetWidth - 4);
  const above = event.clientY + 18 + hint.offsetHeight > innerHeight;
  hint.style.left = `${Math.max(4, left)}px`;
  hint.style.top = `${above ? event.clientY - hint.offsetHeight - 8 : event.clientY + 18}px`;
});

function letScroll() {
  for (const box of document.querySelectorAll(".wide, pre")) {
    const scrolls = box.scrollWidth > box.clientWidth;
    if (scrolls) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
    box.toggleAttribute("data-scrolls", scrolls);
  }
}
letScroll();
addEventListener("resize", letScroll);
