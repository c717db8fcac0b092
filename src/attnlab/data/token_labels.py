"""How a token is written beside a map or in a table."""

import unicodedata

LABEL_CHARACTERS = 12  # a label longer than this is cut

_SPELLED = str.maketrans(
    {
        " ": "·",
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
        "\u2018": "'",
        "\u2019": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": "--",
        "\u2026": "...",
    }
)


def label(token: bytes) -> str:
    """A short name for a token: printable characters, with '·' for a space; readable, not reversible."""
    text = token.decode(errors="backslashreplace").translate(_SPELLED)
    text = "".join(c if c.isprintable() and not c.isspace() else _escape(c) for c in text) or "(none)"
    if unicodedata.category(text[0]).startswith("M"):
        text = f"\u25cc{text}"  # a mark without the letter it stands on is drawn on a dotted circle
    return text if len(text) <= LABEL_CHARACTERS else text[: LABEL_CHARACTERS - 2] + ".."


def _escape(character: str) -> str:
    point = ord(character)
    return f"\\x{point:02x}" if point < 0x100 else f"\\u{point:x}"
