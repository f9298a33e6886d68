"""Create, show and delete integrations, renew their tokens, and stop their deliveries."""

from typing import NoReturn

from flask import Blueprint, abort, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm.exc import StaleDataError

from ...accounts.permissions import Permission, requires
from ...config import current_settings
from ...core.changes import Refused
from ...core.db import db
from ...delivery.stopping import stop_integrations, stopped_words, waiting_of
from ...groups.models import Group
from ...intake import refusals
from ...intake.configurations import alertmanager_config, curl_example, grafana_config
from ...intake.editing import create
from ...intake.models import Integration
from ..visitors import visitor
from ..wording import GROUP_GONE
from .forms import IntegrationForm

blueprint = Blueprint("integrations", __name__)
GONE = "This integration does not exist, or somebody has deleted it meanwhile."
PLACEHOLDER = "YOUR-TOKEN"


@blueprint.route("/groups/<int(max=9223372036854775807):id>/integrations", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def index(id: int) -> ResponseReturnValue:
    """Show the integrations of a group, or create one."""
    account_id = visitor().account_id
    # Lock the group while an integration is created, so that a concurrent deletion waits or comes first.
    find = Group.locked if request.method == "POST" else Group.of
    group = find(account_id, id) or abort(404, GROUP_GONE)
    form = IntegrationForm()
    if form.validate_on_submit():
        try:
            return _saved(*create(account_id, id, str(form.name.normal)), group)
        except Refused as refused:
            db.session.rollback()
            form.show(refused)
    integrations = Integration.of_group(account_id, id)
    page = render_template("integrations/index.html", group=group, integrations=integrations, form=form)
    return page, 422 if request.method == "POST" else 200


@blueprint.get("/integrations/<int(max=9223372036854775807):id>")
@requires(Permission.USE_CONSOLE)
def show(id: int) -> ResponseReturnValue:
    """Show an integration with the settings for its sender."""
    integration, group = _find(id)
    return _page(integration, group)


@blueprint.route("/integrations/<int(max=9223372036854775807):id>/renew", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def renew(id: int) -> ResponseReturnValue:
    """Show the confirmation for a new token of an integration, or renew the token."""
    integration, group = _find(id)
    if request.method != "POST":
        return render_template("integrations/renew.html", integration=integration, group=group)
    if request.form.get("made") != integration.token_made_at.isoformat():
        # The POST was repeated by reloading the page: the token that was shown stays valid.
        flash("The token has been renewed already. It is shown once; renew it again if it is lost.")
        return redirect(url_for(".show", id=id), 303)
    token = integration.renew_token()
    try:
        return _saved(integration, token, group)
    except StaleDataError:  # deleted since it was read
        _gone()


@blueprint.route("/integrations/<int(max=9223372036854775807):id>/delete", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def delete(id: int) -> ResponseReturnValue:
    """Show the confirmation for deleting an integration, or delete it."""
    integration, group = _find(id)
    if request.method != "POST":
        waiting = waiting_of(integration.account_id, [id])
        return render_template("integrations/delete.html", integration=integration, group=group, waiting=waiting)
    message = f"{integration.name} has been deleted."
    db.session.delete(integration)
    db.session.commit()
    if "stop" in request.form:  # after the deletion, so that no alert can arrive in between
        message += f" {stopped_words(stop_integrations(visitor().account_id, [id], visitor().email))}"
    flash(message)
    return redirect(url_for(".index", id=group.id), 303)


@blueprint.route("/integrations/<int(max=9223372036854775807):id>/stop", methods=["GET", "POST"])
@requires(Permission.USE_CONSOLE)
def stop(id: int) -> ResponseReturnValue:
    """Show the confirmation for cancelling the pending deliveries of an integration, or cancel them."""
    integration, _ = _find(id)
    address = url_for(".show", id=id)
    if request.method != "POST":
        waiting, name = waiting_of(integration.account_id, [id]), integration.name
        return render_template("integrations/stop.html", waiting=waiting, name=name, back=address)
    flash(stopped_words(stop_integrations(integration.account_id, [id], visitor().email)))
    return redirect(address, 303)


@blueprint.post("/integrations/<int(max=9223372036854775807):id>/dismiss")
@requires(Permission.USE_CONSOLE)
def dismiss(id: int) -> ResponseReturnValue:
    """Dismiss the rejected requests of an integration's sender on all pages."""
    integration, _ = _find(id)
    refusals.dismiss(integration.account_id, id)
    db.session.commit()
    flash("The refusals have been removed.")
    return redirect(url_for(".show", id=id), 303)


def _find(id: int) -> tuple[Integration, Group]:
    account_id = visitor().account_id
    integration = Integration.of(account_id, id) or _gone()
    return integration, Group.of(account_id, integration.group_id) or _gone()


def _gone() -> NoReturn:
    abort(404, GONE)


def _saved(integration: Integration, token: str, group: Group) -> str:
    """Save an integration and return its page, rendered before the commit, while the lock prevents a deletion."""
    db.session.flush()
    page = _page(integration, group, token)
    db.session.commit()
    return page


def _page(integration: Integration, group: Group, token: str | None = None) -> str:
    """Return the page of an integration; it includes the token only when it has just been created."""
    base = current_settings().public_url or request.host_url.rstrip("/")
    url = base + url_for("api.alerts")
    shown = token or PLACEHOLDER
    return render_template(
        "integrations/show.html",
        integration=integration,
        group=group,
        token=token,
        waiting=waiting_of(integration.account_id, [integration.id]),
        refusals=refusals.Refusal.of(integration.account_id, integration.id) if integration.refused_count else (),
        refusal_days=refusals.RETENTION_DAYS,
        url=url,
        configurations=[
            ("Alertmanager", "alertmanager.yml", alertmanager_config(url, shown)),
            ("Grafana", "a file of the contact points’ provisioning", grafana_config(url, shown)),
            ("A script", "a command, here with the plain shape", curl_example(url, shown)),
        ],
    )
