"""edgedet: the lecture's detection and segmentation models, from PyTorch training to an INT8 camera stream.

Importing this package loads nothing else. `edgedet.runtime` runs models (no torch), `edgedet.calib` and
`edgedet.export` make what it runs, `edgedet.models` and `edgedet.training` make what they export.
"""

__version__ = "0.1.0"
