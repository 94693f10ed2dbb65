"""OpenCV and FFmpeg keep quiet: failures reach the user once, as edgedet's own words."""

from __future__ import annotations

import os


def silence_opencv() -> None:
    """Call before the first use of OpenCV's video functions; later calls change nothing.

    A user who sets OPENCV_LOG_LEVEL or OPENCV_FFMPEG_LOGLEVEL keeps them.
    """
    os.environ.setdefault(
        "OPENCV_FFMPEG_LOGLEVEL", "-8"
    )  # AV_LOG_QUIET; read once, when FFmpeg is first used
    if "OPENCV_LOG_LEVEL" not in os.environ:
        import cv2

        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
