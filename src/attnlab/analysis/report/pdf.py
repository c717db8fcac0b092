"""Pictures of a report as PDF, for a paper; cairosvg draws them."""

import re
from typing import Any

from attnlab.errors import UsageError

VARIABLE = re.compile(r"var\(--[\w-]+, (#[0-9a-f]{6})([0-9a-f]{2})?\)")  # of a page; a file has the colour beside it


def needs_cairosvg() -> Any:
    """The library, refused in a line where it is not installed."""
    try:
        import cairosvg
    except (ImportError, OSError) as error:  # OSError: the C library cairo is missing
        reason = " ".join(str(error).split())[:100]
        raise UsageError(
            f"pdf (true) needs cairosvg ({reason}): pip install 'attnlab[pdf]'; pictures/ has SVG"
        ) from error
    return cairosvg


def to_pdf(svg: str) -> bytes:
    """A drawing as a page of its size."""

    def plain(match: re.Match[str]) -> str:
        return match[1] if match[2] is None else f"rgba({_rgb(match[1])}, {int(match[2], 16) / 255:.3f})"

    pdf: bytes = needs_cairosvg().svg2pdf(
        bytestring=VARIABLE.sub(plain, svg).replace("system-ui", "Helvetica").encode()
    )
    return pdf


def _rgb(colour: str) -> str:
    return ", ".join(str(int(colour[i : i + 2], 16)) for i in (1, 3, 5))
