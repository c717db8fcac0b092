// The captions of the menu are headings, as their role says; a heading has a level.
for (const caption of document.querySelectorAll("[role=heading]:not([aria-level])")) {
  caption.setAttribute("aria-level", "2");
}
// What is wider than the page scrolls by itself; with the keyboard, too.
for (const box of document.querySelectorAll(".table-wrapper, pre")) {
  if (box.scrollWidth <= box.clientWidth) continue;
  box.tabIndex = 0;
  box.classList.add("scrolls");
  box.setAttribute("role", "region");
  box.setAttribute("aria-label", box.tagName === "PRE" ? "Code that scrolls" : "Table that scrolls");
}
