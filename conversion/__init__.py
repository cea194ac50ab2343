"""What this repository converts by itself: `python -m conversion --help`. The code is `wavtokenizer_hf.conversion`."""

import importlib
import pkgutil
import sys

from wavtokenizer_hf import conversion

# The modules of the package go by their names here, too.
for _module in pkgutil.iter_modules(conversion.__path__):
    sys.modules[f"{__name__}.{_module.name}"] = importlib.import_module(f"{conversion.__name__}.{_module.name}")
