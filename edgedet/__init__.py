"""edgedet: the lecture's detection and segmentation models, from PyTorch training to an INT8 camera stream.

Importing this package loads nothing else. `edgedet.runtime` runs models (no torch), `edgedet.calib` and
`edgedet.export` make what it runs, `edgedet.models` and `edgedet.training` make what they export.
"""

import os

# ONNX Runtime from 1.29 on reports to its maker, with an id of the machine kept under HOME, from the moment
# it is imported; this switches it off if it is set before. It is set here because other libraries (onnxsim)
# import it too.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

__version__ = "0.1.0"
