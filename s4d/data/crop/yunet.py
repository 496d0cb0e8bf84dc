"""The YuNet face detector through OpenCV, with a model file that the user has.

No model is shipped: `face_detection_yunet_2023mar.onnx` (MIT licence, 232,589 bytes) is in OpenCV's model zoo.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s4d.data.crop.faces import Face
from s4d.data.pillow_memory import packed
from s4d.errors import DataError, UsageError

# SHA-256 of the file as the model zoo has it.
KNOWN_MODELS = {"8f2383e4dd3cfbb4553ea8718107fc0423210dc964f9f4280604804ed2552fa4": "face_detection_yunet_2023mar.onnx"}
POINTER = b"version https://git-lfs"

# Longer sides are shrunk to this before detection: the network finds faces of about 10 to 300 pixels.
DETECT_SIDE = 640
SCORE, OVERLAP, MOST = 0.6, 0.3, 100


def load_yunet(model: Path, sha256: str | None = None) -> YunetDetector:
    """The detector of a model file that is the known one, or has the SHA-256 given; DataError for any other file.

    UsageError where OpenCV is not installed.
    """
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise UsageError("backend yunet needs OpenCV: pip install opencv-python-headless (extra `face`)") from error
    try:
        content = model.read_bytes()
    except OSError as error:
        raise DataError(f"{model}: cannot read the detector's model: {error.strerror or error}") from error
    if content.startswith(POINTER):
        raise DataError(f"{model}: a Git LFS pointer, not the model itself (fetch the file with `git lfs pull`)")
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest != sha256.lower():
        raise DataError(f"{model}: SHA-256 is {digest}, expected {sha256.lower()}")
    if sha256 is None and digest not in KNOWN_MODELS:
        raise DataError(
            f"{model}: not {' or '.join(KNOWN_MODELS.values())} (SHA-256 {digest}); "
            f"a file of another version is taken with --model-sha256"
        )
    detector = YunetDetector(str(model), digest)
    try:
        detector.detect(np.zeros((64, 64, 3), np.uint8))
    except DataError as error:
        _network.cache_clear()
        raise DataError(f"{model}: not a YuNet model: {error}") from error
    return detector


@dataclass(frozen=True, slots=True)
class YunetDetector:
    """YuNet with the model file at `path`; every process loads its own network."""

    path: str
    digest: str

    @property
    def origin(self) -> str:
        """Detector, OpenCV's version and the model's checksum."""
        import cv2

        return f"yunet, OpenCV {cv2.__version__}, model {self.digest}"

    def detect(self, frame: NDArray[np.uint8]) -> list[Face]:
        """Faces of an RGB frame (H, W, 3), in its pixels."""
        import cv2

        height, width = frame.shape[:2]
        scale = min(1.0, DETECT_SIDE / max(height, width))
        picture = cv2.cvtColor(np.ascontiguousarray(packed(frame)), cv2.COLOR_RGB2BGR)
        if scale < 1.0:
            size = (max(round(width * scale), 1), max(round(height * scale), 1))
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        try:
            network = _network(self.path)
            network.setInputSize((picture.shape[1], picture.shape[0]))
            _, rows = network.detect(picture)
        except cv2.error as error:
            raise DataError(f"OpenCV: {' '.join((error.err or str(error)).split())}") from error
        if rows is None:
            return []
        back = (width / picture.shape[1], height / picture.shape[0])
        return [_face(row, back) for row in np.asarray(rows, np.float64)]


def _face(row: NDArray[np.float64], back: tuple[float, float]) -> Face:
    """A row of 15: left, top, width, height, five points, score."""
    fx, fy = back
    left, top, width, height = row[:4]
    points = row[4:14].reshape(5, 2) * back
    return Face(
        box=(float(left * fx), float(top * fy), float((left + width) * fx), float((top + height) * fy)),
        points=tuple(float(value) for value in points.ravel()),
    )


@lru_cache(maxsize=1)
def _network(path: str) -> Any:
    import cv2

    # Crops are made in several processes; OpenCV's own threads would only get in their way.
    cv2.setNumThreads(1)
    model, no_config = np.frombuffer(Path(path).read_bytes(), np.uint8), np.empty(0, np.uint8)
    size = (DETECT_SIDE, DETECT_SIDE)
    return cv2.FaceDetectorYN.create("onnx", model, no_config, size, SCORE, OVERLAP, MOST)
