"""Show the same contacts with Django: a view with the console's markup, and Django's own admin; both need a log-on.

Run as a program it makes Django's tables and the user whose name and password it is given.
"""

import os
import sys
from typing import Any

import django
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict

_address = conninfo_to_dict(os.environ["DATABASE_URL"])
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    SECRET_KEY=os.environ["SECRET_KEY"],
    ROOT_URLCONF=__name__,
    STATIC_URL="static/",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": _address["host"],
            "USER": _address["user"],
            "NAME": _address["dbname"],
            "CONN_MAX_AGE": 600,
        }
    },
    # The next two are what startproject writes.
    INSTALLED_APPS=[
        "tests.bench.references",
        *(
            f"django.contrib.{name}"
            for name in ("admin", "auth", "contenttypes", "sessions", "messages", "staticfiles")
        ),
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "DIRS": [os.environ["TEMPLATES"]],
            "APP_DIRS": True,
            "OPTIONS": {
                "context_processors": [
                    "django.template.context_processors.request",
                    "django.contrib.auth.context_processors.auth",
                    "django.contrib.messages.context_processors.messages",
                ]
            },
        }
    ],
)
django.setup()

from django.contrib import admin  # noqa: E402 (Django wants its settings first)
from django.contrib.auth.decorators import login_required  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import models  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.shortcuts import render  # noqa: E402
from django.urls import path  # noqa: E402

from tests.bench.references import shown_mobile  # noqa: E402

ACCOUNT = int(os.environ["ACCOUNT"])


class Contact(models.Model):
    """A row of the console's table."""

    account_id = models.BigIntegerField()
    id = models.BigIntegerField(primary_key=True)
    name = models.TextField()
    name_key = models.TextField(editable=False)
    mobile = models.TextField(null=True)
    email = models.TextField(null=True)
    receives_system_notifications = models.BooleanField()

    class Meta:
        managed = False
        app_label = "references"
        db_table = "contacts"

    def shown_mobile(self) -> str:
        """Return the number as the console shows it."""
        return shown_mobile(self.mobile)


@admin.register(Contact)
class ContactAdmin(admin.ModelAdmin):
    """The list that Django makes by itself, in the columns of the console."""

    list_display = ("name", "shown_mobile", "email", "receives_system_notifications")
    search_fields = ("name", "mobile", "email")
    ordering = ("name_key", "id")
    list_per_page = 100

    def get_queryset(self, request: HttpRequest) -> Any:
        """Return the contacts of the one account."""
        return super().get_queryset(request).filter(account_id=ACCOUNT)


@login_required(login_url="/admin/login/")
def contacts(request: HttpRequest) -> HttpResponse:
    """Show the account's contacts."""
    return render(
        request,
        "django.html",
        {"rows": Contact.objects.filter(account_id=ACCOUNT).order_by("name_key", "id")[:100]},
    )


urlpatterns = [path("contacts", contacts), path("admin/", admin.site.urls)]
app = get_wsgi_application()

if __name__ == "__main__":
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    User.objects.create_superuser(sys.argv[1], password=sys.argv[2])
