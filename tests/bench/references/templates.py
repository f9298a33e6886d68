"""Turn what the console answers into templates of the references, so that all of them show the same."""

import re

from tests.bench.references import shown_mobile

# How each template language writes a loop over contacts, and their columns within it.
JINJA = {name: f"{{{{ {name} }}}}" for name in ("id", "name", "mobile", "email", "version")} | {
    "loop": "{% for id, name, mobile, email, notified in rows %}",
    "one": "{% for id, name, mobile, email, notified, version in rows %}",
    "yes": '{{ "Yes" if notified else "No" }}',
}
DJANGO = {name: f"{{{{ contact.{name} }}}}" for name in ("id", "name", "email")} | {
    "loop": "{% for contact in rows %}",
    "mobile": "{{ contact.shown_mobile }}",
    "yes": '{{ contact.receives_system_notifications|yesno:"Yes,No" }}',
}


def template(html: str, language: dict[str, str], contact: tuple[int, str, str, str, int]) -> str:
    """Return a template that gives `html`: a loop over its rows, the first of which is the contact's, or its form."""
    assert not re.search(r"\{[{%#]", html)
    if language is DJANGO:
        html = re.sub(r'(name="csrf_token" value=")[^"]+', r"\g<1>{{ csrf_token }}", html)
    start = re.search(r"<tr id=", html)
    if start:
        head, rows = html[: start.start()], html[start.start() :]
        foot = rows[rows.rindex("</tr>") + len("</tr>") :]
        row = rows[: rows.index("<tr id=", 1)]
    else:
        head, row, foot = "", html, ""
    identity, name, mobile, email, _ = contact
    row = row.replace(shown_mobile(mobile), language["mobile"]).replace(email, language["email"])
    row = row.replace(name, language["name"]).replace(str(identity), language["id"])
    row = re.sub("<td>(Yes|No)</td>", f"<td>{language['yes']}</td>", row)
    row = re.sub(r'(name="version"[^>]* value=")\d+', rf"\g<1>{language.get('version')}", row)
    return f"{head}{language['loop' if start else 'one']}{row}{{% endfor %}}{foot}"
