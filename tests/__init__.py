"""Test the console; connections of tests and of their tools, past the console, see the rows of all accounts."""

from typing import Any

import psycopg

_connect = psycopg.connect


def _connect_for_all(conninfo: str = "", **parameters: Any) -> psycopg.Connection[Any]:
    if "options" not in conninfo and "application_name" not in parameters:  # as the console names itself
        parameters.setdefault("options", "-c console.account_id=all")
    return _connect(conninfo, **parameters)


psycopg.connect = _connect_for_all
