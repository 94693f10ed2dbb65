"""What a serialized TensorRT-for-RTX plan says of its own convolutions.

The plan holds the compiled program as text: `tensor={ ... name="..." ... type=int8 }` for tensors and
`corrltn={ name="<layer>_U7" output={...} input={"<data>" "<weight>" ...} ...` for convolutions,
`deconvolution={ ...` alike for transposed ones. Reading it needs no GPU and no deserialization, and is the
proof that INT8 was built as INT8: the builder turns it into float silently where a target lacks it.
"""

from __future__ import annotations

import re

_TENSOR = re.compile(r"tensor=\{ ((?:(?!tensor=\{).){0,900}?)type=(\w+) \}", re.DOTALL)
_NAME = re.compile(r'name="([^"]+)"')
_CONVOLUTION = re.compile(
    r'(?:corrltn|deconvolution)=\{ name="([^"]*)" output=\{(?: *"[^"]*")+ *\} input=\{ *"([^"]*)" *"([^"]*)"'
)
_UNIQUE = re.compile(r"_U\d+$")


def convolution_types(plan: bytes) -> dict[str, tuple[str, str]]:
    """{convolution: (type of its input, type of its weight)}, "?" where the plan does not say.

    Convolutions that the builder merged into another are absent.
    """
    text = plan.decode("latin1")
    types: dict[str, str] = {}
    for match in _TENSOR.finditer(text):
        name = _NAME.search(match.group(1))
        if name:
            types[name.group(1)] = match.group(2)

    def kind(tensor: str) -> str:
        # the program's variables are tensors with a counter behind their name
        candidates = (tensor, *(re.sub(p, "", tensor) for p in (r"\.\d+$", r"_\d+$", r"\.\d+_\d+$")))
        return next((types[c] for c in candidates if c in types), "?")

    return {
        _UNIQUE.sub("", m.group(1)): (kind(m.group(2)), kind(m.group(3))) for m in _CONVOLUTION.finditer(text)
    }
