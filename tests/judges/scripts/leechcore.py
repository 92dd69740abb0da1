"""What LeechCore sees in a file. usage: leechcore.py FILE [ADDRESS...]

Prints where its physical memory is, and the page at each physical address, which must be a page's first."""

import json
import os
import sys

import leechcorepyc

device = leechcorepyc.LeechCore("file://" + os.path.abspath(sys.argv[1]))
seen = {
    "regions": [[region["base"], region["size"], region["offset"]] for region in device.memmap],
    "pages": [device.read(int(address, 16), 4096).hex() for address in sys.argv[2:]],
}
json.dump(seen, sys.stdout)
