"""The `data.yaml` of YOLO data sets: class names and where the splits are. Read as data, never run."""

from __future__ import annotations

from pathlib import Path

from edgedet.contract.errors import AnnotationError, MissingDependency


def read_yaml(file: Path) -> dict[str, list[str]]:
    """{"names": class names, "path": [folder], "train": folders or lists, ...}: every key with texts.

    Raises:
        AnnotationError: the file cannot be read, is no YAML mapping, or its `names` are not one name per
            number from 0 on. MissingDependency: PyYAML is not installed.
    """
    try:
        import yaml  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise MissingDependency("PyYAML", extra="train", purpose=f"Reading {file.name}") from None
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise AnnotationError(file, 0, f"cannot be read: {e}") from None
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        reason = f"is not YAML: {getattr(e, 'problem', e)}"
        raise AnnotationError(file, mark.line + 1 if mark else 0, reason) from None
    if not isinstance(raw, dict):
        raise AnnotationError(file, 0, "is not a data set description: expected `names:` and `train:`")
    found = {str(key): _texts(value) for key, value in raw.items() if key != "names"}
    if "names" in raw:
        found["names"] = _names(file, raw["names"])
    return found


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _names(file: Path, raw: object) -> list[str]:
    """A list of names, or a mapping from 0, 1, ... to names."""
    names: list[object] = []
    if isinstance(raw, list):
        names = raw
    elif isinstance(raw, dict) and set(raw) == set(range(len(raw))):
        names = [raw[k] for k in range(len(raw))]
    texts = [str(n) for n in names if isinstance(n, (str, int))]  # a class may be called 7
    if not texts or len(texts) != len(names) or len(set(texts)) != len(texts):
        raise AnnotationError(file, 0, f"`names` is {raw!r}, expected different names, numbered from 0")
    return texts
