"""Kubeflow Pipelines components: one folder per stage, each a thin door to the library function of its name.

An image needs this package and kfp itself (`pip install --no-deps kfp`), nothing else of kfp's. Stages that load a
model run in the trainer's image, all others in the gate's, which has no torch.
"""

import os

from tokenbuncher.core.version import __version__

TRAINER_IMAGE = os.environ.get("TOKENBUNCHER_TRAINER_IMAGE", f"tokenbuncher/trainer:{__version__}")
GATE_IMAGE = os.environ.get("TOKENBUNCHER_GATE_IMAGE", f"tokenbuncher/gate:{__version__}")
