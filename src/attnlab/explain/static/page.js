// Follows the token that is clicked: what belongs to it is marked, and the figure draws its flow.
const follow = (t) => {
  for (const e of document.querySelectorAll("[data-t]")) e.classList.toggle("on", e.dataset.t === t);
  document.dispatchEvent(new CustomEvent("followed", { detail: Number(t) }));
};
for (const b of document.querySelectorAll(".tokens button")) b.addEventListener("click", () => follow(b.dataset.t));
