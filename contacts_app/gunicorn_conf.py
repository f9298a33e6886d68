"""Set up gunicorn by the name that its configuration had before 0.2.0, for one version: service files name it."""

from .ops.gunicorn_conf import *  # noqa: F403
