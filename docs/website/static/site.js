// What is wider than the page scrolls by itself; with the keyboard, too.
for (const box of document.querySelectorAll(".table-wrapper, pre")) {
  if (box.scrollWidth <= box.clientWidth) continue;
  box.tabIndex = 0;
  box.classList.add("scrolls");
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", box.tagName === "PRE" ? "Code that scrolls" : "Table that scrolls");
}
