"use strict";
// What HTML and htmx do not provide: opening the dialog, counts of selected rows, keyboard shortcuts, connection errors.

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const dialog = $("#dialog");
const boxes = () => $$(".list-form tbody [name=id]");
let focusNext = () => {};

function countSelected() {
  const all = boxes();
  const selected = all.filter((box) => box.checked).length;
  for (const button of $$("[data-batch]")) button.disabled = selected === 0;
  $("#selected")?.replaceChildren(selected ? ` (${selected})` : "");
  const state = { checked: selected === all.length, indeterminate: selected > 0 && selected < all.length };
  for (const box of $$("#select-all")) Object.assign(box, state);
}

function sayLost() {
  ($("dialog[open] #dialog-messages") ?? $("#messages")).replaceChildren($("#lost").content.cloneNode(true));
}

// The browser returns the focus to the element that opened the dialog. If it was removed, focus the same one in the next row.
function rememberRow(opener) {
  const row = opener.closest("tr") ?? (opener.matches("[data-batch]") && $(".list-form tbody tr:has(:checked)"));
  const index = row?.sectionRowIndex;
  const place = [...opener.parentElement.children].indexOf(opener) + 1;
  const control = opener.closest("tr") ? `.operation :nth-child(${place})` : "[name=id]";
  focusNext = () => {
    if (document.activeElement !== document.body && (!row || row.isConnected)) return;
    const next = row?.isConnected ? row : $$(".list-form tbody tr").slice(0, index + 1).at(-1);
    (next ? $(control, next) : $("[data-new]")).focus();
  };
}

document.addEventListener("htmx:after:swap", ({ detail: { ctx } }) => {
  if (ctx.target?.id === "groups-members") pickAgain();
  if (ctx.target === dialog && ctx.request.method === "GET") {
    opened = held();
    if (!dialog.open) rememberRow(document.activeElement);
    dialog.showModal();
  }
  freshen();
});

// The values of the dialog's form when it was opened; a response with validation errors is still the same form.
let opened = "";
const held = () => String([...new FormData($("form[data-ask]", dialog) ?? undefined)].sort());
function askFirst(event) {
  if (["", opened].includes(held())) return;
  event.preventDefault();
  Object.assign($("#discard"), { returnValue: "" }).showModal();
}
dialog?.addEventListener("cancel", askFirst);
// Chromium fires cancel only once until the next user interaction with the dialog, so handle Escape as well.
dialog?.addEventListener("keydown", (event) => event.key === "Escape" && !event.isComposing && askFirst(event));
$("#discard")?.addEventListener("close", ({ target }) => target.returnValue && dialog.close());

// Picked contacts stay picked, even those picked while the response to the filter was pending.
let picked = new Set();
function countPicked() {
  picked = new Set($$("#groups-members :checked").map(({ value }) => value));
  $("#picked")?.replaceChildren(picked.size);
}
function pickAgain() {
  for (const box of $$("#groups-members [type=checkbox]")) box.checked = picked.delete(box.value);
  $("#unseen").replaceChildren(...[...picked].map((id) => new Option(id, id, true, true)));
}

// The server renders UTC, but users expect local time. The Swedish locale formats dates as in ISO 8601.
const clock = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "short" });
function showLocalTimes() {
  for (const time of $$("time[datetime]:not([title])")) {
    time.title = time.textContent;
    time.textContent = clock.format(new Date(time.dateTime));
  }
}
const freshen = () => [countPicked, countSelected, showLocalTimes].forEach((act) => act());

document.addEventListener("dialog:close", () => {
  dialog.close();
  // Screen readers do not announce changes behind a modal dialog: insert the message again.
  requestAnimationFrame(() => $("#messages").append(...$("#messages").childNodes));
});
dialog?.addEventListener("close", () => {
  // If the test finished before its result was first shown, no response has triggered the refresh.
  if ($("#notifications-result", dialog)) document.body.dispatchEvent(new Event("notifications:changed"));
  dialog.replaceChildren();
  focusNext();
});

// Do not swap an error page of a proxy into the page while the console is down.
document.addEventListener("htmx:before:swap", (event) => {
  const { response } = event.detail.ctx;
  if (response?.status < 500 || response?.headers.has("HX-Retarget")) return;
  event.preventDefault();
  sayLost();
});
document.addEventListener("htmx:error", sayLost);

document.addEventListener("change", ({ target: { id, checked } }) => {
  if (id === "select-all") for (const box of boxes()) box.checked = checked;
  if (id === "keys-on") localStorage.setItem("keys", checked ? "on" : "off");
  freshen();
});

document.addEventListener("click", async ({ target }) => {
  target.closest("[data-dismiss]")?.closest(".message").remove();
  const button = target.closest("[data-copy]");
  if (!button) return;
  await navigator.clipboard.writeText($("code", button.parentElement).textContent);
  button.firstElementChild.textContent = "Copied";
  $("#messages").innerHTML = '<p class="visually-hidden">Copied.</p>';
});

$("#user-menu")?.addEventListener("focusout", ({ relatedTarget: next, currentTarget: menu }) => next && !menu.contains(next) && menu.hidePopover());

document.addEventListener("keydown", (event) => {
  if (event.target.closest("input:not([type=checkbox]), select, textarea") || $("dialog[open]")) return;
  if (event.ctrlKey || event.metaKey || event.altKey || localStorage.getItem("keys") === "off") return;
  const act = { "/": () => $("#q")?.select(), n: () => $("[data-new]")?.click(), "?": () => $("#keys")?.showModal() }[event.key];
  if (act) event.preventDefault(), act();
});

if ($("#keys-on")) $("#keys-on").checked = localStorage.getItem("keys") !== "off";
// Browsers provide the clipboard only in secure contexts.
for (const button of $$("[data-copy]")) button.hidden = !navigator.clipboard;
freshen();
