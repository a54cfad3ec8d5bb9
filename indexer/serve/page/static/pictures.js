// Pictures of a page that the server filled: one that cannot be shown says why.

import { why } from "./api.js";
import { el } from "./view.js";

for (const img of document.querySelectorAll(".hit img")) {
  const tell = async () => {
    const none = el("span", { class: "none" }, "…");
    img.replaceWith(none);
    none.textContent = await why(img.src);
  };
  if (img.complete && img.naturalWidth === 0 && img.currentSrc) tell();
  else img.addEventListener("error", tell);
}
