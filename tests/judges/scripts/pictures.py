"""Whether picture files have the same pixels as the first; their dimensions."""

import json
import sys

from PIL import Image

pictures = [Image.open(name).convert("RGB") for name in sys.argv[1:]]
first = pictures[0]
same = all((it.size, it.tobytes()) == (first.size, first.tobytes()) for it in pictures)
print(json.dumps({"same": same, "sizes": [it.size for it in pictures]}))
