"use strict";
// What HTML and htmx cannot do alone: open and close the dialog, count what is selected, keys, a lost connection.

const $ = (selector, root = document) => root.querySelector(selector);
const dialog = $("#dialog");
let focusNext = () => {};

function countSelected() {
  const boxes = [...document.querySelectorAll("#contacts-form tbody [name=id]")];
  const selected = boxes.filter((box) => box.checked).length;
  const button = $("#batch-delete");
  if (!button) return;
  button.disabled = selected === 0;
  $("#selected").textContent = selected ? ` (${selected})` : "";
  const every = $("#select-all");
  if (!every) return;
  every.checked = selected > 0 && selected === boxes.length;
  every.indeterminate = selected > 0 && selected < boxes.length;
}

function say(sentence) {
  const place = (dialog?.open && $("#dialog-messages")) || $("#messages");
  place.replaceChildren($("#lost").content.cloneNode(true));
  $("p", place).textContent = sentence;
}

// What opened the dialog gets the focus back from the browser. Where that is gone, its counterpart in the row or the next does.
function rememberRow(opener) {
  const row = opener.closest("tr") || (opener.id === "batch-delete" && $("#contacts-form tr:has([name=id]:checked)"));
  const following = [];
  for (let next = row; next; next = next.nextElementSibling) following.push(next.id);
  const control = opener.matches(".operation a:first-child") ? ".operation a" : opener.closest("tr") ? ".operation a:last-child" : "[name=id]";
  focusNext = () => {
    if (document.activeElement !== document.body && (!row || row.isConnected)) return;
    const next = following.map((id) => document.getElementById(id)).find(Boolean) || (row && $("#contacts-form tbody tr:last-child"));
    (next ? $(control, next) : $("#new-contact")).focus();
  };
}

document.addEventListener("htmx:after:swap", (event) => {
  const { ctx } = event.detail;
  if (dialog?.childElementCount && !dialog.open && ctx.target === dialog) {
    rememberRow(document.activeElement);
    dialog.showModal();
  }
  if (ctx.sourceElement?.matches?.("[data-top]")) scrollTo(0, 0);
  countSelected();
});

document.addEventListener("dialog:close", () => {
  dialog.close();
  // What changed behind the modal dialog was not announced: put it in place again.
  requestAnimationFrame(() => $("#messages").append(...$("#messages").childNodes));
});
dialog?.addEventListener("close", () => {
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
document.addEventListener("htmx:error", () =>
  say("The connection to the console is lost. Nothing is lost of what you typed: try again in a moment."),
);

document.addEventListener("change", (event) => {
  const { id, checked } = event.target;
  if (id === "select-all") for (const box of document.querySelectorAll("#contacts-form tbody [name=id]")) box.checked = checked;
  if (id === "keys-on") localStorage.setItem("keys", checked ? "on" : "off");
  countSelected();
});

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-close], [data-dismiss], [data-open]");
  if (!button) return;
  if (button.matches("[data-close]")) {
    event.preventDefault();
    button.closest("dialog").close();
  } else if (button.matches("[data-dismiss]")) button.closest(".message").remove();
  else $(button.dataset.open).showModal();
});

$("#user-menu")?.addEventListener("focusout", (event) => {
  if (event.relatedTarget && !event.currentTarget.contains(event.relatedTarget)) event.currentTarget.hidePopover();
});

document.addEventListener("keydown", (event) => {
  if (event.key === " " && event.target.matches("a[role=button]")) {
    event.preventDefault();
    event.target.click();
  }
  const typing = event.target.closest("input:not([type=checkbox]), select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || $("dialog[open]")) return;
  if (localStorage.getItem("keys") === "off") return;
  const element = { "/": $("#q"), n: $("#new-contact"), "?": $("#keys") }[event.key];
  if (!element) return;
  event.preventDefault();
  if (element.id === "q") element.select();
  else if (element.id === "keys") element.showModal();
  else element.click();
});

if ($("#keys-on")) $("#keys-on").checked = localStorage.getItem("keys") !== "off";
countSelected();
