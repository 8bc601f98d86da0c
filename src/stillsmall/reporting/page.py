"""The page: one file with its style, script, pictures and audio inside. Everything that comes from data is escaped."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def _hash(text: str) -> str:
    """The hash by which the page's policy knows its own script: no other script runs."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def render(**view: Any) -> str:
    """The HTML of a view: title, headline, verdict, sections, examples, and the filter's choices."""
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    engine = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = engine.get_template("page.html.j2")
    return page.render(style=Markup(style), script=Markup(script), script_hash=_hash(script), **view)
