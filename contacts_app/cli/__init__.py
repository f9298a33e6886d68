"""Register the commands of `flask --app wsgi`."""

import click
from flask import Flask, current_app

from . import database, processes, samples, users


def init_app(app: Flask) -> None:
    """Add the commands to `app`."""
    for command in (
        *(processes.serve_command, processes.deliver),
        *(database.migrate, database.backup, database.restore, database.reencrypt),
        *(users.create_account, users.create_user, users.set_password),
        *(samples.demo, version),
    ):
        app.cli.add_command(command)


@click.command()
def version() -> None:
    """Print the version of the console."""
    click.echo(current_app.config["VERSION"])
