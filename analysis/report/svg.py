"""Figures as the page holds them: smaller than the files, and legible on a dark page."""

import re
from urllib.parse import quote

DARK = (
    # What has no colour of its own: text
    "svg{fill:#e7e6e2}"
    # White behind everything; white text stands on coloured cells and stays, as they do
    "path[style*='fill: #ffffff'],use[style*='fill: #ffffff']{fill:#1e2226!important}"
    "[style*='stroke: #000000']{stroke:#e7e6e2!important}"
    "path[style*='fill: #000000'],use[style*='fill: #000000']{fill:#e7e6e2!important}"
    "[style*='stroke: #666666']{stroke:#9aa0a6!important}"
    "path[style*='fill: #444444']{fill:#8d939a!important}"
    "[style*='stroke: #0072b2']{stroke:#7a96ff!important}[style*='fill: #0072b2']{fill:#7a96ff!important}"
    "[style*='stroke: #dddddd'],[style*='stroke: #cccccc']{stroke:#454b52!important}"
)
"""Colours of figures on a dark page: an image's own style knows what the page around it prefers."""
SAFE = " =:/,.;()-?!@$&+*~_|{}[]'"
"""Signs beside letters and digits that an address may hold as they are."""


def for_page(svg: bytes) -> str:
    """A figure that matplotlib drew, without what no one sees, with colours for a dark page.

    Coordinates keep two decimals of a point, a seventieth of a millimetre in a hundred.

    Example:
        >>> drawn = b'<svg><!-- a --> <defs><style type="text/css">*{}</style></defs> <path d="M 1.2345 2"/></svg>'
        >>> for_page(drawn).replace(DARK, "…")
        '<svg><defs><style type="text/css">*{}@media (prefers-color-scheme:dark){…}</style></defs><path d="M 1.23 2"/></svg>'
    """  # noqa: E501
    text = re.sub(
        r"<metadata>.*?</metadata>|<!--.*?-->|<!DOCTYPE[^>]*>|<\?xml[^>]*\?>", "", svg.decode(), flags=re.DOTALL
    )
    # Only places: the scale of a letter has more decimals, and needs them
    text = re.sub(r'(\s(?:d|x|y)=")([^"]*)"', lambda found: f'{found[1]}{_rounded(found[2])}"', text)
    text = re.sub(r"\n\s*", " ", re.sub(r">\s+<", "><", text)).strip()
    return text.replace("</style>", f"@media (prefers-color-scheme:dark){{{DARK}}}</style>", 1)


def _rounded(places: str) -> str:
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", " ".join(places.split()))


def address(svg: bytes) -> str:
    """A figure as an address that holds it.

    Example:
        >>> address(b"<svg/>")
        'data:image/svg+xml,%3Csvg/%3E'
    """
    # As an image, not inline: nothing in it can run, and ids of two figures can't meet
    return "data:image/svg+xml," + quote(for_page(svg), safe=SAFE)
