#!/usr/bin/env python3
"""Waits until a guest has said something: reads standard input until each pattern was found, one behind the other.

usage: heard.py SECONDS PATTERN...       exit code: 0 all were heard; 1 the input ended, or the time is up

Patterns are Python's regular expressions over bytes, for less than 4 KiB. No line needs an end: prompts have none.
"""

import os
import re
import select
import sys
import time

LONGEST = 4096


def main():
    end = time.monotonic() + float(sys.argv[1])
    heard = b""
    for pattern in sys.argv[2:]:
        expected = re.compile(os.fsencode(pattern))
        while not (found := expected.search(heard)):
            ready, _, _ = select.select([0], [], [], max(0, end - time.monotonic()))
            piece = os.read(0, 65536) if ready else b""
            if not piece:
                sys.exit(1)
            heard = heard[-LONGEST:] + piece
        heard = heard[found.end() :]


main()
