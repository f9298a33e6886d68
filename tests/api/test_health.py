"""Show that /healthz says whether the console can do its work, to anybody, and nothing else."""

from flask import Flask
from psycopg.conninfo import conninfo_to_dict

from contacts_app import create_app
from tests.conftest import Team, free_port, wait_for


def test_healthz_answers_200_without_a_log_on(app: Flask) -> None:
    answer = app.test_client().get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok\n")
    assert "Set-Cookie" not in answer.headers


def test_healthz_answers_503_without_the_database_and_reveals_nothing(settings: dict[str, str]) -> None:
    app = create_app(settings | {"DATABASE_URL": f"postgresql://someone:secret@127.0.0.1:{free_port()}/elsewhere"})
    answer = app.test_client().get("/healthz")
    assert (answer.status_code, answer.text) == (503, "unavailable\n")


def test_healthz_is_as_short_for_a_user(team: Team) -> None:
    assert team.get("/healthz").text == "ok\n"


def test_healthz_answers_200_again_after_the_database_has_ended_its_connections(
    team: Team, settings: dict[str, str], database_url: str
) -> None:
    app = create_app(settings | {"DATABASE_URL": database_url + "&application_name=cut"})
    assert conninfo_to_dict(database_url)["dbname"]
    client = app.test_client()
    mine = "FROM pg_stat_activity WHERE application_name = 'cut'"
    for _ in range(2):
        assert client.get("/healthz").status_code == 200
        assert team.sql.execute(f"SELECT count(pg_terminate_backend(pid)) {mine}").fetchone() != (0,)
        wait_for(lambda: team.sql.execute(f"SELECT count(*) {mine}").fetchone() == (0,), what="the end")
