"""Answer two letters, with every library loaded that the console has loaded when it starts: LIBRARIES names them."""

import os
from contextlib import suppress
from importlib import import_module

from flask import Flask

for _name in os.environ["LIBRARIES"].split():
    with suppress(ImportError):
        import_module(_name)

app = Flask(__name__)


@app.get("/")
def index() -> str:
    """Answer."""
    return "ok"
