"""The printable alphabet in which byte-level BPE vocabularies spell bytes (introduced by GPT-2).

Printable Latin-1 characters stand for their own byte; the others are numbered from U+0100 on in order.
"""

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(0x100) if byte not in _PRINTABLE)

BYTE_OF_CHAR: dict[str, int] = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + rank): byte for rank, byte in enumerate(_OTHERS)
}
