"""Make what a sender writes fit to be kept and shown: in normal form, of a bounded length, without odd characters."""

import re
import unicodedata

# Control characters, halves of surrogate pairs, and marks that turn the direction of all that follows them.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029]")


def clean_line(value: str, most: int) -> str:
    """Return `value` as one clean line of at most `most` characters."""
    begin = value[: 10 * most]  # it may be as long as the body
    line = " ".join(_UNWANTED.sub("", begin).split())
    normal = unicodedata.normalize("NFC", line[:most])
    is_whole = len(begin) == len(value) and max(len(line), len(normal)) <= most
    return normal if is_whole else normal[: most - 1].rstrip() + "…"


def clean_paragraphs(value: str, most: int) -> str:
    """Return `value` as clean text of at most `most` characters that says how many are left out."""
    begin = value[: 4 * most]  # it may be as long as the body
    text = _UNWANTED.sub("", _LINE_ENDS.sub("\n", begin)).strip()
    # Only what may be kept is normalised: a long row of combining marks takes quadratic time.
    normal = unicodedata.normalize("NFC", text[:most])
    cut = len(value) - len(begin)
    if not cut and max(len(text), len(normal)) <= most:
        return normal
    kept = normal[: most - 40].rstrip()
    return f"{kept}… {len(text[most:]) + cut + len(normal) - len(kept):,} more characters"
