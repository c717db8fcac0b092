// Follows the token that is clicked: what belongs to it is marked, and the tables of one token are its own.
const follow = (t) => {
  for (const e of document.querySelectorAll("[data-t]")) e.classList.toggle("on", e.dataset.t === t);
};
for (const b of document.querySelectorAll(".tokens button")) b.addEventListener("click", () => follow(b.dataset.t));
