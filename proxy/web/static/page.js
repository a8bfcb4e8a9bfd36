// What a script adds: copying, times of day in the reader's own zone, a tidier history. The page works without it.
"use strict";

for (const button of document.querySelectorAll("[data-copy]")) {
  const source = document.getElementById(button.dataset.copy);
  const told = document.getElementById(button.dataset.tell);
  if (!navigator.clipboard || !source) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(source.textContent.trim());
    button.textContent = button.dataset.done;
    if (told) told.textContent = button.dataset.done;
  });
}

// Leaving the page that showed an app password takes its place in the history: Back leads past it.
for (const link of document.querySelectorAll("a[data-replace]")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    window.location.replace(link.href);
  });
}

const format = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium", timeStyle: "short" });
for (const time of document.querySelectorAll("time[data-local]")) {
  const at = new Date(time.dateTime);
  if (Number.isNaN(at.getTime())) continue;
  time.title = time.textContent.trim();
  time.textContent = format.format(at);
}

// A browser may keep a page in memory and show it again: then the password is not on it any more.
window.addEventListener("pagehide", () => {
  for (const secret of document.querySelectorAll("[data-secret]")) secret.remove();
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) window.location.reload();
});

// A second click while the first is under way sends nothing (and would make nothing: the form counts once).
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", () => {
    for (const button of form.querySelectorAll("button")) button.disabled = true;
  });
}
