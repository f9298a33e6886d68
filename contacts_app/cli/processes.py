"""Run the console and its workers in the foreground."""

import click
from flask.cli import ScriptInfo, pass_script_info

from ..core import encryption
from ..core.db import db
from ..delivery import worker
from ..delivery.housekeeping import Chores
from ..intake import refusals
from ..ops import serve
from ..reach import notices
from .errors import plainly

# Jobs of the rooms above delivery, which delivery must not import.
CHORES = Chores(check_next=notices.check_next, forget_old=refusals.delete_old)


@click.command("serve")
@plainly
def serve_command() -> None:
    """Run the console in the foreground; `make run` calls this."""
    serve.run()


@click.command()
@pass_script_info
@plainly
def deliver(info: ScriptInfo) -> None:
    """Deliver alerts in the foreground; beside gunicorn, any number of these run, on any number of machines."""
    serve.prepare()
    serve.warn_about_role()
    encryption.note_key()
    db.session.commit()
    worker.run(info.load_app(), CHORES)
