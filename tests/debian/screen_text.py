#!/usr/bin/env python3
"""Prints the text in a picture of a frame buffer console: 8 by 16 cells in the font of VGA, as the display's ROM has it.

usage: screen_text.py PICTURE.png [ROM]
"""

import struct
import sys
import zlib

# Where the font is, this glyph tells: the A.
LETTER = bytes.fromhex("000010386cc6c6fec6c6c6c600000000")


def pixels(path):
    """Width, and each row as bytes, red first: what `dejavm screenshot` writes has eight bits a colour and no filters."""
    with open(path, "rb") as file:
        data = file.read()
    at, packed, width = 8, b"", 0
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width = struct.unpack(">I", body[:4])[0]
        elif kind == b"IDAT":
            packed += body
        at += length + 12
    plain = zlib.decompress(packed)
    size = 1 + 3 * width
    return width, [plain[row + 1 : row + size] for row in range(0, len(plain), size)]


def glyphs(path):
    """Characters by their sixteen rows."""
    with open(path, "rb") as file:
        rom = file.read()
    font = rom.index(LETTER) - 16 * ord("A")
    return {rom[font + 16 * code : font + 16 * (code + 1)]: chr(code) for code in range(32, 127)}


def main():
    picture, rom = (sys.argv[1:] + ["/usr/share/seabios/vgabios-stdvga.bin"])[:2]
    known = glyphs(rom)
    width, rows = pixels(picture)
    for top in range(0, len(rows) - 15, 16):
        line = ""
        for left in range(0, width - 7, 8):
            cell = bytes(
                sum(any(row[3 * (left + bit) :][:3]) << (7 - bit) for bit in range(8))
                for row in rows[top : top + 16]
            )
            line += known.get(cell, "?")
        if line.strip():
            print(line.rstrip())


main()
