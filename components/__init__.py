"""Kubeflow Pipelines components: one folder per stage, each a thin door to the library function of its name.

The image needs this package and kfp itself (`pip install --no-deps kfp`), nothing else of kfp's.
"""

import os

from tokenbuncher import __version__

IMAGE = os.environ.get("TOKENBUNCHER_IMAGE", f"tokenbuncher:{__version__}")
