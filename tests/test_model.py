"""Show that whatever is done in whatever order, the console holds what a model in a few lines of Python holds."""

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run
from werkzeug.test import TestResponse

from tests.conftest import Measured, Team
from tests.pages.contacts.test_views import errors_of, usage, value_of
from tests.pages.groups.test_views import add_group, groups, snapshot

QUOTA = 4
BAD = "bad"  # what the form refuses, in the place of what is kept
# What is typed, and what is kept of it.
NAMES = {name: name for name in ("Ann", "ann", "ＡＮＮ", "张伟", "50%_\\", "<b>O'Hara")}
NAMES |= {" Ann Lee\t": "Ann Lee", "Zoe\u0308": "Zoë", " ": BAD, "x" * 65: BAD}
MOBILES: dict[str, str | None] = {"138 0013 8001": "+8613800138001", "+86-138-0013-8001": "+8613800138001"}
MOBILES |= {"008613800138002": "+8613800138002", "13800138003": "+8613800138003", "+1 202 555 0143": "+12025550143"}
MOBILES |= {"": None, "12": BAD}
EMAILS: dict[str, str | None] = {"ann@example.com": "ann@example.com", "Ann@EXAMPLE.com": "Ann@example.com"}
EMAILS |= {"bob@example.com": "bob@example.com", "zoe@beispiel.de": "zoe@beispiel.de", "": None, "bob@": BAD}
SEARCHES = {
    "name": ["", "A", "ａｎｎ ", "ann lee", "ZOE\u0308", "张", "%", "\\", "<B>"],
    "mobile": ["", "8001", "+86 138-0013-8002", "0086 138", "13800138003", "0013", "x"],
    "email": ["", "ANN@", "bob@example.com", ".DE", "%"],
}
FORMS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(list(NAMES)),
        "mobile": st.sampled_from(list(MOBILES)),
        "email": st.sampled_from(list(EMAILS)),
        "receives_system_notifications": st.sampled_from(["", "y"]),
    }
)


@dataclass
class Person:
    """A contact as the model has it."""

    name: str
    mobile: str | None
    email: str | None
    is_notified: bool

    def shares(self, other: "Person") -> set[str]:
        """Return in which fields the two cannot both be."""
        mine, theirs = (self.mobile, (self.email or "").lower()), (other.mobile, (other.email or "").lower())
        return {field for field, a, b in zip(("mobile", "email"), mine, theirs, strict=True) if a and a == b}


@dataclass
class Circle:
    """A group as the model has it: its name and the ids of its members."""

    name: str
    members: set[int] = field(default_factory=set)


FIRST = (
    Person("Ann", "+8613800138001", "Ann@example.com", False),
    Person("张伟", "+8613800138002", None, False),
    Person("Zoë", None, "zoe@beispiel.de", False),
)


def key_of(name: str) -> str:
    """Return what names are found, sorted and distinguished by."""
    return unicodedata.normalize("NFKC", name).lower()


def finds(person: Person, field: str, text: str) -> bool:
    """Return whether a search for `text` shows the person."""
    if field == "name":
        return key_of(text.strip()) in key_of(person.name)
    if not text:
        return True
    if field == "email":
        return text.lower() in (person.email or "").lower()
    digits, mobile = re.sub(r"\D", "", text), person.mobile or ""
    begins = digits.startswith("00") and mobile.startswith(f"+{digits[2:]}")
    return digits != "" and (digits in mobile or begins)


def plain(markup: str) -> str:
    """Return the text before the first tag."""
    return html.unescape(re.sub("<[^>]*>.*", "", markup, flags=re.DOTALL))


def listed(answer: TestResponse) -> list[tuple[int, Person, list[str]]]:
    """Return what the list of contacts shows of each, from the first row to the last, with the names of its groups."""
    found = []
    for identity, row in re.findall(r'<tr id="contact-(\d+)">(.*?)</tr>', answer.text, re.DOTALL):
        name, *groups = re.findall(r"<bdi>([^<]*)</bdi>", row.partition("</th>")[0])
        mobile, email, _, notified = re.findall(r"<td [^>]*data-label=[^>]*>(.*?)</td>", row, re.DOTALL)
        number = re.sub(r"[^+\d]", "", plain(mobile)) or None
        shown = (html.unescape(name), number, plain(email) or None, plain(notified) == "Yes")
        found.append((int(identity), Person(*shown), [html.unescape(group) for group in groups]))
    return found


