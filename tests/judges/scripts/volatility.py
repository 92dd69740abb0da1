"""What volatility3 sees in a file. usage: volatility.py FILE [--banners] [ADDRESS...]

Prints its layers from the file up, where its physical memory is, the kernels' banners in it, and 4096 bytes at each physical
address."""

import json
import logging
import os
import sys

import volatility3.plugins
from volatility3 import framework
from volatility3.framework import automagic, contexts, plugins
from volatility3.plugins import banners

logging.disable(logging.CRITICAL)
path, words = os.path.abspath(sys.argv[1]), sys.argv[2:]
want_banners = words[:1] == ["--banners"]

framework.require_interface_version(2, 0, 0)
framework.import_files(volatility3.plugins, True)
context = contexts.Context()
context.config["automagic.LayerStacker.single_location"] = "file://" + path
chosen = automagic.choose_automagic(automagic.available(context), banners.Banners)
plugin = plugins.construct_plugin(context, chosen, banners.Banners, "plugins", None, None)

layer = context.layers[plugin.config["primary"]]
seen = {
    "layers": {name: type(context.layers[name]).__name__ for name in context.layers},
    "primary": type(layer).__name__,
    "maximum": layer.maximum_address,
    # Address here, length, offset in the layer below.
    "mapping": [[at, length, below] for at, length, below, _, _ in layer.mapping(0, layer.maximum_address + 1, ignore_errors=True)],
    "pages": [layer.read(int(address, 16), 4096, pad=False).hex() for address in words[want_banners:]],
    "banners": [],
}
if want_banners:
    seen["banners"] = [banner for _, banner in banners.Banners.locate_banners(context, layer.name)]
json.dump(seen, sys.stdout)
