"use strict";
// What the pages do beyond plain HTML: local times, live regions, arrow keys in grids. Everything works without it, too.
(() => {
  const LOOK_ANYWAY = 10000; // milliseconds; with a stream, for what it does not tell of
  const APART = 500; // between two refreshes, however much happens

  const localTimes = (root) => {
    for (const time of root.querySelectorAll("time[datetime]:not([data-local])")) {
      const at = new Date(time.dateTime);
      const two = (number) => String(number).padStart(2, "0");
      const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
      time.textContent =
        time.dataset.form === "clock" ? clock : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock}`;
      time.dataset.local = "";
    }
  };

  // --- live regions: each asks for itself again when it gets the event "refresh" ---
  const kept = new Map(); // what somebody has opened, ticked or scrolled in a region, over its replacement
  const keep = (region) => {
    const focused = region.contains(document.activeElement) ? document.activeElement : null;
    kept.set(region.id, {
      open: [...region.querySelectorAll("details[id]")].map((one) => [one.id, one.open]),
      ticked: [...region.querySelectorAll("input[type=checkbox]:checked")].map((one) => one.value),
      places: [...region.querySelectorAll(".scroll, pre")].map((one) => [
        one.scrollLeft,
        one.scrollTop,
        one.scrollHeight - one.scrollTop - one.clientHeight < 4,
      ]),
      focus: focused ? [...region.querySelectorAll("a, button, input, [tabindex]")].indexOf(focused) : -1,
    });
  };
  const restore = (region) => {
    const before = kept.get(region.id);
    if (!before) return;
    for (const [id, open] of before.open) {
      const details = document.getElementById(id);
      if (details) details.open = open;
    }
    for (const box of region.querySelectorAll("input[type=checkbox]")) box.checked = before.ticked.includes(box.value);
    region.querySelectorAll(".scroll, pre").forEach((one, number) => {
      const [left, top, atEnd] = before.places[number] || [0, 0, true];
      one.scrollLeft = left;
      one.scrollTop = one.matches(".log") && atEnd ? one.scrollHeight : top;
    });
    if (before.focus >= 0) region.querySelectorAll("a, button, input, [tabindex]")[before.focus]?.focus({ preventScroll: true });
  };

  let refreshedAt = 0;
  let took = 0; // milliseconds for the last refresh: whoever is slow is asked less often
  let planned = 0;
  const refresh = () => {
    planned = 0;
    refreshedAt = Date.now();
    if (document.hidden) return;
    for (const region of document.querySelectorAll("[data-region]")) htmx.trigger(region, "refresh");
  };
  const refreshSoon = () => {
    planned ||= setTimeout(refresh, Math.max(0, refreshedAt + Math.max(APART, 4 * took) - Date.now()));
  };

  const follow = (main) => {
    const pulse = document.getElementById("pulse");
    const poll = Number(main.dataset.poll); // milliseconds between two looks, without a stream
    let source = null;
    let streams = false;
    let ended = !main.dataset.events || !window.EventSource;
    const tell = (is) => {
      streams = is;
      pulse.className = is ? "on" : "";
      pulse.textContent = is ? main.dataset.live : "";
    };
    const close = () => {
      source?.close();
      source = null;
      tell(false);
    };
    // Browsers keep few connections to a server open: a page that nobody looks at must not hold one.
    const open = () => {
      if (ended || source || document.hidden) return;
      source = new EventSource(main.dataset.events);
      source.onopen = () => tell(true);
      source.onerror = () => tell(false);
      for (const name of ["status", "task", "log"]) source.addEventListener(name, refreshSoon);
      source.addEventListener("end", () => {
        ended = true;
        close();
        refreshSoon();
      });
    };
    setInterval(() => {
      if (Date.now() - refreshedAt >= Math.max(4 * took, streams ? LOOK_ANYWAY : poll)) refreshSoon();
    }, 500);
    window.addEventListener("pagehide", close);
    window.addEventListener("pageshow", open);
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) close();
      else {
        open();
        refreshSoon();
      }
    });
    open();
  };

  // --- the grid: arrow keys move between its cells, only one of which is in the order of the tab key ---
  const move = (event) => {
    const grid = event.target.closest && event.target.closest("svg.grid");
    if (!grid) return;
    const cells = [...grid.querySelectorAll("a")];
    const columns = Math.round(grid.viewBox.baseVal.width / 12);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -cells.length, End: cells.length };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const at = cells.indexOf(event.target.closest("a"));
    const to = Math.min(cells.length - 1, Math.max(0, at + step));
    cells[at]?.setAttribute("tabindex", "-1");
    cells[to].setAttribute("tabindex", "0");
    cells[to].focus();
  };

  const selectAll = (root) => {
    const head = root.querySelector(".tasks thead th .unseen");
    if (!head || head.parentElement.querySelector("input")) return;
    const box = document.createElement("input");
    box.type = "checkbox";
    box.setAttribute("aria-label", head.textContent);
    box.addEventListener("change", () => {
      for (const one of document.querySelectorAll(".tasks tbody input[type=checkbox]")) one.checked = box.checked;
    });
    head.after(box);
  };

  document.documentElement.classList.add("with-scripts");
  localTimes(document);
  selectAll(document);
  for (const log of document.querySelectorAll(".log")) log.scrollTop = log.scrollHeight;
  document.addEventListener("keydown", move);
  document.body.addEventListener("htmx:beforeSwap", (event) => keep(event.detail.target));
  document.body.addEventListener("htmx:afterSettle", (event) => {
    const region = document.getElementById(event.detail.elt.id);
    if (!region) return;
    localTimes(region);
    selectAll(region);
    restore(region);
  });
  document.body.addEventListener("htmx:responseError", (event) => {
    if (event.detail.xhr.status === 401) location.reload(); // the token has expired: ask for another one
  });
  document.body.addEventListener("htmx:afterRequest", (event) => {
    took = Date.now() - refreshedAt;
    const time = document.querySelector("#as-of time");
    if (!event.detail.successful || !time) return;
    time.dateTime = new Date().toISOString();
    time.title = `${time.dateTime.slice(0, 19).replace("T", " ")} UTC`;
    delete time.dataset.local;
    localTimes(time.parentElement);
  });
  const main = document.querySelector("main");
  if (document.querySelector("[data-region]")) follow(main);
})();
