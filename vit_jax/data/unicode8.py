"""Categories of characters as Unicode 8 had them (2015), in whatever version of Python.

BERT's tokens were made with tables of that time, and the `tokenizers` library has kept them: a mark or a sign of
punctuation that came later is an ordinary character there. Compared with it character by character; regenerate with
tests/parity/test_tokenizers.py, which says where the two differ.
"""

import bisect
import unicodedata

# Where no letter, mark or sign of Unicode 8 but letters and "other symbols" stand: what is there now came later. Each
# reaches as far as it can, since Unicode goes on growing.
_LATER = (
    (0x61D, 0x61D),
    (0x7FA, 0x815),
    (0x85F, 0x8E2),
    (0x9E4, 0xA00),
    (0xA76, 0xA80),
    (0xAF1, 0xB00),
    (0xB4E, 0xB55),
    (0xC01, 0xC3D),
    (0xC64, 0xC80),
    (0xC82, 0xCBB),
    (0xCE4, 0xD00),
    (0xD02, 0xD40),
    (0xD64, 0xDC9),
    (0xEBA, 0xEBA),
    (0x180F, 0x18A8),
    (0x1ABE, 0x1AFF),
    (0x1B74, 0x1B7F),
    (0x1DF6, 0x1DFB),
    (0x2E43, 0x2FFF),
    (0xA827, 0xA873),
    (0xA8C5, 0xA8CD),
    (0xA8FD, 0xA925),
    (0xA9BD, 0xA9C0),
    (0x10B9D, 0x11000),
    (0x1104E, 0x1107E),
    (0x110C2, 0x110FF),
    (0x111CE, 0x111DA),
    (0x1123E, 0x112A8),
    (0x11302, 0x1133B),
    (0x11375, 0x114B2),
    (0x11644, 0x116AA),
    (0x116B8, 0x1171C),
    (0x1173F, 0x1246F),
    (0x12475, 0x16A6D),
    (0x16B45, 0x16F8E),
    (0x16F93, 0x1BC9C),
    (0x1BCA4, 0x1D166),
    (0x1DAB0, 0x1E8CF),
    (0x1E8D7, 0x1FFFF),
)
_CHANGED = {0x166D: "Po", 0x1734: "Mn", 0x111C9: "Po"}


def category(character: str) -> str:
    """The general category, such as "Mn"; "Lo" for whatever mark, sign or control Unicode 8 did not have."""
    code = ord(character)
    if code in _CHANGED:
        return _CHANGED[code]
    at = bisect.bisect(_LATER, (code, 0x110000)) - 1
    return "Lo" if at >= 0 and code <= _LATER[at][1] else unicodedata.category(character)
