"use strict";
// What HTML and htmx cannot do alone: open and close the dialog, count what is selected, keys, a lost connection.

const $ = (selector, root = document) => root.querySelector(selector);
const dialog = $("#dialog");
const boxes = () => [...document.querySelectorAll(".list-form tbody [name=id]")];
let focusNext = () => {};

function countSelected() {
  if (!$("#selected")) return;
  const all = boxes();
  const selected = all.filter((box) => box.checked).length;
  for (const button of document.querySelectorAll("[data-batch]")) button.disabled = selected === 0;
  $("#selected").textContent = selected ? ` (${selected})` : "";
  const isEvery = selected > 0 && selected === all.length;
  if ($("#select-all")) Object.assign($("#select-all"), { checked: isEvery, indeterminate: selected > 0 && !isEvery });
}

function say(sentence) {
  const place = (dialog?.open && $("#dialog-messages")) || $("#messages");
  place.replaceChildren($("#lost").content.cloneNode(true));
  $("p", place).textContent = sentence;
}

// What opened the dialog gets the focus back from the browser. Where that is gone, its counterpart in the row or the next does.
function rememberRow(opener) {
  const row = opener.closest("tr") || (opener.matches("[data-batch]") && $(".list-form tr:has([name=id]:checked)"));
  const following = [];
  for (let next = row; next; next = next.nextElementSibling) following.push(next.id);
  const control = opener.matches(".operation a:first-child, th a") ? ".operation a" : opener.closest("tr") ? ".operation a:last-child" : "[name=id]";
  focusNext = () => {
    if (document.activeElement !== document.body && (!row || row.isConnected)) return;
    const next = following.map((id) => document.getElementById(id)).find(Boolean) || (row && $(".list-form tbody tr:last-child"));
    (next ? $(control, next) : $("[data-new]")).focus();
  };
}

document.addEventListener("htmx:after:swap", ({ detail: { ctx } }) => {
  if (ctx.target?.id === "groups-members") pickAgain();
  if (ctx.target === dialog) rememberForm();
  if (dialog?.childElementCount && !dialog.open && ctx.target === dialog) {
    rememberRow(document.activeElement);
    dialog.showModal();
  }
  if (ctx.sourceElement?.matches?.("[data-top]")) scrollTo(0, 0);
  freshen();
});

// What a form in the dialog holds when it is opened; what comes back to be mended is still the same form.
const guarded = () => $("form[data-ask]", dialog);
const held = (form) => JSON.stringify([...new FormData(form)].map(String).sort());
let opened = {};
function rememberForm() {
  const form = guarded();
  const address = form?.getAttribute("action"); // form.action is the button of that name
  if (form && !(dialog.open && address === opened.address)) opened = { address, values: held(form) };
}
function askFirst(event) {
  if (!guarded() || held(guarded()) === opened.values) return;
  event.preventDefault();
  $("#discard").showModal();
}
dialog?.addEventListener("cancel", (event) => event.target === dialog && askFirst(event));
// Chromium asks a page only once whether a dialog may be closed, until something else is pressed in it.
dialog?.addEventListener("keydown", (event) => event.key === "Escape" && !event.isComposing && askFirst(event));

// What is picked stays picked, even what was picked while the answer to the filter was under way.
let picked = new Set();
function countPicked() {
  const form = $("#groups-edit");
  if (!form) return;
  picked = new Set(new FormData(form).getAll("member"));
  $("#picked", form).textContent = picked.size;
}
function pickAgain() {
  const list = $("#groups-members");
  for (const input of list.querySelectorAll("[type=hidden]")) input.remove();
  const missing = new Set(picked);
  for (const box of list.querySelectorAll("[name=member]")) box.checked = missing.delete(box.value);
  for (const value of missing) list.append(Object.assign(document.createElement("input"), { type: "hidden", name: "member", value }));
}

// The server writes UTC; whoever reads it thinks in the time of the clock on the wall. Swedish writes as ISO 8601 does.
const clock = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" });
function showLocalTimes() {
  for (const time of document.querySelectorAll("time[datetime]:not([title])")) {
    time.title = time.textContent;
    time.textContent = clock.format(new Date(time.dateTime));
  }
}
const freshen = () => [countPicked, countSelected, showLocalTimes].forEach((act) => act());

document.addEventListener("dialog:close", () => {
  dialog.close();
  // What changed behind the modal dialog was not announced: put it in place again.
  requestAnimationFrame(() => $("#messages").append(...$("#messages").childNodes));
});
dialog?.addEventListener("close", () => {
  // The test may have ended before its result could be shown as waiting, which tells of the end.
  if ($("#notifications-result", dialog)) document.body.dispatchEvent(new Event("alerts:told"));
  dialog.replaceChildren();
  focusNext();
});

// What a proxy says while the console is away is not for the page.
document.addEventListener("htmx:before:swap", (event) => {
  const { response } = event.detail.ctx;
  if (response?.status < 500 || response?.headers.has("HX-Retarget")) return;
  event.preventDefault();
  say("The console does not answer. Nothing is lost: try again in a moment.");
});
const LOST = "The connection to the console is lost. Nothing is lost of what you typed: try again in a moment.";
document.addEventListener("htmx:error", () => say(LOST));

document.addEventListener("change", (event) => {
  const { id, checked } = event.target;
  if (id === "select-all") for (const box of boxes()) box.checked = checked;
  if (id === "keys-on") localStorage.setItem("keys", checked ? "on" : "off");
  freshen();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-close], [data-dismiss], [data-open], [data-copy], [data-discard]");
  if (!button || (button.matches("[data-close]") && !button.closest("dialog"))) return;
  if (button.matches("[data-close]")) event.preventDefault(), button.closest("dialog").close();
  else if (button.matches("[data-discard]")) button.closest("dialog").close(), dialog.close();
  else if (button.matches("[data-copy]")) {
    navigator.clipboard.writeText($("code", button.parentElement).textContent).then(() => {
      button.firstElementChild.textContent = "Copied";
      $("#messages").innerHTML = '<p class="visually-hidden">Copied.</p>';
    });
  } else if (button.matches("[data-dismiss]")) button.closest(".message").remove();
  else $(button.dataset.open).showModal();
});

$("#user-menu")?.addEventListener("focusout", ({ relatedTarget: next, currentTarget: menu }) => next && !menu.contains(next) && menu.hidePopover());

document.addEventListener("keydown", (event) => {
  if (event.key === " " && event.target.matches("a[role=button]")) return event.preventDefault(), event.target.click();
  if (event.target.closest("input:not([type=checkbox]), select, textarea") || $("dialog[open]")) return;
  if (event.ctrlKey || event.metaKey || event.altKey || localStorage.getItem("keys") === "off") return;
  const act = { "/": () => $("#q")?.select(), n: () => $("[data-new]")?.click(), "?": () => $("#keys")?.showModal() }[event.key];
  if (act) event.preventDefault(), act();
});

if ($("#keys-on")) $("#keys-on").checked = localStorage.getItem("keys") !== "off";
// Browsers let pages copy over HTTPS only.
for (const button of document.querySelectorAll("[data-copy]")) button.hidden = !navigator.clipboard;
freshen();
