"""Templates of cards and pages, in which text from outside says just what it says."""

import jinja2
from markupsafe import Markup

from wavtokenizer_hf.audio.shown import in_code, markdown


def find_template(name: str, *packages: str) -> jinja2.Template:
    """The template of a name that lies beside the modules of one of the packages, and may extend the others there.

    Strings are escaped: for HTML in a `.html.j2`, for Markdown in any other, where `|code` is for those in backticks.
    """
    is_html = name.endswith(".html.j2")
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package, "") for package in packages]),
        undefined=jinja2.StrictUndefined,
        autoescape=is_html,
        finalize=lambda value: markdown(value) if type(value) is str and not is_html else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = lambda value: Markup(in_code(value))
    return environment.get_template(name)
