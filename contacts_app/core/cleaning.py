"""Clean text from outside: Unicode normal form C, bounded length, no control or direction characters."""

import re
import unicodedata

# Control characters, lone surrogates, and marks that change the text direction of everything after them.
_UNWANTED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
_LINE_ENDS = re.compile("\r\n?|[\u2028\u2029]")


def clean_line(value: str, most: int) -> str:
    """Return `value` as one clean line of at most `most` characters."""
    begin = value[: 10 * most]  # bounds the work: the value may be as long as a request body
    line = " ".join(_UNWANTED.sub("", begin).split())
    normal = unicodedata.normalize("NFC", line[:most])
    is_whole = len(begin) == len(value) and max(len(line), len(normal)) <= most
    return normal if is_whole else normal[: most - 1].rstrip() + "…"


def clean_paragraphs(value: str, most: int) -> str:
    """Return `value` as clean text of at most `most` characters; if it is cut, its end says how many are missing."""
    begin = value[: 4 * most]  # bounds the work: the value may be as long as a request body
    text = _UNWANTED.sub("", _LINE_ENDS.sub("\n", begin)).strip()
    # Cut before normalising, which takes quadratic time in the number of combining marks.
    normal = unicodedata.normalize("NFC", text[:most])
    cut = len(value) - len(begin)
    if not cut and max(len(text), len(normal)) <= most:
        return normal
    head = normal[: most - 40].rstrip()
    return f"{head}… {len(text[most:]) + cut + len(normal) - len(head):,} more characters"
