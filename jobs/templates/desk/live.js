// Asks for the part of a running run's page again, until the run has ended. Nothing else.
"use strict";
const live = document.getElementById("live");
async function look() {
  try {
    const answer = await fetch(live.dataset.live, { credentials: "same-origin" });
    if (!answer.ok) return;
    const made = new DOMParser().parseFromString(await answer.text(), "text/html").body;
    const open = [...live.querySelectorAll("details")].map((one) => one.open);
    if (live.contains(document.activeElement)) { setTimeout(look, 4000); return; } // someone reads or uses it
    live.replaceChildren(...made.childNodes);
    live.querySelectorAll("details").forEach((one, at) => { one.open = open[at] ?? false; });
    if (live.querySelector(".state.waiting")) setTimeout(look, 4000);
  } catch { setTimeout(look, 8000); }
}
if (live && live.dataset.live) setTimeout(look, 4000);
