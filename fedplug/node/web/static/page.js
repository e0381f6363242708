// Live parts, and small conveniences. Every page does its work without this file.
"use strict";

// Put a new version of a part in the place of the old one; who stood in it with the keyboard stays there.
function renew(part, html) {
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const mark = focused && (focused.id || focused.getAttribute("href"));
  part.innerHTML = html;
  if (mark) {
    const again = [...part.querySelectorAll("a[href], button, [id]")]
      .find((each) => each.id === mark || each.getAttribute("href") === mark);
    (again || document.getElementById("main")).focus({ preventScroll: true });
  }
}

function follow() {
  const parts = [...document.querySelectorAll("[data-live]")];
  if (!parts.length || !window.EventSource) return;
  const names = new Set(parts.map((part) => part.dataset.live));
  const address = "/live?" + [...names].map((name) => "part=" + encodeURIComponent(name)).join("&");
  const lost = document.getElementById("lost");
  const news = document.getElementById("news");
  let stream = null;

  function open() {
    stream = new EventSource(address);
    stream.onopen = () => { lost.hidden = true; document.documentElement.dataset.following = "yes"; };
    stream.onerror = () => { lost.hidden = false; };
    stream.addEventListener("part", (event) => {
      const { name, html } = JSON.parse(event.data);
      for (const part of parts) if (part.dataset.live === name) renew(part, html);
    });
    stream.addEventListener("say", (event) => {
      const line = document.createElement("p");
      line.textContent = JSON.parse(event.data).text;
      news.append(line);
      while (news.children.length > 3) news.firstChild.remove();
    });
    stream.addEventListener("bye", () => { stream.close(); location.reload(); });
  }

  // Browsers allow few connections to one server: pages that nobody looks at give theirs back.
  function shown() {
    if (document.hidden) { if (stream) stream.close(); stream = null; }
    else if (!stream) open();
  }
  document.addEventListener("visibilitychange", shown);
  window.addEventListener("pagehide", () => { if (stream) stream.close(); stream = null; });
  window.addEventListener("pageshow", shown);
  shown();
}

function conveniences() {
  // All columns at once.
  for (const button of document.querySelectorAll("button[data-check]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      for (const box of document.querySelectorAll(button.dataset.check)) box.checked = button.dataset.to === "on";
    });
  }
}

// Line numbers beside a text that is written here, and a way from a problem to its line.
function lines() {
  const text = document.querySelector(".numbered textarea");
  if (!text) return;
  const gutter = document.createElement("pre");
  gutter.setAttribute("aria-hidden", "true");
  text.before(gutter);
  function count() {
    const number = text.value.split("\n").length;
    gutter.textContent = Array.from({ length: number }, (_, index) => index + 1).join("\n");
    gutter.scrollTop = text.scrollTop;
  }
  text.addEventListener("input", count);
  text.addEventListener("scroll", () => { gutter.scrollTop = text.scrollTop; });
  count();
  for (const way of document.querySelectorAll("a[data-line]")) {
    way.addEventListener("click", (event) => {
      event.preventDefault();
      const before = text.value.split("\n").slice(0, Number(way.dataset.line) - 1).join("\n");
      const start = before.length + (way.dataset.line > 1 ? 1 : 0);
      const end = text.value.indexOf("\n", start);
      text.focus();
      text.setSelectionRange(start, end < 0 ? text.value.length : end);
      const height = text.scrollHeight / text.value.split("\n").length;
      text.scrollTop = Math.max(0, (way.dataset.line - 6) * height);
    });
  }
}

conveniences();
lines();
follow();
