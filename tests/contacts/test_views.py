"""Show that contacts are listed, created, edited and deleted as the manual says."""

from tests.conftest import Team


def test_the_list_shows_a_contact(team: Team) -> None:
    team.add("Ann", mobile="+8613800138000", email="ann@example.com")
    page = team.get("/contacts").text
    assert "Contact Management" in page
    assert "+86 138 0013 8000" in page


def test_a_contact_is_created(team: Team) -> None:
    answer = team.post("/contacts/new", {"name": "Ann", "mobile": "138 0013 8000"})
    assert (answer.status_code, answer.location) == (303, "/contacts")
    assert [(c["name"], c["mobile"]) for c in team.contacts()] == [("Ann", "+8613800138000")]