def listed_groups(answer: TestResponse) -> list[tuple[int, str, int]]:
    """Return what the list of groups shows of each: id, name and how many members."""
    found = []
    for identity, row in re.findall(r'<tr id="group-(\d+)">(.*?)</tr>', answer.text, re.DOTALL):
        name = re.findall(r"<bdi>([^<]*)</bdi>", row)[0]
        members = re.findall(r"<summary>(\d+) contact", row)
        found.append((int(identity), html.unescape(name), int(members[0]) if members else 0))
    return found


class Console(RuleBasedStateMachine):
    """Do to the console and to the model what the people of an account do, and compare the two after each step."""

    contacts, groups = Bundle("contacts"), Bundle("groups")
    htmx = st.booleans()
    steps = 0

    def __init__(self, new_team: Callable[..., Team]) -> None:
        super().__init__()
        self.team, self.other = new_team(QUOTA), new_team()
        self.people: dict[int, Person] = {}
        self.circles: dict[int, Circle] = {}
        # Rules know a row by when it came, which is the same in each run; the first of each is another account's.
        self.contact_ids = [self.other.add("Ann", mobile="+8613800138001", email="ann@example.com")]
        self.group_ids = [add_group(self.other, "Night", *self.contact_ids)]
        self.before, self.is_compared = snapshot(self.other), False

    @initialize(target=contacts)
    def know_contacts(self) -> Any:
        """Begin with three contacts, so that there is something to find and to collide with."""
        for person in FIRST:
            identity = self.team.add(person.name, mobile=person.mobile, email=person.email)
            self.people[identity] = person
            self.contact_ids.append(identity)
        return multiple(*range(len(self.contact_ids)))

    @initialize(target=groups)
    def know_groups(self) -> Any:
        self.group_ids.append(add_group(self.team, "Night", *self.people))
        self.circles[self.group_ids[1]] = Circle("Night", set(self.people))
        return multiple(*range(len(self.group_ids)))

    def post(self, path: str, values: dict[str, Any], htmx: bool) -> TestResponse:
        """Send a form from the list that a change of it leads back to."""
        shown = "/groups" if path.startswith("/groups") and not path.endswith("assign") else "/contacts"
        return self.team.post(path, values, htmx, **({"HX-Current-URL": f"http://localhost{shown}"} if htmx else {}))

    def saved(self, answer: TestResponse) -> TestResponse:
        """Return the list after a change: the answer itself has it where htmx asked."""
        if answer.request.headers.get("HX-Request"):
            assert answer.status_code == 200
            return answer
        assert answer.status_code == 303
        return self.team.get(answer.location or "")

    def read(self, form: dict[str, str]) -> tuple[Person, set[str]]:
        """Return the person that a form makes, and the fields that it is refused for."""
        name, mobile, email = NAMES[form["name"]], MOBILES[form["mobile"]], EMAILS[form["email"]]
        bad = {field for field, value in (("name", name), ("mobile", mobile), ("email", email)) if value == BAD}
        if mobile is None and email is None:
            bad.add("mobile")
        return Person(name, mobile, email, bool(form["receives_system_notifications"])), bad

    def taken(self, person: Person, but: int | None = None) -> set[str]:
        """Return which fields of `person` others have already."""
        return {field for id, other in self.people.items() if id != but for field in person.shares(other)}

    @rule(target=contacts, form=FORMS, htmx=htmx)
    def create(self, form: dict[str, str], htmx: bool) -> Any:
        (person, bad), is_full = self.read(form), len(self.people) == QUOTA
        answer = self.post("/contacts/new", form, htmx)
        if bad or is_full or self.taken(person):
            assert answer.status_code == 422
            assert set(errors_of(answer)) == (bad or self.taken(person)) or (is_full and not bad)
            return multiple()
        after = self.saved(answer)
        (created,) = {id for id, *_ in listed(after)} - set(self.people)
        self.people[created] = person
        self.compare(after)
        self.contact_ids.append(created)
        return len(self.contact_ids) - 1

    @rule(contact=contacts, form=FORMS, age=st.sampled_from([0, 0, 1]), htmx=htmx)
    def edit(self, contact: int, form: dict[str, str], age: int, htmx: bool) -> None:
        """Save a form that was opened just now, or before somebody else's change."""
        path = f"/contacts/{self.contact_ids[contact]}/edit"
        opened, known = self.team.get(path, htmx), self.people.get(self.contact_ids[contact])
        if known is None:
            assert (opened.status_code, self.post(path, form, htmx).status_code) == (404, 404)
            return
        mobile = re.sub(r"[^+\d]", "", value_of(opened, "mobile"))
        assert (value_of(opened, "name"), mobile, value_of(opened, "email")) == (
            *(known.name, known.mobile or "", known.email or ""),
        )
        person, bad = self.read(form)
        answer = self.post(path, form | {"version": int(value_of(opened, "version")) - age}, htmx)
        if bad:
            assert (answer.status_code, set(errors_of(answer))) == (422, bad)
        elif age and person != known:
            assert answer.status_code == 409
        elif taken := self.taken(person, but=self.contact_ids[contact]):
            assert (answer.status_code, set(errors_of(answer))) == (422, taken)
        else:
            self.people[self.contact_ids[contact]] = person
            self.compare(self.saved(answer))

    @precondition(lambda self: len(self.people) > 1)
    @rule(chosen=st.lists(contacts, min_size=1, max_size=3), htmx=htmx)
    def delete(self, chosen: list[int], htmx: bool) -> None:
        ids = {self.contact_ids[contact] for contact in chosen}
        answer = self.post("/contacts/delete", {"id": list(ids)}, htmx)
        gone = ids & set(self.people)
        for id in gone:
            del self.people[id]
        for circle in self.circles.values():
            circle.members -= gone
        if gone:
            self.compare(self.saved(answer))
        else:
            assert answer.status_code == 404

    @rule(field=st.sampled_from(list(SEARCHES)), htmx=htmx)
    def search(self, field: str, htmx: bool) -> None:
        for text in SEARCHES[field] if self.people else SEARCHES[field][:1]:
            answer = self.team.get(f"/contacts?{urlencode({'field': field, 'q': text})}", htmx)
            self.compare(answer, {id for id, person in self.people.items() if finds(person, field, text)})

    @rule(target=groups, name=st.sampled_from(list(NAMES)), members=st.lists(contacts, max_size=3), htmx=htmx)
    def create_group(self, name: str, members: list[int], htmx: bool) -> Any:
        ids, is_taken = {self.contact_ids[contact] for contact in members}, self.is_taken(name)
        answer = self.post("/groups/new", {"name": name, "member": list(ids)}, htmx)
        if NAMES[name] == BAD or is_taken:
            assert (answer.status_code, set(errors_of(answer))) == (422, {"name"})
            return multiple()
        after = self.saved(answer)
        (created,) = {id for id, *_ in listed_groups(after)} - set(self.circles)
        self.circles[created] = Circle(NAMES[name], ids & set(self.people))
        self.compare_groups(after)
        self.group_ids.append(created)
        return len(self.group_ids) - 1

    @rule(
        group=groups,
        name=st.sampled_from(list(NAMES)),
        members=st.lists(contacts, max_size=3),
        age=st.sampled_from([0, 0, 1]),
        htmx=htmx,
    )
    def edit_group(self, group: int, name: str, members: list[int], age: int, htmx: bool) -> None:
        identity, ids = self.group_ids[group], {self.contact_ids[contact] for contact in members}
        path, values = f"/groups/{identity}/edit", {"name": name, "member": list(ids)}
        opened, known = self.team.get(path, htmx), self.circles.get(identity)
        if known is None:
            assert (opened.status_code, self.post(path, values, htmx).status_code) == (404, 404)
            return
        picked = re.findall(r'name="member" value="(\d+)"[^>]* checked', opened.text)
        assert (value_of(opened, "name"), {int(id) for id in picked}) == (known.name, known.members)
        answer = self.post(path, values | {"version": int(value_of(opened, "version")) - age}, htmx)
        if NAMES[name] == BAD:
            assert (answer.status_code, set(errors_of(answer))) == (422, {"name"})
        elif age and (NAMES[name], ids) != (known.name, known.members):
            assert answer.status_code == 409
        elif self.is_taken(name, but=identity):
            assert (answer.status_code, set(errors_of(answer))) == (422, {"name"})
        else:
            self.circles[identity] = Circle(NAMES[name], ids & set(self.people))
            self.compare_groups(self.saved(answer))

    def is_taken(self, name: str, but: int | None = None) -> bool:
        """Return whether another group has this name."""
        return any(key_of(c.name) == key_of(NAMES[name]) for id, c in self.circles.items() if id != but)

    @rule(group=groups, chosen=st.lists(contacts, min_size=1, max_size=3), add=st.booleans(), htmx=htmx)
    def assign(self, group: int, chosen: list[int], add: bool, htmx: bool) -> None:
        """Put contacts into a group, or take them out of it."""
        identity, ids = self.group_ids[group], {self.contact_ids[contact] for contact in chosen}
        values = {"id": list(ids), "group": identity, "action": "add" if add else "remove"}
        answer = self.post("/groups/assign", values, htmx)
        if identity not in self.circles:
            assert answer.status_code == 404
            return
        members = self.circles[identity].members
        self.circles[identity].members = members | (ids & set(self.people)) if add else members - ids
        self.compare(self.saved(answer))

    @rule(chosen=st.lists(groups, min_size=1, max_size=2), htmx=htmx)
    def delete_groups(self, chosen: list[int], htmx: bool) -> None:
        ids = {self.group_ids[group] for group in chosen}
        answer = self.post("/groups/delete", {"id": list(ids)}, htmx)
        gone = ids & set(self.circles)
        for id in gone:
            del self.circles[id]
        if gone:
            self.compare_groups(self.saved(answer))
        else:
            assert answer.status_code == 404

    def compare(self, answer: TestResponse, ids: set[int] | None = None) -> None:
        """Require all contacts, or those with the `ids`: in their order, as they are, in their groups, and counted."""
        shown = sorted(ids if ids is not None else self.people, key=lambda id: (key_of(self.people[id].name), id))
        groups = sorted(self.circles.values(), key=lambda circle: key_of(circle.name))
        expected = [(id, self.people[id], [circle.name for circle in groups if id in circle.members]) for id in shown]
        assert listed(answer) == expected
        assert f"<strong>{len(self.people)} of {QUOTA}</strong>" in answer.text
        self.is_compared = ids is None

    def compare_groups(self, answer: TestResponse) -> None:
        """Require all groups, in their order, and how many members each has."""
        circles = sorted(self.circles.items(), key=lambda item: key_of(item[1].name))
        assert listed_groups(answer) == [(id, circle.name, len(circle.members)) for id, circle in circles]

    @invariant()
    def the_console_holds_what_the_model_holds(self) -> None:
        Console.steps += 1
        if not self.is_compared:
            self.compare(self.team.get("/contacts", htmx=True))
        self.is_compared = False
        assert len(self.people) == usage(self.team) <= QUOTA
        assert groups(self.team) == {circle.name: circle.members for circle in self.circles.values()}

    def teardown(self) -> None:
        assert snapshot(self.other) == self.before


def test_the_console_holds_what_a_model_of_it_holds(
    new_team: Callable[..., Team], request: pytest.FixtureRequest, measured: Measured
) -> None:
    is_long = request.config.getoption("chaos")
    steps = 30
    examples = 460 if is_long else 27
    Console.steps = 0
    run(
        lambda: Console(new_team),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=not is_long,
            phases=[Phase.generate, Phase.shrink],
            print_blob=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    assert Console.steps >= (10_000 if is_long else 500)
    done = f"{Console.steps:,} random steps (create, edit, delete, search, groups) against a model"
    measured("enemies", done, "no difference")
