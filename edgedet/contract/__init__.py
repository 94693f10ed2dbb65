"""The ground everything stands on: what travels between the parts, and the one definition of each rule.

`errors` (every failure with a name), `spec` (what an artifact means), `results` (what a model says of a
frame), `boxes`, `preprocess`, `decode` and `postprocess` (frames to tensors and back), `files` (writing
whole files), `image_files` (reading images). Imports nothing else of edgedet, and no torch.
"""
