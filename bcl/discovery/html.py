"""What pages are made with: templates and charts."""

from importlib import resources
from typing import Any

from bcl.core.errors import InputError

EXTRA = "pip install 'bcl-cacr[report]'"


def templates(*packages: str) -> Any:
    """A jinja2 environment of the files of packages, the first that has one, with escaping."""
    try:
        import jinja2
    except ImportError as error:
        raise InputError(f"pages need jinja2: {EXTRA}.") from error

    def read(name: str) -> str | None:
        found = (resources.files(package).joinpath(name) for package in packages)
        return next((each.read_text(encoding="utf-8") for each in found if each.is_file()), None)

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(read),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )


def chart(spec: dict[str, Any]) -> str:
    """The ``<svg>`` of a Vega-Lite specification; nothing of an empty one."""
    try:
        import vl_convert
    except ImportError as error:
        raise InputError(f"charts need vl-convert-python: {EXTRA}.") from error
    return str(vl_convert.vegalite_to_svg(spec)) if spec else ""
